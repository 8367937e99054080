"""WebSockets between a real client and a real server: what passes, and what the audit says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.scene import forms_of
from tests.support.websocket import POLICY, SECRET
from tests.websocket.conftest import Place
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.server import ServerConnection

pytestmark = pytest.mark.engine("express")


@pytest.mark.parametrize("name", ["good.example", "free.example"])
def test_messages_pass_both_ways_and_are_counted(
    start_place: Callable[..., Place], name: str
) -> None:
    place = start_place(name=name)
    messages = ["", "a", "é" * 100, b"", b"\x00\xff" * 70_000, "x" * 200_000]
    headers = {} if name == "good.example" else {"Authorization": "Bearer own"}
    with place.open(headers=headers) as socket:
        for message in messages:
            socket.send(message)
            assert socket.recv() == message
        socket.send(iter(["in ", "three ", "parts"]))
        assert socket.recv() == "in three parts"
        assert socket.ping().wait(20)
    (finished,) = place.proxy.wait_for_events("request.finished")
    (decided,) = place.proxy.events("request.decided")
    assert (decided["verdict"], decided["http"]["method"]) == ("allow", "GET")
    assert finished["status"] == 101
    assert "reason" not in finished
    size = sum(len(m.encode() if isinstance(m, str) else m) for m in messages)
    assert finished["bytes_sent"] > size
    assert finished["bytes_received"] > size


def test_the_placeholder_of_the_handshake_is_swapped(start_place: Callable[..., Place]) -> None:
    place = start_place()
    with place.open() as socket:
        socket.send("x")
        socket.recv()
    (connection,) = place.server.connections
    headers = connection.request.headers
    assert headers.get_all("authorization") == [f"Bearer {SECRET}"]
    assert headers.get_all("host") == ["good.example"]
    assert headers.get_all("sec-websocket-extensions") == []
    (decided,) = place.proxy.events("request.decided")
    assert decided["swapped"] == [{"secret": "GOOD_KEY", "location": "header:authorization"}]
    assert decided["rule"] == "live"


@pytest.mark.attack("websocket reflection")
@pytest.mark.parametrize(
    "parts",
    [
        [f'{{"you": "sent {SECRET}"}}'],
        [SECRET],
        ["sent ", *SECRET, " in letters"],
        [SECRET[:10], SECRET[10:] + SECRET[:9], SECRET[9:]],
        [b"\x00" + SECRET.encode() + b"\xff"],
        [SECRET.encode()[:20], SECRET.encode()[20:]],
    ],
)
def test_a_secret_in_a_message_is_the_placeholder_again(
    start_place: Callable[..., Place], parts: list[str] | list[bytes]
) -> None:
    def reflect(connection: ServerConnection) -> None:
        connection.send(iter(parts) if len(parts) > 1 else parts[0])
        connection.send("next")

    place = start_place(reflect)
    whole = type(parts[0])().join(parts)  # type: ignore[arg-type] # all str or all bytes
    placeholder = place.proxy.placeholder("good")
    with place.open() as socket:
        got = socket.recv()
        assert socket.recv() == "next"
    if isinstance(whole, bytes):
        assert got == whole.replace(SECRET.encode(), placeholder.encode())
    else:
        assert got == whole.replace(SECRET, placeholder)
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert finished["reflected"] == whole.count(SECRET if isinstance(whole, str) else b"sk-real+/")
    for form in forms_of(SECRET):
        assert form not in place.proxy.everything_written()


def test_a_secret_in_pings_and_close_is_the_placeholder_again(
    start_place: Callable[..., Place],
) -> None:
    def reflect(connection: ServerConnection) -> None:
        connection.ping(SECRET)
        connection.send("x")
        connection.recv()
        connection.close(1008, f"bad key {SECRET}")

    place = start_place(reflect)
    with place.open() as socket:
        assert socket.recv() == "x"
        socket.send("go on")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason == f"bad key {place.proxy.placeholder('good')}"


def test_a_refused_handshake_is_passed_on_as_what_it_is(start_place: Callable[..., Place]) -> None:
    place = start_place()
    with pytest.raises(InvalidStatus) as refused:
        place.open("/not-live")
    assert refused.value.response.status_code == 426
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert finished["status"] == 426


def test_path_query_and_subprotocol_are_the_clients(start_place: Callable[..., Place]) -> None:
    place = start_place(echo_path)
    with place.open("/live/room?id=1", subprotocols=["chat", "other"]) as socket:
        assert socket.recv() == "/live/room?id=1"
        assert socket.subprotocol == "chat"


def echo_path(connection: ServerConnection) -> None:
    assert connection.request is not None
    connection.send(connection.request.path)


def test_a_policy_that_takes_the_rule_away_leaves_an_open_websocket(
    start_place: Callable[..., Place],
) -> None:
    place = start_place()
    with place.open() as socket:
        socket.send("before")
        assert socket.recv() == "before"
        place.proxy.write_policy({"version": 1, "allow": [{"name": "no", "hosts": ["a.example"]}]})
        place.proxy.wait_for_events("policy.loaded", 2)
        socket.send("after")
        assert socket.recv() == "after"


def test_what_the_client_says_is_bounded_like_a_body(start_place: Callable[..., Place]) -> None:
    place = start_place(policy=POLICY | {"limits": {"max_request_body_bytes": 1000}})
    with place.open() as socket:
        socket.send("x" * 500)
        assert socket.recv() == "x" * 500
        socket.send("x" * 500)
        with pytest.raises(ConnectionClosed):
            socket.recv()
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert finished["reason"] == "body_too_large"
    assert finished["bytes_sent"] <= 1000


@pytest.mark.parametrize("when", ["", ":after"])
@pytest.mark.parametrize("stage", ["Upgrade", "Scrub", "Record"])
def test_a_hook_that_fails_at_the_101_opens_nothing(
    start_place: Callable[..., Place], stage: str, when: str
) -> None:
    def reflect(connection: ServerConnection) -> None:
        connection.send(SECRET)

    place = start_place(reflect, faults=True)
    with place.proxy.sabotage(f"{stage}.responseheaders{when}"):
        with pytest.raises((InvalidStatus, InvalidMessage)) as refused:
            place.open()
        if isinstance(refused.value, InvalidStatus):
            assert refused.value.response.status_code == 503
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert finished["reason"] == "internal_error"
    with place.open() as socket:
        assert socket.recv() == place.proxy.placeholder("good")
