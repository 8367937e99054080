"""A WebSocket takes no more memory and time than it was given."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream
from tests.support.websocket import (
    POLICY,
    SECRET,
    accepted,
    client_frame,
    open_websocket,
    server_frame,
)
from tests.websocket.conftest import Place
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.engine("express")

FRAME = bytes(range(256)) * 4096
FRAMES = 100
FLAT_BYTES = 48 << 20
CLOSE = b"\x03\xe8"


def test_silence_ends_it_when_the_idle_time_is_over(start_place: Callable[..., Place]) -> None:
    place = start_place(policy=POLICY | {"limits": {"idle_timeout_seconds": 1}})
    with place.open(ping_interval=None) as socket:
        socket.send("x")
        assert socket.recv() == "x"
        with pytest.raises(ConnectionClosed):
            socket.recv()
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert finished["status"] == 101
    assert "reason" in finished


def test_its_whole_time_is_bounded_like_a_requests(start_place: Callable[..., Place]) -> None:
    place = start_place(policy=POLICY | {"limits": {"max_stream_seconds": 2}})
    with place.open() as socket:
        socket.send("x")
        assert socket.recv() == "x"
        with pytest.raises(ConnectionClosed):
            socket.recv()
    (finished,) = place.proxy.wait_for_events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "timeout")


def test_at_a_shutdown_it_is_cut_when_the_drain_time_is_over_and_told_of(
    start_place: Callable[..., Place],
) -> None:
    place = start_place(arguments=["--drain-seconds", "0.3"])
    with place.open() as socket:
        socket.send("x")
        assert socket.recv() == "x"
        place.proxy.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert place.proxy.process.wait(20) == 0
    (finished,) = place.proxy.events("request.finished")
    assert finished["status"] == 101
    assert "reason" in finished
    assert place.proxy.events()[-1]["event"] == "proxy.stopped"


def test_a_client_that_does_not_read_makes_the_server_wait(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    async def pour(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted())
        for number in range(FRAMES):
            writer.write(server_frame(FRAME, 2 if number == 0 else 0, first=0))
            await writer.drain()
        writer.write(server_frame(b"", 0) + server_frame(CLOSE, 8))
        await writer.drain()
        writer.close()

    scene = start(start_upstream, start_scene, pour)
    wire = open_websocket(scene)
    wire.socket.settimeout(60)
    before = scene.proxy.peak_memory_bytes()
    look(scene)
    payload = hashlib.sha256()
    with wire.socket.makefile("rb") as stream:
        while (opcode := stream.read(1)[0] & 0xF) != 8:
            length = stream.read(1)[0]
            if length > 125:
                length = int.from_bytes(stream.read(2 if length == 126 else 8))
            payload.update(stream.read(length))
        assert opcode == 8
    assert payload.digest() == hashlib.sha256(FRAME * FRAMES).digest()
    assert scene.proxy.peak_memory_bytes() - before < FLAT_BYTES


def test_a_server_that_does_not_read_makes_the_client_wait(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    frame = client_frame(FRAME, 2)
    reading = asyncio.Event()
    heard = hashlib.sha256()
    size = 0

    async def listen(
        _: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal size
        writer.write(accepted())
        await writer.drain()
        await reading.wait()
        while size < len(frame) * FRAMES:
            data = await reader.read(1 << 20)
            assert data
            size += len(data)
            heard.update(data)
        writer.write(server_frame(CLOSE, 8))
        await writer.drain()
        writer.close()

    scene = start(start_upstream, start_scene, listen)
    wire = open_websocket(scene)
    wire.socket.settimeout(60)
    before = scene.proxy.peak_memory_bytes()
    sending = threading.Thread(target=lambda: [wire.send(frame) for _ in range(FRAMES)])
    sending.start()
    look(scene)
    scene.upstreams["good.example"].soon(reading.set)
    sending.join()
    assert wire.read_until_closed() == server_frame(CLOSE, 8)
    assert heard.digest() == hashlib.sha256(frame * FRAMES).digest()
    assert scene.proxy.peak_memory_bytes() - before < FLAT_BYTES


def start(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], talk: Any
) -> Scene:
    good = start_upstream("good.example", conversation=talk)
    environ = {"GOOD_KEY": SECRET}
    return start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ=environ)


def look(scene: Scene) -> None:
    """Do something else for a while; the proxy answers."""
    for _ in range(20):
        scene.proxy.metrics()
