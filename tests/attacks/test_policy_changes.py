"""A changed policy takes force whole and good, or not at all; open tunnels feel it at once."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.scene import Scene
from tests.support.upstream import Upstream

from understudy.policy.model import Limits

SECRET = "sk-real-reloaded-0123456789abcdef"


@pytest.fixture
def changing(start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]) -> Scene:
    upstreams = [start_upstream("good.example"), start_upstream("other.example")]
    return start_scene(
        policy(["good", "other"]), upstreams, {SECRET: ["good.example"]}, environ={"KEY": SECRET}
    )


def policy(rules: Iterable[str]) -> dict[str, Any]:
    known = {
        "good": {"name": "good", "connection": "good"},
        "other": {"name": "other", "hosts": ["other.example"]},
    }
    return {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"env": "KEY"},
            }
        },
        "allow": [known[rule] for rule in rules],
    }


def written(scene: Scene) -> str:
    return scene.proxy.policy_file.read_text()


def revoke(scene: Scene, *rules: str) -> str:
    """The policy file as it is, without some rules."""
    document = yaml.safe_load(written(scene))
    document["allow"] = [rule for rule in document["allow"] if rule["name"] not in rules]
    return yaml.safe_dump(document)


def works(scene: Scene, host: str = "good.example") -> bool:
    headers = [("X-Api-Key", scene.placeholder("good"))] if host == "good.example" else []
    return scene.request(host, headers=headers).status == 200


BAD = {
    "empty": lambda _: "",
    "blank": lambda _: "\n\n# nothing\n",
    "half-written": lambda text: text[: len(text) // 2],
    "cut in a word": lambda text: text[: text.index("connections") + 4],
    "not yaml": lambda text: text + "\n\t: : [",
    "a list": lambda _: "- version: 1\n",
    "another version": lambda text: text.replace("version: 1", "version: 2"),
    "no version": lambda text: text.replace("version: 1", ""),
    "unknown key": lambda text: text + "\nalow: []\n",
    "empty allow": lambda text: text + "\nallow: []\n",
    "duplicate key": lambda text: text + "\nversion: 1\n",
    "second document": lambda text: text + "\n---\nversion: 1\n",
    "no such connection": lambda text: text.replace("connection: good", "connection: gone"),
    "all hosts": lambda text: text.replace("- other.example", "- '*'"),
    "huge": lambda text: text + "#" * (1 << 20),
    "control bytes": lambda text: text + "# \x00\x01",
    "python tag": lambda _: "version: !!python/object/apply:os.system ['true']\n",
    "alias bomb": lambda text: text
    + "".join(
        f"\nx{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'a'}]" for n in range(12)
    ),
}  # fmt: skip


@pytest.mark.attack("policy change")
@pytest.mark.parametrize("how", list(BAD))
def test_a_bad_file_keeps_the_old_policy_and_says_so(changing: Scene, how: str) -> None:
    (loaded,) = changing.proxy.events("policy.loaded")
    changing.proxy.write_policy(BAD[how](written(changing)))
    rejected = changing.proxy.wait_for_events("policy.rejected")[-1]
    assert rejected["policy_digest"] == loaded["policy_digest"]
    assert rejected["problems"]
    assert works(changing)
    assert works(changing, "other.example")
    assert changing.request("other.example", "/x").status == 200
    status, page = changing.proxy.admin("/status")
    assert status == 200
    assert loaded["policy_digest"].encode() in page
    assert changing.proxy.metrics()['understudy_policy_reloads_total{result="rejected"}'] >= 1


@pytest.mark.attack("policy change")
def test_a_bad_file_then_a_good_one_recovers(changing: Scene) -> None:
    good = written(changing)
    changing.proxy.write_policy("version: nonsense\n")
    changing.proxy.wait_for_events("policy.rejected")
    changing.proxy.write_policy(good.replace("name: other", "name: other-renamed"))
    changing.proxy.wait_for_events("policy.loaded", 2)
    assert works(changing, "other.example")
    assert changing.events("request.decided")[-1]["rule"] == "other-renamed"


@pytest.mark.attack("policy change")
@pytest.mark.parametrize("trigger", ["file", "SIGHUP"])
def test_a_deleted_file_keeps_the_old_policy(changing: Scene, trigger: str) -> None:
    changing.proxy.policy_file.unlink()
    if trigger == "SIGHUP":
        changing.proxy.process.send_signal(signal.SIGHUP)
    changing.proxy.wait_for_events("policy.rejected")
    assert works(changing)


@pytest.mark.attack("policy change")
def test_a_rule_revoked_while_a_tunnel_is_open_denies_the_next_request(changing: Scene) -> None:
    placeholder = changing.placeholder("good")
    head = f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
    with changing.tunnel("good.example") as wire:
        assert wire.request(head).status == 200
        changing.proxy.write_policy(revoke(changing, "good"))
        changing.proxy.wait_for_events("policy.loaded", 2)
        answer = wire.request(head)
        assert (answer.status, answer.reason) == (403, "host_not_allowed")
        assert wire.request(head).reason == "host_not_allowed"
    reasons = [line["reason"] for line in changing.verdicts()]
    assert reasons == ["allowed", "host_not_allowed", "host_not_allowed"]
    assert len(changing.seen("good.example")) == 1


@pytest.mark.attack("policy change")
def test_a_connection_that_is_taken_away_is_not_swapped_for_any_more(changing: Scene) -> None:
    """The host stays allowed, but bound to nothing: its placeholder is then a stranger."""
    placeholder = changing.placeholder("good")
    head = f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
    document = yaml.safe_load(written(changing))
    del document["connections"]
    document["allow"] = [{"name": "good", "hosts": ["good.example"]}]
    with changing.tunnel("good.example") as wire:
        assert wire.request(head).status == 200
        changing.proxy.write_policy(document)
        changing.proxy.wait_for_events("policy.loaded", 2)
        wire.request("GET / HTTP/1.1\nHost: good.example")
    changing.settle()
    assert bytes(changing.bytes_seen("good.example")).count(SECRET.encode()) == 1


@pytest.mark.attack("policy change")
def test_a_new_deny_rule_holds_in_old_tunnels(changing: Scene) -> None:
    document = yaml.safe_load(written(changing))
    document["deny"] = [{"name": "freeze", "hosts": ["other.example"]}]
    with changing.tunnel("other.example") as wire:
        assert wire.request("GET / HTTP/1.1\nHost: other.example").status == 200
        changing.proxy.write_policy(document)
        changing.proxy.wait_for_events("policy.loaded", 2)
        answer = wire.request("GET / HTTP/1.1\nHost: other.example")
    assert answer.reason == "denied_by_rule"
    assert changing.verdicts()[-1]["rule"] == "freeze"


@pytest.mark.attack("policy change")
def test_no_policy_at_boot_denies_everything_until_there_is_one(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    upstream_ca_file: Path,
) -> None:
    good = start_upstream("good.example")
    scene = start_scene("", [good], {SECRET: ["good.example"]}, environ={"KEY": SECRET})
    with scene.wire() as wire:
        answer = wire.connect("good.example:443")
    scene.expect_denied(answer, "policy_missing", event="tunnel.denied")
    assert scene.proxy.admin("/readyz")[0] == 503
    document = policy(["good"]) | {
        "version": 1,
        "upstream": {
            "ca_file": str(upstream_ca_file),
            "connect_to": {"good.example:443": good.connect_to},
        },
    }
    scene.proxy.write_policy(document)
    scene.proxy.wait_for_events("policy.loaded")
    assert works(scene)


@pytest.mark.attack("policy change")
def test_no_policy_at_boot_still_limits_connections(start_scene: Callable[..., Scene]) -> None:
    scene = start_scene("", [], {})
    most = Limits().max_connections_per_client
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for _ in range(most):
        scene.wire()
    assert scene.wire().read_until_closed() == b""
    (line,) = scene.proxy.wait_for_events("connection.rejected")
    assert (line["reason"], line["detail"]) == ("too_many_connections", "from this client")


@pytest.mark.attack("policy change")
def test_a_folder_of_files_mounted_as_kubernetes_does_is_swapped_whole(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], tmp_path: Path,
    upstream_ca_file: Path,
) -> None:  # fmt: skip
    upstreams = [start_upstream("good.example"), start_upstream("other.example")]
    places = {f"{u.name}:443": u.connect_to for u in upstreams}
    first, second = (
        policy(rules)
        | {"version": 1, "upstream": {"ca_file": str(upstream_ca_file), "connect_to": places}}
        for rules in (["good", "other"], ["other"])
    )
    folder = tmp_path / "proxy1"
    (folder / "..one").mkdir(parents=True)
    (folder / "..two").mkdir()
    (folder / "..one" / "policy.yaml").write_text(yaml.safe_dump(first))
    (folder / "..two" / "policy.yaml").write_text(yaml.safe_dump(second))
    (folder / "..data").symlink_to("..one")
    (folder / "policy.yaml").symlink_to("..data/policy.yaml")
    scene = start_scene(
        "", upstreams, {SECRET: ["good.example"]}, folder=folder, environ={"KEY": SECRET}
    )
    assert works(scene)
    (folder / "..data_tmp").symlink_to("..two")
    (folder / "..data_tmp").replace(folder / "..data")
    scene.proxy.wait_for_events("policy.loaded", 2)
    with scene.wire() as wire:
        assert wire.connect("good.example:443").reason == "host_not_allowed"
    assert works(scene, "other.example")
