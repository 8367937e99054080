"""Invariant 3: no look-up and no SYN before (host, port), and the request, are allowed."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable

import pytest
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream


@pytest.fixture
def named(start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]) -> Scene:
    """named.example has to be looked up: nothing in the policy says where it is."""
    upstream = start_upstream("named.example")
    policy = {
        "connections": {
            "named": {
                "hosts": ["named.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"env": "KEY"},
            }
        },
        "allow": [
            {
                "name": "named", "connection": "named", "ports": [upstream.port],
                "methods": ["GET"], "paths": ["/v1/**"],
            }
        ],
        "upstream": {"allow_addresses": ["127.0.0.1/32"]},
    }  # fmt: skip
    return start_scene(
        policy, [upstream], {}, environ={"KEY": "sk-real-named-0123456789"},
        names={"named.example": [["127.0.0.1"]]},
    )  # fmt: skip


def test_a_tunnel_alone_looks_nothing_up(named: Scene) -> None:
    port = named.upstreams["named.example"].port
    with named.tunnel("named.example", port):
        assert named.proxy.spied("socket.getaddrinfo") == []
        assert named.proxy.spied("socket.connect") == []
    assert named.verdict()["reason"] == "client_closed"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("GET /private HTTP/1.1\nHost: {host}", "path_not_allowed"),
        ("POST /v1/x HTTP/1.1\nHost: {host}", "method_not_allowed"),
        ("GET /v1/../x HTTP/1.1\nHost: {host}", "path_not_canonical"),
        ("GET /v1/x HTTP/1.1\nHost: evil.example", "host_mismatch"),
        ("GET /v1/x HTTP/1.1\nHost: {host}\nHost: {host}", "bad_header"),
        ("GET /v1/x HTTP/1.1\nHost: {host}\nX-Api-Key: another-key", "foreign_credential"),
        ("GET /v1/x HTTP/1.1\nHost: {host}\nX-Debug: {placeholder}", "placeholder_misplaced"),
        ("GET /v1/x HTTP/1.1\nHost: {host}\nX-Api-Key: {placeholder}\nAuthorization: Bearer x",
         "ambiguous_credential"),
        ("TRACE /v1/x HTTP/1.1\nHost: {host}", "bad_method"),
        ("GET https://evil.example/ HTTP/1.1\nHost: {host}", "bad_target"),
    ],
)  # fmt: skip
def test_a_denied_request_looks_nothing_up(named: Scene, head: str, reason: str) -> None:
    port = named.upstreams["named.example"].port
    written = head.format(host=f"named.example:{port}", placeholder=named.placeholder("named"))
    with named.tunnel("named.example", port) as wire:
        answer = wire.request(written)
    status = 405 if head.startswith("TRACE") else None
    named.expect_denied(answer, reason, status=status)


def test_an_allowed_request_looks_its_own_name_up_and_connects_there_only(named: Scene) -> None:
    port = named.upstreams["named.example"].port
    answer = named.request("named.example", "/v1/x", port=port)
    assert answer.status == 200
    assert [arguments[0] for arguments in named.proxy.spied("socket.getaddrinfo")] == [
        "named.example"
    ]
    connected = [arguments[1] for arguments in named.proxy.spied("socket.connect")]
    assert connected == [f"('127.0.0.1', {port})"]


def test_the_verdict_is_written_before_a_byte_goes_up(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    """When the upstream reads the request's first byte, the audit's line is in the file."""
    written: queue.Queue[bytes] = queue.Queue()

    async def look(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        written.put(scene.proxy.audit_file.read_bytes())
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    good = start_upstream("good.example", conversation=look)
    scene = start_scene({"allow": [{"name": "good", "hosts": ["good.example"]}]}, [good], {})
    with scene.tunnel("good.example") as wire:
        # Half a body: the request is not even whole when it is decided and forwarded.
        wire.send(b"POST /x HTTP/1.1\r\nHost: good.example\r\nContent-Length: 5\r\n\r\nhe")
        assert b'"event":"request.decided"' in written.get(timeout=20)
        wire.send(b"llo")
        assert wire.read().status == 200
    scene.expect_allowed("good.example")
