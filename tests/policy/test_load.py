from __future__ import annotations

import os
import shutil

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.policy.load import PolicyError, load

CONNECTION = "{provider: openai, secret: {env: OPENAI_API_KEY}}"


def errors_of(load_it):
    with pytest.raises(PolicyError) as caught:
        load_it()
    return [problem for problem in caught.value.problems if problem.severity == "error"]


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text("version: 1\n" + text)


def test_whole_policy_is_resolved_and_defaults_are_filled_in(load_text):
    loaded = load_text(
        """
        mode: report
        gateway:
          url: https://Gateway.Example/llm/
          kind: litellm
          providers: [anthropic]
        connections:
          team:
            provider: anthropic
            secret: {env: ANTHROPIC_API_KEY, max_age_seconds: 60}
          bot: {provider: github, secret: {file: /run/secrets/github-token}}
          mirror:
            provider: npm-registry
            hosts: [npm.corp.example]
            secret: {file: npm-token}
            inject: always
          search:
            hosts: [search.corp.example]
            carriers: [{header: X-Search-Key}]
            secret: {file: /run/secrets/search-key}
            placeholder: search-placeholder-000000000
            allow_foreign_credentials: true
          local: {hosts: [models.local.example], auth: {type: none}}
        allow:
          - {name: claude, connection: team}
          - {name: repos, connection: bot, hosts: [api.github.com], methods: [GET]}
          - {name: npm, connection: mirror, ports: [8443]}
          - {name: find, connection: search, schemes: [http, https], allow_plaintext: true}
          - {name: local, connection: local, paths: [/v1/**]}
        deny:
          - {name: no-deletes, methods: [DELETE]}
        upstream:
          connect_to: {"search.corp.example:443": "127.0.0.1:9443"}
          allow_addresses: [10.20.0.0/16, "::1"]
        limits: {max_request_body_bytes: 1000000, idle_timeout_seconds: 5}
        """
    )
    policy = loaded.policy
    assert loaded.warnings == ()
    assert policy.mode == "report"
    assert policy.gateway.host == "gateway.example"
    assert (policy.gateway.scheme, policy.gateway.port) == ("https", 443)
    assert policy.gateway.path_prefix == "/llm"
    assert policy.gateway.providers == {"anthropic"}
    team, bot = policy.connections["team"], policy.connections["bot"]
    assert team.via_gateway
    assert not bot.via_gateway
    assert (team.secret.source, team.secret.locator) == ("env", "ANTHROPIC_API_KEY")
    assert team.secret.max_age_seconds == 60
    assert bot.secret.label == "github-token"
    assert team.credential_headers == {"x-api-key", "authorization"}
    mirror = policy.connections["mirror"]
    assert mirror.secret.locator == str(loaded.files[0].parent / "npm-token")
    assert mirror.inject_always
    search = policy.connections["search"]
    assert search.credential_headers == {"x-search-key"}
    assert search.placeholder == "search-placeholder-000000000"
    assert search.allow_foreign_credentials
    local = policy.connections["local"]
    assert local.secret is None
    assert [carrier.kind for carrier in local.carriers] == ["bearer"]
    rules = [(rule.name, rule.ports, rule.schemes) for rule in policy.allow]
    assert rules == [
        ("claude", {443}, {"https"}),
        ("claude", {443}, {"https"}),
        ("repos", {443}, {"https"}),
        ("npm", {8443}, {"https"}),
        ("find", {443}, {"https"}),
        ("find", {80}, {"http"}),
        ("local", {443}, {"https"}),
    ]
    assert [rule.at_gateway for rule in policy.allow][:2] == [False, True]
    assert policy.deny[0].hosts is None
    assert policy.upstream.connect_to == {("search.corp.example", 443): ("127.0.0.1", 9443)}
    assert [str(network) for network in policy.upstream.allow_addresses] == [
        "10.20.0.0/16",
        "::1/128",
    ]
    assert policy.limits.max_request_body_bytes == 1000000
    assert policy.limits.idle_timeout_seconds == 5
    assert policy.limits.max_header_bytes == 65536


def test_query_of_an_optional_carrier_counts_as_a_credential_even_where_it_is_not_accepted(
    load_text,
):
    policy = load_text("connections: {g: {provider: gemini, secret: {env: G}}}\n").policy
    assert [carrier.kind for carrier in policy.connections["g"].carriers] == ["header"]
    assert policy.connections["g"].credential_queries == {"key"}


# Each row: the policy after `version: 1`, the field that is blamed, its line, part of the message.
BAD = [
    ("mode: enforc", "mode", 2, "expected 'enforce' or 'report', found 'enforc'. Did you mean"),
    ("modes: enforce", "modes", 2, "there is no field 'modes' here. Did you mean 'mode'?"),
    ("version: 1", "version", 2, "stands here twice, first in line 1"),
    ("allow: []", "allow", 2, "an empty list never means all"),
    ("allow:", "allow", 2, "the field is empty"),
    ("deny: []", "deny", 2, "an empty list"),
    ("connections:", "connections", 2, "expected a mapping, found nothing"),
    ("allow: [{name: a, hosts: []}]", "allow[0].hosts", 2, "an empty list"),
    ("allow: [{name: a, hosts: [a.b], paths: []}]", "allow[0].paths", 2, "an empty list"),
    ("allow: [{name: a, hosts: [a.b], paths: }]", "allow[0].paths", 2, "the field is empty"),
    ("allow: [{name: a, hosts: [a.b], ports: }]", "allow[0].ports", 2, "the field is empty"),
    ("allow: [{hosts: [a.b]}]", "allow[0].name", 2, "this field is missing"),
    ("allow: [{name: a}]", "allow[0]", 2, "needs a connection or hosts"),
    ("allow: [{name: 'a b', hosts: [a.b]}]", "allow[0].name", 2, "is not a name"),
    ("allow: [{name: on, hosts: [a.b]}]", "allow[0].name", 2, "the boolean 'on': put it in quotes"),
    ("allow: [{name: a, hosts: a.b}]", "allow[0].hosts", 2, "found 'a.b': write [a.b]"),
    ("allow: [{name: a, hosts: ['*']}]", "allow[0].hosts[0]", 2, "a pattern is a whole name"),
    ("allow: [{name: a, hosts: ['*.co.uk']}]", "allow[0].hosts[0]", 2, "public suffix 'co.uk'"),
    ("allow: [{name: a, hosts: [a.b, no]}]", "allow[0].hosts[1]", 2, "the boolean 'no'"),
    ("allow: [{name: a, hosts: [a.b], ports: [0]}]", "allow[0].ports[0]", 2, "greater than"),
    ("allow: [{name: a, hosts: [a.b], ports: ['443']}]", "allow[0].ports[0]", 2, "a whole number"),
    ("allow: [{name: a, hosts: [a.b], ports: [yes]}]", "allow[0].ports[0]", 2, "the boolean 'yes'"),
    ("allow: [{name: a, hosts: [a.b], methods: [get]}]", "allow[0].methods[0]", 2, "'GET'?"),
    ("allow: [{name: a, hosts: [a.b], methods: [TRACE]}]", "allow[0].methods[0]", 2, "never"),
    ("allow: [{name: a, hosts: [a.b], methods: [connect]}]", "allow[0].methods[0]", 2, "never"),
    ("allow: [{name: a, hosts: [a.b], paths: [v1]}]", "allow[0].paths[0]", 2, "starts with /"),
    ("allow: [{name: a, hosts: [a.b], path: [/v1]}]", "allow[0].path", 2, "Did you mean 'paths'?"),
    ("allow: [{name: a, hosts: [a.b], schemes: [htps]}]", "allow[0].schemes[0]", 2, "'https'"),
    (
        "allow: [{name: a, hosts: [a.b], websocket: 1}]",
        "allow[0].websocket",
        2,
        "true or false",
    ),
    (
        "allow: [{name: a, hosts: [a.b], websocket: true, methods: [POST]}]",
        "allow[0].websocket",
        2,
        "begins with GET",
    ),
    (
        "allow: [{name: a, hosts: [a.b], websocket: true, schemes: [http, https]}]",
        "allow[0].websocket",
        2,
        "over https only",
    ),
    ("deny: [{name: a, websocket: true}]", "deny[0].websocket", 2, "there is no field"),
    ("allow: [{name: a, connection: nope}]", "allow[0].connection", 2, "no connection 'nope'"),
    ("deny: [{name: a}]", "deny[0]", 2, "this denies everything"),
    ("deny: [{name: a, connection: b}]", "deny[0].connection", 2, "there is no field"),
    ("connections: {c: {secret: {env: A}}}", "connections.c", 2, "needs a provider"),
    (
        "connections: {c: {provider: opnai, secret: {env: A}}}",
        "connections.c.provider",
        2,
        "'openai'",
    ),
    ("connections: {c: {provider: npm-registry, secret: {env: A}}}", "connections.c", 2, "hosts"),
    ("connections: {c: {hosts: [a.b], secret: {env: A}}}", "connections.c", 2, "need carriers"),
    ("connections: {c: {provider: openai}}", "connections.c", 2, "needs a secret, or auth"),
    (
        "connections: {c: {provider: openai, secret: {env: A, file: /b}}}",
        "connections.c.secret",
        2,
        "exactly one source",
    ),
    ("connections: {c: {provider: openai, secret: {}}}", "connections.c.secret", 2, "exactly one"),
    (
        "connections: {c: {provider: openai, secret: {vault: x}}}",
        "connections.c.secret.vault",
        2,
        "Valid: env, file, max_age_seconds.",
    ),
    (
        "connections: {c: {provider: openai, auth: {type: none}, secret: {env: A}}}",
        "connections.c.secret",
        2,
        "keep one of the two",
    ),
    (
        "connections: {c: {provider: openai, auth: {type: none}, inject: always}}",
        "connections.c.inject",
        2,
        "no credential",
    ),
    (
        "connections: {c: {provider: openai, secret: {env: A}, placeholder: short}}",
        "connections.c.placeholder",
        2,
        "at least 24 characters",
    ),
    (
        (
            "connections: {c: {provider: openai, secret: {env: A}, "
            "placeholder: '0123456789/0123456789+0='}}"
        ),
        "connections.c.placeholder",
        2,
        "letters, digits and",
    ),
    (
        "connections: {c: {hosts: [a.b], carriers: [{cookie: x}], secret: {env: A}}}",
        "connections.c.carriers[0]",
        2,
        "exactly one of bearer, basic, header and query",
    ),
    ("gateway: {url: 'ftp://x'}", "gateway.url", 2, "expected https://host"),
    ("gateway: {url: 'https://u:p@x'}", "gateway.url", 2, "without userinfo"),
    ("gateway: {url: 'https://x?y'}", "gateway.url", 2, "query"),
    ("gateway: {url: 'https://x/a%2fb'}", "gateway.url", 2, "more than one way"),
    ("gateway: {url: 'https://x/../b'}", "gateway.url", 2, "dot segment"),
    ("gateway: {url: 'https://127.1'}", "gateway.url", 2, "dotted quad"),
    ("gateway: {url: 'https://*.x.y'}", "gateway.url", 2, "the host cannot be used"),
    ("gateway: {url: 'http://litellm:4000'}", "gateway.url", 2, "allow_plaintext"),
    ("gateway: {url: 'https://x', kind: litelm}", "gateway.kind", 2, "Did you mean 'litellm'?"),
    ("gateway: {url: 'https://x', kind: cloudflare}", "gateway.settings", 2, "account"),
    ("gateway: {url: 'https://x', settings: {a: b}}", "gateway.settings.a", 2, "no setting"),
    ("gateway: {url: 'https://x', providers: [github]}", "gateway.providers[0]", 2, "no model"),
    ("gateway: {url: 'https://x', providers: []}", "gateway.providers", 2, "an empty list"),
    ("gateway: {url: 'https://x', headers: {Host: y}}", "gateway.headers.Host", 2, "can be set"),
    ("gateway: {kind: litellm}", "gateway.url", 2, "missing"),
    ("upstream: {connect_to: {a: 'b:1'}}", "upstream.connect_to.a", 2, "not host:port"),
    ("upstream: {connect_to: {'a:1': 'b'}}", "upstream.connect_to.a:1", 2, "not host:port"),
    (
        "upstream: {allow_addresses: [10.0.0.1/8]}",
        "upstream.allow_addresses[0]",
        2,
        "Did you mean '10.0.0.0/8'?",
    ),
    ("upstream: {ca_file: nowhere.pem}", "upstream.ca_file", 2, "No such file"),
    ("limits: {idle_timeout_seconds: 0}", "limits.idle_timeout_seconds", 2, "greater than 0"),
    ("limits: {idle_timeout_seconds: .inf}", "limits.idle_timeout_seconds", 2, "finite"),
    ("limits: {max_header_bytes: 64k}", "limits.max_header_bytes", 2, "found '64k'"),
    ("limits: {max_header_size: 1}", "limits.max_header_size", 2, "Did you mean 'max_header"),
]


@pytest.mark.parametrize(("text", "field", "line", "message"), BAD)
def test_error_points_at_field_and_line_and_says_what_to_do(load_text, text, field, line, message):
    (problem,) = errors_of(lambda: load_text(text + "\n"))
    assert (problem.field, problem.line) == (field, line)
    assert message in problem.message
    assert problem.file.endswith("policy.yaml")


def test_rule_is_not_blamed_for_a_connection_that_could_not_be_read(load_text):
    rule = "allow: [{name: a, connection: c}]\n"
    assert len(errors_of(lambda: load_text("connections: x\n" + rule))) == 1
    assert len(errors_of(lambda: load_text("connections: {c: {secret: {env: A}}}\n" + rule))) == 1
    assert len(errors_of(lambda: load_text(rule + "connections: {c: [\n"))) == 1


def test_all_errors_are_told_at_once_in_the_order_of_their_lines(load_text):
    text = (
        "mod: enforce\nconnections:\n  a: {provider: opnai, secret: {env: A}}\n"
        "allow:\n  - {name: a, connection: a}\n  - {name: a, connection: b}\n"
        "  - {name: c, hosts: ['*']}\nlimits: {x: 1}\n"
    )
    assert [(each.line, each.field) for each in errors_of(lambda: load_text(text))] == [
        (2, "mod"),
        (4, "connections.a.provider"),
        (7, "allow[1].connection"),
        (7, "allow[1]"),
        (8, "allow[2].hosts[0]"),
        (9, "limits.x"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "connections: {c: {provider: openai, secret: sk-proj-REALKEY}}",
        "connections: {c: {provider: openai, secret: {env: sk-proj-REALKEY}}}",
        "connections: {c: {provider: openai, secret: {value: sk-proj-REALKEY}}}",
        "connections: {c: {provider: openai, secret: [sk-proj-REALKEY]}}",
        "connections: {c: {provider: openai, secret: {env: A, max_age_seconds: sk-proj-REALKEY}}}",
        "connections: {c: {provider: openai, secret: {env: A}, placeholder: sk-proj-REALKEY}}",
        "connections: {c: {provider: openai, key: sk-proj-REALKEY}}",
        "gateway: {url: 'https://user:sk-proj-REALKEY@host'}",
        "gateway: {url: 'https://host', headers: {x-key: \"sk-proj-REALKEY\\n\"}}",
        "gateway: {url: 'https://host', key: sk-proj-REALKEY}",
        "sk-proj-REALKEY",
    ],
)
def test_pasted_secret_is_not_repeated_by_the_error(load_text, text):
    with pytest.raises(PolicyError) as caught:
        load_text(text + "\n")
    assert "REALKEY" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "[]\n", "hello\n", "42\n"])
def test_file_that_is_no_policy_is_an_error(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    (problem,) = errors_of(lambda: load(path, {}))
    assert "expected a policy that begins with version: 1" in problem.message


@pytest.mark.parametrize("version", ["", "version: 2\n", "version: '1'\n", "version: true\n"])
def test_version_must_be_one(tmp_path, version):
    path = tmp_path / "policy.yaml"
    path.write_text(version + "mode: enforce\n")
    (problem,) = errors_of(lambda: load(path, {}))
    assert problem.field == "version"


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, lambda path: path.mkdir()])
def test_path_that_holds_no_policy_is_an_error(tmp_path, make):
    path = tmp_path / "policy"
    make(path)
    (problem,) = errors_of(lambda: load(path, {}))
    assert problem.file == str(path)


def test_file_over_one_mebibyte_is_an_error(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"version: 1\n" + b"#" * (1 << 20))
    (problem,) = errors_of(lambda: load(path, {}))
    assert "larger than 1048576 bytes" in problem.message
    write(tmp_path, small=f"upstream: {{ca_file: {path}}}")
    (problem,) = errors_of(lambda: load(tmp_path / "small.yaml", {}))
    assert "larger than 1048576 bytes" in problem.message


def test_unreadable_link_is_an_error(tmp_path):
    (tmp_path / "policy.yaml").symlink_to("policy.yaml")
    assert errors_of(lambda: load(tmp_path / "policy.yaml", {}))
    assert errors_of(lambda: load(tmp_path, {}))


def test_plain_http_needs_a_word_beside_it_where_a_connection_is(load_text):
    connections = f"connections: {{c: {CONNECTION}}}\n"
    rule = "allow: [{name: a, connection: c, schemes: [http]%s}]\n"
    (problem,) = errors_of(lambda: load_text(connections + rule % ""))
    assert "allow_plaintext: true" in problem.message
    policy = load_text(connections + rule % ", allow_plaintext: true").policy
    assert [(rule.ports, rule.schemes) for rule in policy.allow] == [({80}, {"http"})]
    policy = load_text("allow: [{name: a, hosts: [a.b], schemes: [http], ports: [8080]}]\n").policy
    assert [(rule.ports, rule.schemes) for rule in policy.allow] == [({8080}, {"http"})]


def test_rule_hosts_must_be_hosts_of_its_connection(load_text):
    text = (
        "connections: {c: {hosts: ['*.a.example'], carriers: [{bearer: true}], secret: {env: A}}}\n"
        "allow: [{name: a, connection: c, hosts: [%s]}]\n"
    )
    assert (
        load_text(text % "b.a.example, '*.c.a.example'")
        .policy.allow[0]
        .hosts[0]
        .matches("b.a.example")
    )
    for bad in ("a.example", "'*.example.com'", "evil.example"):
        (problem,) = errors_of(lambda bad=bad: load_text(text % bad))
        assert problem.field == "allow[0].hosts[0]"


@pytest.mark.parametrize("other", ["p" * 24, "x" + "p" * 24, "p" * 30])
def test_placeholders_of_two_connections_may_not_overlap(load_text, other):
    text = "connections:\n"
    for name, placeholder in (("one", "p" * 24), ("two", other)):
        text += f"  {name}: {{provider: openai, secret: {{env: A}}, placeholder: {placeholder}}}\n"
    (problem,) = errors_of(lambda: load_text(text))
    assert problem.field == "connections.two.placeholder"
    assert "overlaps" in problem.message


def test_folder_is_merged_in_name_order(tmp_path):
    write(tmp_path, b="allow: [{name: second, connection: c}]", a="mode: report")
    write(tmp_path, c=f"connections: {{c: {CONNECTION}}}\nallow: [{{name: third, hosts: [x.y]}}]")
    (tmp_path / ".hidden.yaml").write_text("broken: [")
    (tmp_path / "..data").mkdir()
    (tmp_path / "notes.txt").write_text("not a policy")
    loaded = load(tmp_path, {})
    assert [rule.name for rule in loaded.policy.allow] == ["second", "third"]
    assert loaded.policy.mode == "report"
    assert [file.name for file in loaded.files] == ["a.yaml", "b.yaml", "c.yaml"]


def test_file_of_another_ending_in_the_folder_is_a_warning(tmp_path):
    write(tmp_path, a="mode: enforce")
    (tmp_path / "deny.yml").write_text("version: 1\n")
    (problem,) = load(tmp_path, {}).warnings
    assert problem.file.endswith("deny.yml")


def test_mounted_config_map_is_read_through_its_links(tmp_path):
    version = tmp_path / "..2026_01_01"
    version.mkdir()
    write(version, policy="allow: [{name: a, hosts: [x.y]}]")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    before = load(tmp_path, {}).policy
    newer = tmp_path / "..2026_01_02"
    newer.mkdir()
    write(newer, policy="allow: [{name: b, hosts: [x.y]}]")
    (tmp_path / "..new").symlink_to(newer.name)
    (tmp_path / "..new").rename(tmp_path / "..data")
    shutil.rmtree(version)
    after = load(tmp_path, {}).policy
    assert [rule.name for rule in after.allow] == ["b"]
    assert after.digest != before.digest


def test_files_that_change_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    write(tmp_path, a="allow: [{name: a, hosts: [old.example]}]", b="mode: enforce")
    real, changed = load.__globals__["_read_bounded"], []

    def read_and_change(path):
        data = real(path)
        if path.name == "b.yaml" and not changed:
            changed.append(path)
            write(tmp_path, a="allow: [{name: a, hosts: [newer.example]}]")
        return data

    monkeypatch.setitem(load.__globals__, "_read_bounded", read_and_change)
    policy = load(tmp_path, {}).policy
    assert policy.allow[0].hosts[0].text == "newer.example"


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ("allow: [{name: a, hosts: [x.y]}]", "allow: [{name: a, hosts: [x.y]}]", "allow[0]"),
        ("allow: [{name: a, hosts: [x.y]}]", "deny: [{name: a, hosts: [x.y]}]", "allow[0]"),
        ("deny: [{name: a, hosts: [x.y]}]", "deny: [{name: a, ports: [1]}]", "deny[0]"),
        (f"connections: {{c: {CONNECTION}}}", f"connections: {{c: {CONNECTION}}}", "connections.c"),
        ("mode: enforce", "mode: enforce", "mode"),
        ("limits: {max_connections: 1}", "limits: {max_connections: 1}", "limits"),
        ("upstream: {connect_to: {}}", "upstream: {connect_to: {}}", "upstream"),
        ("gateway: {url: 'https://x.y'}", "gateway: {url: 'https://x.y'}", "gateway"),
    ],
)
def test_what_two_files_define_is_an_error_that_names_both_places(tmp_path, one, other, field):
    write(tmp_path, one=one, two=other)
    (problem,) = errors_of(lambda: load(tmp_path, {}))
    assert problem.field == field
    assert {"one.yaml", "two.yaml"} == {
        name for name in ("one.yaml", "two.yaml") if name in problem.file + problem.message
    }
    assert "line 2" in problem.message


def test_each_file_of_a_folder_needs_its_version(tmp_path):
    write(tmp_path, a="mode: enforce")
    (tmp_path / "b.yaml").write_text("limits: {max_connections: 5}\n")
    (problem,) = errors_of(lambda: load(tmp_path, {}))
    assert (problem.file, problem.field) == (str(tmp_path / "b.yaml"), "version")


def test_digest_follows_every_input(tmp_path):
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    write(tmp_path, a="upstream: {ca_file: ca.pem}\nallow: [{name: a, hosts: [x.y]}]")
    first = load(tmp_path, {})
    assert ca in first.others
    assert first.policy.digest == load(tmp_path, {"OTHER": "x"}).policy.digest
    assert first.policy.digest.startswith("sha256:")
    seen = {first.policy.digest}
    seen.add(load(tmp_path, {"UNDERSTUDY_LLM_GATEWAY_URL": "https://g"}).policy.digest)
    seen.add(load(tmp_path, {"UNDERSTUDY_LLM_GATEWAY_URL": "https://h"}).policy.digest)
    trustme.CA().cert_pem.write_to_path(str(ca))
    seen.add(load(tmp_path, {}).policy.digest)
    write(tmp_path, a="allow: [{name: a, hosts: [x.y]}]")
    seen.add(load(tmp_path, {}).policy.digest)
    assert len(seen) == 5


def test_ca_file_gives_its_certificates_and_nothing_else(tmp_path):
    ca = trustme.CA()
    path = tmp_path / "ca.pem"
    pem = ca.cert_pem.bytes().decode()
    path.write_text("a comment\n" + pem + "another\n")
    write(tmp_path, a=f"upstream: {{ca_file: {path}}}")
    assert load(tmp_path, {}).policy.upstream.ca_pem.split() == pem.split()
    for bad in ("", "hello", pem + ca.private_key_pem.bytes().decode()):
        path.write_text(bad)
        (problem,) = errors_of(lambda: load(tmp_path, {}))
        assert problem.field == "upstream.ca_file"


LLM = """
connections:
  openai: {provider: openai, secret: {env: A}}
  claude: {provider: anthropic, secret: {env: B}}
  forge: {provider: github, secret: {env: C}}
allow:
  - {name: a, connection: openai}
  - {name: b, connection: claude}
  - {name: c, connection: forge}
"""


def test_variable_turns_the_gateway_on_for_every_llm_provider(load_text):
    environ = {"UNDERSTUDY_LLM_GATEWAY_URL": "http://127.0.0.1:4000"}
    policy = load_text(LLM, environ).policy
    assert (policy.gateway.preset.kind, policy.gateway.port) == ("generic", 4000)
    assert policy.gateway.providers == {"openai", "anthropic"}
    via = {name for name, each in policy.connections.items() if each.via_gateway}
    assert via == {"openai", "claude"}
    environ["UNDERSTUDY_LLM_GATEWAY_KIND"] = "litellm"
    assert load_text(LLM, environ).policy.gateway.preset.kind == "litellm"


@pytest.mark.parametrize(
    "environ", [{}, {"UNDERSTUDY_LLM_GATEWAY_URL": ""}, {"PATH": "/bin", "ANTHROPIC_BASE_URL": "x"}]
)
def test_without_the_variable_nothing_goes_to_a_gateway(load_text, environ):
    loaded = load_text(LLM, environ)
    assert loaded.policy.gateway is None
    assert loaded.policy.digest == load_text(LLM).policy.digest
    assert not any(each.via_gateway for each in loaded.policy.connections.values())
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"UNDERSTUDY_LLM_GATEWAY_URL": "gateway"}, "UNDERSTUDY_LLM_GATEWAY_URL"),
        ({"UNDERSTUDY_LLM_GATEWAY_URL": "http://gateway.example"}, "UNDERSTUDY_LLM_GATEWAY_URL"),
        (
            {"UNDERSTUDY_LLM_GATEWAY_URL": "https://g", "UNDERSTUDY_LLM_GATEWAY_KIND": "nope"},
            "UNDERSTUDY_LLM_GATEWAY_KIND",
        ),
    ],
)
def test_bad_gateway_variable_is_blamed_by_its_name(load_text, environ, variable):
    (problem,) = errors_of(lambda: load_text(LLM, environ))
    assert (problem.file, problem.line) == (variable, None)


def test_variable_replaces_the_gateway_of_the_file_and_says_so(load_text):
    loaded = load_text(
        "gateway: {url: 'https://file.example'}\n" + LLM.lstrip(),
        {"UNDERSTUDY_LLM_GATEWAY_URL": "https://variable.example"},
    )
    assert loaded.policy.gateway.host == "variable.example"
    (warning,) = loaded.warnings
    assert (warning.field, warning.line) == ("gateway", 2)


def test_kind_without_url_is_a_warning(load_text):
    (warning,) = load_text(LLM, {"UNDERSTUDY_LLM_GATEWAY_KIND": "litellm"}).warnings
    assert warning.file == "UNDERSTUDY_LLM_GATEWAY_KIND"


def test_provider_that_the_gateway_does_not_know_is_not_sent_past_it(load_text):
    text = "connections: {h: {provider: huggingface, secret: {env: A}}}\n"
    loaded = load_text(
        text,
        {
            "UNDERSTUDY_LLM_GATEWAY_URL": "https://g",
            "UNDERSTUDY_LLM_GATEWAY_KIND": "openrouter",
        },
    )
    assert loaded.policy.connections["h"].via_gateway
    assert any("cannot stand in for huggingface" in each.message for each in loaded.warnings)
    gateway = "gateway: {url: 'https://g', kind: openrouter, providers: [huggingface]}\n"
    (problem,) = errors_of(lambda: load_text(gateway + text))
    assert problem.field == "gateway.providers[0]"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_damage_to_a_good_file_gives_a_policy_or_problems(load_text, data):
    text = LLM + "limits: {idle_timeout_seconds: 5}\ndeny: [{name: d, ports: [22]}]\n"
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    inserted = data.draw(st.text(alphabet="a1:-[]{}&*!#\n \"'", max_size=4))
    try:
        load_text(text[:start] + inserted + text[end:])
    except PolicyError:
        return


def test_an_unknown_field_hides_no_other_mistake_of_its_entry(load_text):
    found = errors_of(
        lambda: load_text(
            "connections: {c: {provider: antropic, secret: {enve: X}}}\n"
            "allow: [{name: a, connection: d, method: [GET]}]\n"
        )
    )
    assert {problem.field for problem in found} == {
        "connections.c.provider",
        "connections.c.secret.enve",
        "allow[0].connection",
        "allow[0].method",
    }
