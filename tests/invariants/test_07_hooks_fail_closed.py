"""Invariant 7: an exception in any hook denies; no secret leaves, and there is an audit line.

The hooks are found by looking at the addons, so a new hook is covered by being written.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import trustme
from mitmproxy import dns, flow, hooks, tcp, udp
from mitmproxy.connection import Client, Server
from mitmproxy.log import LegacyLogEvents
from mitmproxy.proxy.layers.dns import DnsRequestHook
from mitmproxy.proxy.layers.tcp import TcpStartHook
from mitmproxy.proxy.layers.udp import UdpStartHook
from tests.conftest import complete_policy
from tests.support.client import REFUSED, Answer, client_hello
from tests.support.proxy import Proxy
from tests.support.scene import Scene, expect_no_secret_written
from tests.support.upstream import Received, Upstream, answer, answer_echo

from understudy.engine.kinds import ENGINES
from understudy.express.conversation import Conversation
from understudy.express.download import Download
from understudy.express.transfer import Transfer
from understudy.express.upload import Upload
from understudy.stages import stages

SECRET = "sk-real-never-with-a-fault-0123456789"
SABOTAGE = b"sk-real-secret-in-an-exception-text"
BODY = b'{"model": "x", "messages": []}'
POLICY = {
    "gateway": {"url": "https://gateway.example", "kind": "generic", "providers": ["openai"]},
    "connections": {
        "gpt": {"provider": "openai", "secret": {"env": "KEY"}},
        "good": {
            "hosts": ["good.example", "rude.good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "KEY"},
        },
    },
    "allow": [{"name": "good", "connection": "good"}, {"name": "gpt", "connection": "gpt"}],
}
NEVER_CALLED = {"tcp_start", "udp_start", "dns_request"}
"""Backstops for what no engine opens; that they are wrapped is tested below."""
LATER = {"responseheaders", "response", "error", "tls_failed_client", "client_disconnected"}
"""Hooks that no refusal can come from: the request is over, or with its own upstream."""


def make_engine(name: str) -> Any:
    """An engine with all its addons, and stand-ins for what they use."""
    some: Any = MagicMock()
    master = ENGINES[name]().master
    ours = stages(
        sessions=some, policies=some, recorder=some, placeholders=some,
        resolver=some, dialer=some, caller_token=None, carries_websockets=master.carries_websockets,
    )  # fmt: skip
    listen, folder = ("127.0.0.1", 0), Path("unused")
    return master(
        ours, sessions=some, recorder=some, metrics=some, policies=some, issuer=some,
        listen=listen, confdir=folder,
    )  # fmt: skip


async def find_addons(engine: str) -> list[object]:
    """Every addon of ours that the engine runs; what it takes from mitmproxy is not among them."""
    chain = make_engine(engine).addons.chain
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, LegacyLogEvents):
            handler.uninstall()  # mitmproxy's master made it, for an event loop that ends here
    return [addon for addon in chain if type(addon).__module__.startswith("understudy.")]


def hooks_of(addon: object) -> list[str]:
    return [name for name, _ in inspect.getmembers(addon, callable) if name in hooks.all_hooks]


HOOKS = {
    engine: {
        f"{type(addon).__name__}.{hook}"
        for addon in asyncio.run(find_addons(engine))
        for hook in hooks_of(addon)
    }
    for engine in ENGINES
}


def each_hook(is_wanted: Callable[[str], bool]) -> pytest.MarkDecorator:
    """``hook``: every wanted hook, with each engine that has it."""
    found = sorted(filter(is_wanted, set().union(*HOOKS.values())))
    having = {hook: [engine for engine in HOOKS if hook in HOOKS[engine]] for hook in found}
    return pytest.mark.parametrize(
        "hook", [pytest.param(hook, marks=pytest.mark.engine(*having[hook])) for hook in found]
    )


async def echo_and_close(received: Received, writer: asyncio.StreamWriter) -> None:
    """Reflect the request; no connection is kept, so that every request dials."""
    await answer_echo(received, writer)
    await writer.drain()
    writer.close()


class Places:
    """A proxy whose hooks can be made to raise, and upstreams that reflect what they get."""

    def __init__(self, proxy: Proxy, upstreams: list[Upstream]) -> None:
        self.proxy, self.upstreams = proxy, {u.name: u for u in upstreams}


@pytest.fixture(scope="module")
def places(
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[Places]:
    with (
        Upstream("good.example", upstream_ca, handler=echo_and_close) as good,
        Upstream("gateway.example", upstream_ca, handler=echo_and_close) as gateway,
        Upstream("api.openai.com", upstream_ca) as openai,
        Upstream("rude.good.example", upstream_ca, handler=answer(b"", close=True)) as rude,
    ):
        upstreams = [good, gateway, openai, rude]
        policy = complete_policy(POLICY, upstreams, upstream_ca_file)
        folder = tmp_path_factory.mktemp("faults")
        with Proxy(policy, folder, engine, environ={"KEY": SECRET}, faults=True) as proxy:
            yield Places(proxy, upstreams)
            expect_no_secret_written(proxy, [SECRET])
            assert SABOTAGE not in proxy.everything_written()


def scene_of(places: Places) -> Scene:
    return Scene(places.proxy, places.upstreams, {SECRET: []})


def ask(scene: Scene, host: str = "good.example", method: str = "GET") -> Answer | None:
    """One request from the connection to the answer; None where the proxy closed instead."""
    body = BODY if method == "POST" else b""
    name = f"Authorization: Bearer {scene.placeholder('gpt')}"
    if host != "api.openai.com":
        name = f"X-Api-Key: {scene.placeholder('good')}"
    lines = [f"{method} /v1/chat/completions HTTP/1.1", f"Host: {host}", name]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    wire = scene.wire()
    try:
        answered = wire.connect(f"{host}:443")
        if answered.status != 200:
            return answered
        return wire.start_tls(host).request("\n".join(lines), body)
    except REFUSED:
        return None


def fault(hook: str, how: str) -> str:
    when, _, kind = how.partition(", ")
    return f"{hook} {kind}".strip() if when == "before" else f"{hook}:after"


WHEN = pytest.mark.parametrize("when", ["before", "after"])
HOW = pytest.mark.parametrize("how", ["before", "after", "before, cancelled"])


def is_before_the_dial(hook: str) -> bool:
    return hook.partition(".")[2] not in LATER | NEVER_CALLED


# Without a body, with one that streams, and through the gateway with one that is looked at.
REQUESTS = pytest.mark.parametrize(
    ("host", "method"),
    [("good.example", "GET"), ("good.example", "POST"), ("api.openai.com", "POST")],
)


def expect_whole_story(scene: Scene) -> None:
    """One verdict; where it is an allow, one end."""
    (verdict,) = scene.verdicts()
    ends = [line["request_id"] for line in scene.events("request.finished")]
    assert ends == ([verdict["request_id"]] if verdict["verdict"] == "allow" else [])


@pytest.mark.attack("failing hook")
@REQUESTS
@HOW
@each_hook(is_before_the_dial)
def test_an_exception_before_the_answer_denies_and_nothing_goes_up(
    places: Places, hook: str, how: str, host: str, method: str
) -> None:
    scene = scene_of(places)
    with places.proxy.sabotage(fault(hook, how)):
        answered = ask(scene, host, method)
        scene.settle()
    if answered is not None:
        assert (answered.status, answered.reason) == (503, "internal_error")
    for name in places.upstreams:
        assert scene.bytes_seen(name) == b""
    expect_whole_story(scene)
    denied = [line for line in scene.events() if line.get("reason") == "internal_error"]
    assert denied, scene.events()
    scene.leave()
    again = scene_of(places)
    again.secrets = {SECRET: list(places.upstreams)}
    answered = ask(again, host, method)
    again.leave()
    assert answered is not None
    assert answered.status == 200, "it serves again without the fault"


@pytest.mark.attack("failing hook")
@WHEN
def test_a_tunnel_that_cannot_be_judged_is_told_of_whatever_came_before(
    places: Places, when: str
) -> None:
    scene = scene_of(places)
    wire = scene.wire()
    assert wire.connect("evil.example:443").status == 403
    with places.proxy.sabotage(fault("Tunnel.http_connect", when)):
        answer = wire.connect("evil.example:443")
    assert answer.reason == ("internal_error" if when == "before" else "host_not_allowed")
    assert [line["reason"] for line in scene.verdicts()] == ["host_not_allowed", answer.reason]
    scene.expect_nothing_upstream()
    scene.leave()


@pytest.mark.attack("failing hook")
@REQUESTS
@WHEN
@each_hook(lambda hook: hook.endswith((".responseheaders", ".response")))
def test_an_exception_in_an_answer_leaks_no_reflected_secret(
    places: Places, hook: str, when: str, host: str, method: str
) -> None:
    scene = scene_of(places)
    scene.secrets = {SECRET: ["good.example", "gateway.example"]}
    with places.proxy.sabotage(fault(hook, when)):
        ask(scene, host, method)
        scene.settle()
    assert scene.verdict()["verdict"] == "allow"
    expect_whole_story(scene)
    scene.leave()


def carriers_of_requests() -> list[str]:
    """Every coroutine of express's own that a request goes through."""
    all_of_them = {
        f"{owner.__name__}.{name}"
        for owner in (Conversation, Transfer, Upload, Download)
        for name, method in vars(owner).items()
        if inspect.iscoroutinefunction(method)
    }
    # What these do themselves is to call the others, and to see to what those raise.
    return sorted(all_of_them - {"Conversation.run", "Conversation._converse", "Transfer.run"})


@pytest.mark.attack("failing hook")
@pytest.mark.engine("express")
@WHEN
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("place", carriers_of_requests())
def test_an_exception_in_the_engine_itself_is_told_of_and_leaks_nothing(
    places: Places, place: str, method: str, when: str
) -> None:
    """One verdict, its end where it was an allow, and the next request is served."""
    scene = scene_of(places)
    scene.secrets = {SECRET: ["good.example"]}
    with places.proxy.sabotage(fault(place, when)):
        answered = ask(scene, method=method)
        scene.settle()
    if answered is not None and answered.status != 200:
        assert (answered.status, answered.reason) == (503, "internal_error")
    expect_whole_story(scene)
    scene.leave()
    again = scene_of(places)
    again.secrets = scene.secrets
    answered = ask(again)
    assert answered is not None
    assert answered.status == 200
    again.leave()


@pytest.mark.engine("express")
@pytest.mark.parametrize("place", ["Stream.data_received", "Stream.eof_received"])
def test_what_fails_in_the_event_loop_is_told_of_without_its_text(
    places: Places, place: str
) -> None:
    scene = scene_of(places)
    scene.secrets = {SECRET: ["good.example"]}
    before = places.proxy.log
    with places.proxy.sabotage(place):
        ask(scene)
        scene.settle()
    scene.leave()
    told = places.proxy.log.removeprefix(before)
    assert "outside any request failed with RuntimeError" in told
    assert "Traceback" not in told
    assert SABOTAGE not in told.encode()


@pytest.mark.attack("failing hook")
def test_a_verdict_that_cannot_be_written_as_a_line_still_leaves_one(places: Places) -> None:
    scene = scene_of(places)
    with places.proxy.sabotage("decided_line"):
        answered = ask(scene)
        scene.settle()
    assert answered is not None
    assert (answered.status, answered.reason) == (503, "internal_error")
    scene.expect_nothing_upstream()
    verdict = scene.verdict()
    assert (verdict["event"], verdict["reason"]) == ("connection.rejected", "internal_error")
    scene.leave()


@WHEN
@each_hook(lambda hook: hook.endswith(".error"))
def test_an_exception_after_a_failure_is_still_a_denial(
    places: Places, hook: str, when: str
) -> None:
    scene = scene_of(places)
    scene.secrets = {SECRET: ["rude.good.example"]}
    with places.proxy.sabotage(fault(hook, when)):
        answered = ask(scene, "rude.good.example")
    assert answered is None or answered.status in {502, 503}
    assert len(scene.verdicts()) == 1
    assert len(scene.events("request.finished")) == 1
    scene.leave()


@WHEN
@each_hook(lambda hook: hook.endswith(".tls_failed_client"))
def test_an_exception_about_a_failed_handshake_leaves_a_line(
    places: Places, hook: str, when: str
) -> None:
    scene = scene_of(places)
    with places.proxy.sabotage(fault(hook, when)):
        wire = scene.wire()
        assert wire.connect("good.example:443").status == 200
        wire.send(client_hello("good.example"))
        assert wire.socket.recv(1) == b"\x16"
        wire.send(b"\x15\x03\x03\x00\x02\x02\x2a")  # a fatal alert: bad certificate
        wire.read_until_closed()
        scene.settle()
    assert scene.verdict()["event"] == "connection.rejected"
    scene.expect_nothing_upstream()
    scene.leave()


@WHEN
@each_hook(lambda hook: hook.endswith(".client_disconnected"))
def test_an_exception_at_the_end_keeps_the_audit_and_the_count(
    places: Places, hook: str, when: str
) -> None:
    def failures() -> float:
        name = 'understudy_hook_errors_total{hook="client_disconnected"}'
        return places.proxy.metrics().get(name, 0)

    scene = scene_of(places)
    scene.secrets = {SECRET: ["good.example"]}
    before = failures()
    with places.proxy.sabotage(fault(hook, when)):
        assert ask(scene).status == 200
        for wire in scene.wires:
            wire.close()
        places.proxy.wait_until(lambda: failures() > before)
    again = scene_of(places)
    again.secrets = scene.secrets
    assert ask(again).status == 200
    again.settle()
    assert len(scene.events("request.finished")) == 2
    scene.leave()


@pytest.mark.attack("failing hook")
@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        (tcp.TCPFlow, TcpStartHook),
        (udp.UDPFlow, UdpStartHook),
        (dns.DNSFlow, DnsRequestHook),
    ],
)
def test_what_is_not_http_is_killed_whatever_a_hook_does(
    kind: Callable[..., flow.Flow], hook: Callable[..., Any], engine: str
) -> None:
    """No engine opens such flows; if one came, an exception would not let it pass."""
    client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
    stray = kind(client, Server(address=("127.0.0.1", 3)), True)
    assert stray.killable

    class Raising:
        def tcp_start(self, _: object) -> None:
            raise RuntimeError

        udp_start = dns_request = tcp_start

    async def trigger() -> None:
        manager = make_engine(engine).addons
        manager.add(Raising())
        await manager.trigger_event(hook(stray))

    asyncio.run(trigger())
    assert not stray.killable


def test_every_hook_is_covered_by_a_test_here(engine: str) -> None:
    names = {hook.partition(".")[2] for hook in HOOKS[engine]}
    assert names >= LATER
    early = {hook.partition(".")[2] for hook in HOOKS[engine] if is_before_the_dial(hook)}
    assert early >= {
        "client_connected", "http_connect", "tls_clienthello", "tls_established_client",
        "requestheaders", "request", "server_connect",
    }  # fmt: skip
    stages_found = {hook.partition(".")[0] for hook in HOOKS[engine]}
    assert stages_found >= {
        "Tunnel", "Identity", "Decision", "Gateway", "Swap", "Dial", "Scrub", "Record",
    }  # fmt: skip
