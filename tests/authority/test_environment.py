from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from understudy.authority import environment as environment_module
from understudy.authority.environment import (
    BUNDLE_VARIABLES,
    CERTIFICATE_VARIABLES,
    PROXY_VARIABLES,
    names_to_remove,
    own_variable,
    render,
    sandbox_environment,
)
from understudy.policy.hosts import HostPattern
from understudy.policy.model import Connection, Limits, Policy, SecretReference, Upstream
from understudy.providers.preset import provider_presets

PROXY = "http://127.0.0.1:9080"
CERT, BUNDLE = Path("/trust/ca.crt"), Path("/trust/bundle.pem")
ROOT = Path(__file__).parents[2]


def connect(name, provider=None, *, env=None, hosts=("h.example",)) -> Connection:
    return Connection(
        name=name,
        provider=provider,
        hosts=tuple(HostPattern.parse(host) for host in hosts),
        carriers=(),
        secret=SecretReference("env", env) if env else SecretReference("file", f"/run/{name}"),
    )


def make_policy(*connections: Connection) -> Policy:
    return Policy(
        mode="enforce",
        connections={connection.name: connection for connection in connections},
        allow=(),
        deny=(),
        gateway=None,
        upstream=Upstream(),
        limits=Limits(),
        digest="sha256:0",
    )


def environment_of(*connections: Connection) -> dict[str, str]:
    policy = make_policy(*connections)
    placeholders = {name: f"placeholder-of-{name}" for name in policy.connections}
    return sandbox_environment(
        policy, placeholders, PROXY, ca_cert=CERT, bundle=BUNDLE, presets=provider_presets()
    )


def test_every_program_finds_the_proxy_and_the_roots():
    environment = environment_of()

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert environment[name] == environment[name.lower()] == PROXY
    assert environment["grpc_proxy"] == PROXY
    assert environment["NO_PROXY"] == environment["no_proxy"] == "127.0.0.1,localhost,::1"
    assert environment["NODE_USE_ENV_PROXY"] == "1"
    bundled = (
        "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT AWS_CA_BUNDLE "
        "CARGO_HTTP_CAINFO npm_config_cafile GRPC_DEFAULT_SSL_ROOTS_FILE_PATH BUNDLE_SSL_CA_CERT "
        "CODEX_CA_CERTIFICATE"
    )
    for name in bundled.split():
        assert environment[name] == str(BUNDLE)
    for name in ("NODE_EXTRA_CA_CERTS", "DENO_CERT"):
        assert environment[name] == str(CERT)


def test_a_providers_variables_hold_the_placeholder():
    environment = environment_of(connect("claude", "anthropic"), connect("bot", "github"))

    assert environment["ANTHROPIC_API_KEY"] == "placeholder-of-claude"
    assert environment["GH_TOKEN"] == environment["GITHUB_TOKEN"] == "placeholder-of-bot"


def test_one_sdk_never_gets_two_credentials():
    assert "ANTHROPIC_AUTH_TOKEN" not in environment_of(connect("claude", "anthropic"))


def test_the_first_of_two_connections_gets_the_providers_variables():
    environment = environment_of(connect("a", "openai"), connect("b", "openai"))

    assert environment["OPENAI_API_KEY"] == "placeholder-of-a"
    assert environment["UNDERSTUDY_PLACEHOLDER_B"] == "placeholder-of-b"


def test_the_variable_that_a_secret_is_read_from_holds_that_connections_placeholder():
    environment = environment_of(
        connect("a", "openai"), connect("b", "openai", env="OPENAI_API_KEY"), connect("c", env="K")
    )

    assert environment["OPENAI_API_KEY"] == "placeholder-of-b"
    assert environment["K"] == "placeholder-of-c"


def test_a_connection_without_a_placeholder_sets_nothing():
    policy = make_policy(connect("local", "openai"))
    environment = sandbox_environment(
        policy, {}, PROXY, ca_cert=CERT, bundle=BUNDLE, presets=provider_presets()
    )

    assert "OPENAI_API_KEY" not in environment
    assert "UNDERSTUDY_PLACEHOLDER_LOCAL" not in environment


def test_every_connection_has_a_variable_of_its_own_name():
    assert own_variable("search.corp-1") == "UNDERSTUDY_PLACEHOLDER_SEARCH_CORP_1"
    assert environment_of(connect("search"))["UNDERSTUDY_PLACEHOLDER_SEARCH"]


def test_no_base_url_is_set_where_the_default_works():
    presets = provider_presets().values()
    with_default = [preset for preset in presets if preset.hosts]
    environment = environment_of(*(connect(preset.name, preset.name) for preset in with_default))

    for preset in with_default:
        assert not set(preset.base_url_variables) & set(environment)


def test_azures_endpoint_is_set_where_the_policy_names_one_host():
    one = environment_of(connect("az", "azure-openai", hosts=["acme.openai.azure.com"]))
    many = environment_of(connect("az", "azure-openai", hosts=["*.openai.azure.com"]))

    assert one["AZURE_OPENAI_ENDPOINT"] == "https://acme.openai.azure.com"
    assert "AZURE_OPENAI_ENDPOINT" not in many


def test_an_index_url_is_never_guessed():
    environment = environment_of(connect("index", "python-index", hosts=["pypi.corp.example"]))

    assert "PIP_INDEX_URL" not in environment


def test_no_placeholder_displaces_the_proxy():
    environment = environment_of(connect("x", env="HTTPS_PROXY"))

    assert environment["HTTPS_PROXY"] == PROXY


# -- what goes


def removed(*names: str, policy: Policy | None = None, **values: str) -> set[str]:
    inherited = dict.fromkeys(names, "x") | values
    return set(names_to_remove(policy or make_policy(), provider_presets(), inherited))


def test_real_keys_of_the_policy_go():
    policy = make_policy(connect("c", env="CORP_KEY"))

    assert removed("CORP_KEY", "corp_key", "OTHER", policy=policy) == {"CORP_KEY", "corp_key"}


def test_keys_of_every_known_provider_go_even_unused_ones():
    names = {
        name
        for preset in provider_presets().values()
        for name in (*preset.variables, *preset.alternative_variables)
    }

    assert removed(*names, "PATH", "HOME") == names


def test_inherited_copies_of_all_that_is_set_go_in_any_case():
    names = {*PROXY_VARIABLES, *BUNDLE_VARIABLES, *CERTIFICATE_VARIABLES, "no_proxy", "NO_PROXY"}
    odd = {name.title() for name in names} | {"NPM_CONFIG_CAFILE", "GRPC_PROXY", "No_Proxy"}

    assert removed(*names, *odd) == names | odd


def test_session_key_logs_and_own_settings_go():
    names = {
        "SSLKEYLOGFILE",
        "MITMPROXY_SSLKEYLOGFILE",
        "UNDERSTUDY_ADMIN_TOKEN",
        "UNDERSTUDY_LLM_GATEWAY_URL",
        "understudy_x",
        "FTP_PROXY",
        "npm_config_https_proxy",
        "PIP_PROXY",
        "SSL_CERT_DIR",
    }

    assert removed(*names) == names


def test_a_base_url_goes_only_with_a_password_in_it():
    assert removed(
        PIP_INDEX_URL="https://user:secret@pypi.corp.example/simple",
        OPENAI_BASE_URL="https://gateway.internal/v1",
    ) == {"PIP_INDEX_URL"}


def test_what_a_program_needs_stays():
    assert (
        removed("PATH", "HOME", "LANG", "TERM", "PYTHONPATH", "NODE_OPTIONS", "PROXYABLE") == set()
    )


# -- as text

TRICKY = {"PLAIN": "http://u:p@127.0.0.1:9080", "ODD": "a 'b' \"c\" $HOME $(id) `id` \\ #x"}


def test_a_shell_reads_back_what_was_rendered():
    script = render(TRICKY, "shell") + 'printf "%s\\0%s" "$PLAIN" "$ODD"'

    output = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout

    assert output.decode().split("\0") == list(TRICKY.values())


@given(
    st.dictionaries(
        st.sampled_from("ABCD"),
        st.text(st.characters(codec="ascii")).filter(lambda text: not set(text) & set("\r\n\0")),
    )
)
def test_json_and_kubernetes_read_back_the_same(environment):
    assert json.loads(render(environment, "json")) == environment
    entries = yaml.safe_load(render(environment, "kubernetes"))
    assert {one["name"]: one["value"].replace("$$(", "$(") for one in entries} == {
        name: value.replace("$$(", "$(") for name, value in environment.items()
    }


def test_kubernetes_values_are_strings_and_are_not_expanded():
    entries = yaml.safe_load(render({"N": "1", "V": "$(HOME)"}, "kubernetes"))

    assert entries == [{"name": "N", "value": "1"}, {"name": "V", "value": "$$(HOME)"}]


def test_dotenv_is_bare_where_it_can_be():
    lines = render(TRICKY | {"EMPTY": ""}, "dotenv").splitlines()

    assert lines[0] == "PLAIN=http://u:p@127.0.0.1:9080"
    assert lines[1] == 'ODD="a \'b\' \\"c\\" \\$HOME \\$(id) `id` \\\\ #x"'
    assert lines[2] == "EMPTY="


def test_a_whole_environment_needs_no_quotes_in_dotenv():
    text = render(environment_of(connect("claude", "anthropic")), "dotenv")

    assert '"' not in text


@pytest.mark.parametrize("style", ["shell", "dotenv", "json", "kubernetes"])
def test_a_line_break_is_refused_in_every_format(style):
    with pytest.raises(ValueError, match="X holds a line break"):
        render({"X": "a\nb"}, style)


def test_the_docs_name_every_variable():
    text = (ROOT / "docs/environment.md").read_text()
    names = {
        *environment_of(),
        *(name.upper() if "npm" not in name else name for name in environment_module._OVERRIDING),
    }

    missing = {name for name in names if f"`{name}`" not in text}
    assert not missing


def test_making_an_environment_reads_nothing_of_this_process(monkeypatch):
    before = environment_of()
    monkeypatch.setenv("HTTPS_PROXY", "http://other")
    monkeypatch.setattr(os, "environ", {})

    assert environment_of() == before
