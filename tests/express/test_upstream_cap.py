"""An upstream has no more connections than it may have, and who waits for one is served in turn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.client import Wire
from tests.support.proxy import WORKERS, Proxy
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream, answer_ok, open_connections_to
from tests.support.websocket import ACCEPT, KEY, accepted

pytestmark = [
    pytest.mark.engine("express"),
    pytest.mark.skipif(WORKERS != "1", reason="each worker has its own connections"),
]
HOST = "shared.example"
SECRET = "sk-real-shared-0123456789abcdef"
TOO_MANY = "too many connections to the upstream"


class Holding:
    """A handler that answers each request when it is told to, and looks at what is open then."""

    def __init__(self) -> None:
        self.upstream: Upstream
        self.most = 0
        """The most connections that the upstream was seen to have."""
        self._turns = asyncio.Semaphore(0)

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        self.most = max(self.most, open_connections_to(self.upstream.port))
        await self._turns.acquire()
        if received.target == "/break":
            raise ConnectionResetError
        await answer_ok(received, writer)

    def answer(self, count: int = 1) -> None:
        """Let so many of the requests that are held, or will be, have their answers."""
        for _ in range(count):
            self.upstream.soon(self._turns.release)


class Crowd:
    """A proxy that allows few connections to one upstream, and clients who want more."""

    def __init__(self, scene: Scene, ca_file: Path) -> None:
        self.scene, self.upstream = scene, scene.upstreams[HOST]
        self._ca_file = ca_file

    def ask(self, path: str = "/", source: str | None = None, **headers: str) -> Wire:
        """Send a request in a tunnel of its own, and do not wait."""
        wire = self.scene.wire(source)
        assert wire.connect(f"{HOST}:443").status == 200
        wire.start_tls(HOST)
        lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *(f"{k}: {headers[k]}" for k in headers)]
        return wire.send("\r\n".join([*lines, "", ""]).encode())

    def wait_for_waiting(self, count: int) -> None:
        """Wait until so many requests have had to wait since the start."""
        metrics = self.scene.proxy.metrics
        self.scene.proxy.wait_until(
            lambda: metrics()["understudy_upstream_waits_total"] == count,
        )

    def wait_for_requests(self, count: int) -> list[str]:
        """Wait until the upstream has so many requests; their paths."""
        self.upstream.wait_for(lambda upstream: len(upstream.requests) >= count)
        return [received.target for received in self.upstream.requests]

    def ends(self) -> list[dict[str, Any]]:
        return self.scene.events("request.finished")

    def change_policy(self, cap: int, **limits: object) -> None:
        """Put another policy in force."""
        proxy = self.scene.proxy
        loaded = len(proxy.events("policy.loaded"))
        proxy.write_policy(complete_policy(policy(cap, **limits), [self.upstream], self._ca_file))
        proxy.wait_for_events("policy.loaded", loaded + 1)


@pytest.fixture
def holding() -> Holding:
    return Holding()


@pytest.fixture
def start(
    holding: Holding,
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    upstream_ca_file: Path,
) -> Callable[..., Crowd]:
    def start(cap: int, upstream: Upstream | None = None, **limits: object) -> Crowd:
        holding.upstream = upstream or start_upstream(HOST, handler=holding)
        open_connections_to(holding.upstream.port)  # skips where that cannot be seen
        scene = start_scene(
            policy(cap, **limits), [holding.upstream], {SECRET: [HOST]}, environ={"KEY": SECRET}
        )
        return Crowd(scene, upstream_ca_file)

    return start


def policy(cap: int, **limits: object) -> dict[str, Any]:
    return {
        "connections": {
            name: {
                "hosts": [HOST],
                "carriers": [{"bearer": True}],
                "secret": {"env": "KEY"},
            }
            for name in ("red", "blue")
        },
        "allow": [
            {"name": "red", "connection": "red", "websocket": True},
            {"name": "blue", "connection": "blue"},
        ],
        "limits": {"max_connections_per_upstream": cap, "connect_timeout_seconds": 600} | limits,
    }


@pytest.mark.attack("crowded upstream")
def test_an_upstream_never_has_more_connections_than_it_may_have(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    crowd = start(2)
    wires = [crowd.ask() for _ in range(10)]
    crowd.wait_for_waiting(8)
    assert len(crowd.wait_for_requests(2)) == 2
    for answered in range(8):
        holding.answer()
        assert len(crowd.wait_for_requests(3 + answered)) == 3 + answered
    holding.answer(2)
    assert [wire.read().status for wire in wires] == [200] * 10
    # A connection that is given back goes to who waits: none is closed, none opened for it.
    assert crowd.upstream.connections == holding.most == 2
    crowd.scene.expect_allowed(HOST, 10)


@pytest.mark.attack("crowded upstream")
def test_clients_have_their_turns_one_after_another(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    """One that asks for very much at once does not hold up one that asks for little."""
    crowd = start(1)
    greedy = [crowd.ask(f"/greedy/{number}") for number in range(6)]
    crowd.wait_for_waiting(5)
    modest = []
    for client, source in enumerate(["127.0.0.2", "127.0.0.3"]):
        for number in range(2):
            modest.append(crowd.ask(f"/{client}/{number}", source))
            crowd.wait_for_waiting(5 + len(modest))
    holding.answer(10)
    assert [wire.read().status for wire in greedy + modest] == [200] * 10
    first, *rest = [received.target for received in crowd.upstream.requests]
    assert first.startswith("/greedy/")
    # Nobody says in which order six tunnels of one client are served; each has its turn.
    assert [path.rpartition("/")[0] for path in rest] == [
        "/greedy", "/0", "/1", "/greedy", "/0", "/1", "/greedy", "/greedy", "/greedy",
    ]  # fmt: skip
    assert crowd.upstream.connections == 1


@pytest.mark.attack("crowded upstream")
def test_who_waits_too_long_is_504_and_nothing_goes_up(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    crowd = start(1, connect_timeout_seconds=0.3)
    held = crowd.ask("/held")
    crowd.wait_for_requests(1)
    before = len(crowd.upstream.received)
    answer = crowd.ask("/late").read()
    assert (answer.status, answer.reason) == (504, "upstream_timeout")
    (end,) = crowd.scene.proxy.wait_for_events("request.finished")
    assert (end["status"], end["reason"], end["detail"]) == (504, "upstream_timeout", TOO_MANY)
    assert (crowd.upstream.connections, len(crowd.upstream.received)) == (1, before)
    holding.answer(2)
    assert held.read().status == 200
    assert crowd.ask("/next").read().status == 200
    assert crowd.wait_for_requests(2) == ["/held", "/next"]
    assert crowd.upstream.connections == 1


def test_who_waits_is_not_idle(start: Callable[..., Crowd], holding: Holding) -> None:
    crowd = start(1, idle_timeout_seconds=0.3)
    held, waiting = crowd.ask("/held"), crowd.ask("/waiting")
    crowd.wait_for_waiting(1)
    idle = crowd.scene.wire()
    assert idle.connect(f"{HOST}:443").status == 200
    assert idle.read_until_closed() == b""  # came last, and its time is over
    holding.answer(2)
    assert [held.read().status, waiting.read().status] == [200, 200]


@pytest.mark.attack("crowded upstream")
def test_a_client_that_leaves_waits_no_more(start: Callable[..., Crowd], holding: Holding) -> None:
    crowd = start(1)
    held = crowd.ask("/held")
    crowd.wait_for_requests(1)
    leaving, resetting = crowd.ask("/leaving"), crowd.ask("/resetting")
    crowd.wait_for_waiting(2)
    staying = crowd.ask("/staying")
    crowd.wait_for_waiting(3)
    leaving.close()
    resetting.reset()
    ends = crowd.scene.proxy.wait_for_events("request.finished", 2)
    assert [end["reason"] for end in ends] == ["client_closed"] * 2
    holding.answer(2)
    assert [held.read().status, staying.read().status] == [200, 200]
    assert crowd.wait_for_requests(2) == ["/held", "/staying"]


def test_a_request_whose_time_is_over_waits_no_more(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    crowd = start(1, max_stream_seconds=0.3)
    wires = [crowd.ask("/held") for _ in range(3)]
    assert [wire.read_until_closed() for wire in wires] == [b""] * 3
    ends = crowd.scene.proxy.wait_for_events("request.finished", 3)
    assert [end["reason"] for end in ends] == ["timeout"] * 3
    crowd.change_policy(1)
    holding.answer(4)
    assert crowd.ask("/next").read().status == 200
    assert holding.most == 1


def test_connections_that_break_make_room_for_who_waits(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    crowd = start(2)
    broken = [crowd.ask("/break"), crowd.ask("/break")]
    crowd.wait_for_requests(2)
    waiting = [crowd.ask("/wait") for _ in range(3)]
    crowd.wait_for_waiting(3)
    holding.answer(5)
    assert [wire.read().status for wire in broken] == [502, 502]
    assert [wire.read().status for wire in waiting] == [200, 200, 200]
    assert holding.most == 2


def test_connections_that_cannot_be_opened_take_no_room(
    start: Callable[..., Crowd], start_upstream: Callable[..., Upstream]
) -> None:
    stranger = start_upstream(HOST, certificate=trustme.CA().issue_cert(HOST))
    crowd = start(1, stranger)
    wires = [crowd.ask() for _ in range(5)]
    assert [wire.read().status for wire in wires] == [502] * 5
    assert (stranger.connections, bytes(stranger.received)) == (5, b"")


def test_an_upstream_that_is_not_there_takes_no_room(
    start: Callable[..., Crowd], start_upstream: Callable[..., Upstream]
) -> None:
    upstream = start_upstream(HOST)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port, upstream.port = upstream.port, nobody.getsockname()[1]
        crowd = start(1, upstream)
        wires = [crowd.ask() for _ in range(5)]
        assert [wire.read().status for wire in wires] == [502] * 5
    upstream.port = port
    crowd.change_policy(1)
    assert crowd.ask().read().status == 200


def test_handshakes_that_are_given_up_take_no_room(
    start: Callable[..., Crowd], start_upstream: Callable[..., Upstream], stack: ExitStack
) -> None:
    """Whatever ends them: here the time that a whole request may take."""
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    upstream = start_upstream(HOST)
    port, upstream.port = upstream.port, silent.getsockname()[1]
    crowd = start(1, upstream, max_stream_seconds=0.3)
    for _ in range(3):
        assert crowd.ask().read_until_closed() == b""
        taken, _ = silent.accept()
        with taken:
            taken.settimeout(20)
            while taken.recv(65536):
                pass  # until the proxy closes it
    upstream.port = port
    crowd.change_policy(1)
    assert crowd.ask().read().status == 200


def test_a_websocket_holds_its_connection_until_it_ends(
    start: Callable[..., Crowd], start_upstream: Callable[..., Upstream]
) -> None:
    async def talk(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if received.header("upgrade") is None:
            await answer_ok(received, writer)
            return
        writer.write(accepted())
        await reader.read()
        writer.close()

    crowd = start(1, start_upstream(HOST, conversation=talk))
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    websocket = crowd.ask("/live", **upgrade)
    assert websocket.read().header("sec-websocket-accept") == ACCEPT
    waiting = crowd.ask("/after")
    crowd.wait_for_waiting(1)
    assert crowd.wait_for_requests(1) == ["/live"]
    websocket.close()
    assert waiting.read().status == 200
    assert crowd.wait_for_requests(2) == ["/live", "/after"]


@pytest.mark.attack("crowded upstream")
def test_what_only_others_may_use_is_closed_for_who_wants_another(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    """A connection carries one credential; where there is room for one, it makes room."""
    crowd = start(1)
    holding.answer(6)
    keys = [{"Authorization": f"Bearer {crowd.scene.placeholder(key)}"} for key in ("red", "blue")]
    for _ in range(2):
        for headers in (*keys, {}):
            assert crowd.ask(**headers).read().status == 200
    assert [received.connection for received in crowd.upstream.requests] == [0, 1, 2, 3, 4, 5]
    assert holding.most == 1


@pytest.mark.attack("crowded upstream")
def test_a_credentials_turn_comes_though_others_are_served_faster(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    """A connection that is given back suits who shares its credential, but not for ever."""
    crowd = start(1)
    red = {"Authorization": f"Bearer {crowd.scene.placeholder('red')}"}
    crowd.ask("/first", **red)
    crowd.wait_for_requests(1)
    wires = [crowd.ask("/alone")]
    crowd.wait_for_waiting(1)
    wires += [crowd.ask("/red", **red) for _ in range(10)]
    crowd.wait_for_waiting(11)
    holding.answer(12)
    assert [wire.read().status for wire in wires] == [200] * 11
    paths = [received.target for received in crowd.upstream.requests]
    assert paths == ["/first", *["/red"] * 4, "/alone", *["/red"] * 6]
    assert (crowd.upstream.connections, holding.most) == (3, 1)


def test_a_new_policys_number_holds_at_once(start: Callable[..., Crowd], holding: Holding) -> None:
    crowd = start(1)
    wires = [crowd.ask() for _ in range(4)]
    crowd.wait_for_waiting(3)
    assert len(crowd.wait_for_requests(1)) == 1
    crowd.change_policy(3)
    crowd.wait_for_requests(3)
    crowd.change_policy(1)
    holding.answer(4)
    assert [wire.read().status for wire in wires] == [200] * 4
    crowd.scene.proxy.wait_until(lambda: open_connections_to(crowd.upstream.port) == 1)
    assert holding.most == 3


def test_a_kept_connection_that_has_ended_leaves_its_room_to_the_next_try(
    start: Callable[..., Crowd], start_upstream: Callable[..., Upstream]
) -> None:
    async def talk(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.target == "/again" and received.connection == 0:
            writer.close()
        else:
            await answer_ok(received, writer)

    crowd = start(1, start_upstream(HOST, handler=talk))
    assert crowd.ask("/first").read().status == 200
    assert crowd.ask("/again").read().status == 200
    assert crowd.wait_for_requests(3) == ["/first", "/again", "/again"]
    assert crowd.upstream.connections == 2


def test_at_a_shutdown_who_waits_is_served(
    start_proxy: Callable[..., Proxy],
    start_upstream: Callable[..., Upstream],
    holding: Holding,
    upstream_ca_file: Path,
) -> None:
    holding.upstream = start_upstream(HOST, handler=holding)
    proxy = start_proxy(policy(1), upstreams=[holding.upstream], environ={"KEY": SECRET})
    crowd = Crowd(Scene(proxy, {HOST: holding.upstream}), upstream_ca_file)
    with crowd.ask("/held") as held, crowd.ask("/waiting") as waiting:
        crowd.wait_for_waiting(1)
        proxy.process.send_signal(signal.SIGTERM)
        holding.answer(2)
        assert [held.read().status, waiting.read().status] == [200, 200]
    assert proxy.process.wait(20) == 0
    assert [end["status"] for end in proxy.events("request.finished")] == [200, 200]


def test_after_a_storm_no_connection_is_lost_and_there_was_never_one_too_many(
    start: Callable[..., Crowd], holding: Holding
) -> None:
    """Clients that wait, leave and reset; answers that come and that break off."""
    crowd = start(3)
    holding.answer(10_000)
    keys: list[dict[str, str]] = [
        {"Authorization": f"Bearer {crowd.scene.placeholder(key)}"} for key in ("red", "blue")
    ]

    def rage(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(15):
            path = dice.choice(["/", "/", "/break"])
            wire = crowd.ask(path, f"127.0.0.{2 + seed % 3}", **dice.choice([*keys, {}]))
            end = dice.choice([wire.read, wire.read, wire.close, wire.reset])
            with contextlib.suppress(ConnectionError):
                end()
            wire.close()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(rage, range(16)))
    crowd.scene.settle()
    assert holding.most == 3
    ends = crowd.ends()
    # Of a client that resets at once, the request may never be read.
    assert len(ends) == len(crowd.scene.events("request.decided")) > 16
    assert len(crowd.scene.verdicts()) == 16 * 15
    assert {end.get("reason") for end in ends} <= {None, "client_closed", "upstream_failed"}
    calm = Holding()
    calm.upstream = crowd.upstream
    crowd.upstream.handler = calm
    before = len(crowd.upstream.requests)
    wires = [crowd.ask("/calm") for _ in range(4)]
    crowd.upstream.wait_for(lambda upstream: len(upstream.requests) == before + 3)
    calm.answer(4)
    assert [wire.read().status for wire in wires] == [200] * 4
    assert calm.most == 3
