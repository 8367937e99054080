"""Upstreams that reset at every stage, names that resolve slowly or not: 502, and on it goes."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.client import REFUSED, Answer
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.upstream import Conversation, Received, Upstream

SECRET = "sk-real-faulty-0123456789abcdef"
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}
Break = Callable[[asyncio.StreamWriter], None]


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a TCP reset, TLS and all left as they are."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def cut(writer: asyncio.StreamWriter) -> None:
    """End the connection in order, at a place where it must not end."""
    writer.close()


def converse(before: bytes, after_body_bytes: int, breaking: Break) -> Conversation:
    """Read a part of the body, write ``before``, break; the next connections answer properly."""
    broken = False

    async def conversation(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal broken
        if broken:
            await reader.readexactly(int(received.header("content-length") or 0))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        broken = True
        await reader.readexactly(after_body_bytes)
        writer.write(before)
        await writer.drain()
        breaking(writer)

    return conversation


BEFORE_AN_ANSWER = {
    "after the request's head": (b"", 0),
    "in the request's body": (b"", 10),
    "after 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n", 0),
    "after 103 Early Hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0),
    "in the status line": (b"HTTP/1.1 20", 0),
    "in a header": (b"HTTP/1.1 200 OK\r\nContent-Le", 0),
    "before the head's end": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", 0),
}
IN_AN_ANSWER = {
    "after the head": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n",
    "in a body": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
    "in a chunk's size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "before the last line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
}
BODY = b"b" * 20


def ask(scene: Scene) -> Answer:
    headers = [("X-Api-Key", scene.placeholder("good"))]
    return scene.request("good.example", method="POST", headers=headers, body=BODY)


def expect_recovered(scene: Scene, status: int) -> None:
    """One broken request told of as such, and the next one works."""
    scene.settle()
    (finished,) = scene.proxy.wait_for_events("request.finished")
    assert (finished["status"], finished["reason"]) == (status, "upstream_failed")
    assert finished["detail"]
    assert ask(scene).status == 200
    scene.settle()
    assert [line["verdict"] for line in scene.events("request.decided")] == ["allow", "allow"]


@pytest.mark.parametrize("breaking", [reset, cut])
@pytest.mark.parametrize("stage", list(BEFORE_AN_ANSWER))
def test_upstream_that_breaks_before_its_answer_is_502(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    stage: str,
    breaking: Break,
) -> None:
    conversation = converse(*BEFORE_AN_ANSWER[stage], breaking)
    good = start_upstream("good.example", conversation=conversation)
    scene = start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})
    answer = ask(scene)
    while answer.status < 200:
        answer = scene.wires[-1].read()
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    assert len(good.requests) == 1, "what may have been done is not done again"
    expect_recovered(scene, 502)


@pytest.mark.parametrize("breaking", [reset, cut])
@pytest.mark.parametrize("stage", list(IN_AN_ANSWER))
def test_upstream_that_breaks_in_its_answer_is_never_passed_off_as_whole(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    stage: str,
    breaking: Break,
) -> None:
    conversation = converse(IN_AN_ANSWER[stage], len(BODY), breaking)
    good = start_upstream("good.example", conversation=conversation)
    scene = start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})
    try:
        answer = ask(scene)
    except REFUSED:
        status = 200
    else:
        status = answer.status
        assert (status, answer.reason) == (502, "upstream_failed")
    expect_recovered(scene, status)


WHOLE = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("breaking", [reset, cut])
@pytest.mark.parametrize("framing", list(WHOLE))
def test_upstream_that_breaks_after_its_last_byte_has_answered(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    framing: str,
    breaking: Break,
) -> None:
    conversation = converse(WHOLE[framing], len(BODY), breaking)
    good = start_upstream("good.example", conversation=conversation)
    scene = start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})
    answer = ask(scene)
    assert (answer.status, answer.body) == (200, b"whole")
    assert ask(scene).status == 200, "the broken connection is used no more"
    scene.settle()
    assert len(good.requests) == 2
    finished = scene.events("request.finished")
    assert [(line["status"], line.get("reason")) for line in finished] == [(200, None)] * 2


def test_a_name_that_does_not_resolve_now_is_asked_again_at_the_next_request(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    good = start_upstream("good.example")
    policy = POLICY | {
        "upstream": {"connect_to": {"good.example:443": f"inside.example:{good.port}"}}
    }
    scene = start_scene(
        policy,
        [],
        {SECRET: ["good.example"]},
        environ={"GOOD_KEY": SECRET},
        names={"inside.example": [[], ["127.0.0.1"]]},
    )
    assert ask(scene).status == 502
    assert ask(scene).status == 200


SLOW = {
    "allow": [
        {"name": "slow", "hosts": ["*.slow.example"]},
        {"name": "quick", "hosts": ["quick.example"]},
    ],
    "limits": {"connect_timeout_seconds": 0.5},
}
SLOW_NAMES = [f"n{number}.slow.example" for number in range(100)]


@pytest.fixture
def slow_names(start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]) -> Scene:
    """A hundred names that nobody answers for, and one that is quick."""
    quick = start_upstream("quick.example")
    policy = SLOW | {
        "upstream": {"connect_to": {"quick.example:443": f"inside.example:{quick.port}"}}
    }
    names: dict[str, list[list[str]]] = {name: [["slow:60"]] for name in SLOW_NAMES}
    names["inside.example"] = [["127.0.0.1"]]
    return start_scene(policy, [], {}, names=names)


def test_slow_name_service_is_502_in_time_and_holds_no_other_request_up(slow_names: Scene) -> None:
    answers: list[int] = []

    def wait(name: str) -> None:
        with slow_names.proxy.tunnel(name) as wire:
            answers.append(wire.request(f"GET / HTTP/1.1\nHost: {name}").status)

    threads = [threading.Thread(target=wait, args=(name,)) for name in SLOW_NAMES[:20]]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert slow_names.request("quick.example").status == 200
    assert slow_names.proxy.admin("/healthz")[0] == 200
    for thread in threads:
        thread.join(30)
    assert answers == [502] * 20
    assert time.monotonic() - started < 30, "twenty took as long as the name service"


def test_look_ups_are_limited_and_one_for_a_name(slow_names: Scene) -> None:
    def wait(name: str) -> None:
        with slow_names.proxy.tunnel(name) as wire:
            assert wire.request(f"GET / HTTP/1.1\nHost: {name}").status == 502

    names = [*SLOW_NAMES, *[SLOW_NAMES[0]] * 10]
    threads = [threading.Thread(target=wait, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    asked = [arguments[0] for arguments in slow_names.proxy.spied("socket.getaddrinfo")]
    assert len(asked) == len(set(asked)) <= 64


def test_look_ups_that_hang_do_not_hold_up_the_end(start_proxy: Callable[..., Proxy]) -> None:
    name = SLOW_NAMES[0]
    proxy = start_proxy({"version": 1} | SLOW, names={name: [["slow:60"]]})
    assert proxy.request("GET", name).status == 502
    started = time.monotonic()
    proxy.process.terminate()
    assert proxy.process.wait(30) == 0
    assert time.monotonic() - started < 10
