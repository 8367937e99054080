"""A body that streams to a gateway: a refused field ends the request, however it is cut."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable

import pytest
from tests.support.client import Answer, Wire
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

SECRET = "sk-virtual-key-of-the-gateway"
POLICY = {
    "gateway": {"url": "https://litellm.internal", "kind": "litellm", "providers": ["openai"]},
    "connections": {"team": {"provider": "openai", "secret": {"env": "OPENAI_API_KEY"}}},
    "allow": [{"name": "gpt", "connection": "team"}],
}
FIELD = b'{"model":"m","api_base":"https://evil.example"}'


@pytest.fixture
def gateway(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream("litellm.internal")


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy], gateway: Upstream) -> Proxy:
    return start_proxy(POLICY, upstreams=[gateway], environ={"OPENAI_API_KEY": SECRET})


def head(proxy: Proxy) -> bytes:
    text = f"""
        POST /v1/chat/completions HTTP/1.1
        Host: api.openai.com
        Authorization: Bearer {proxy.placeholder("team")}
        Content-Type: application/json
        Transfer-Encoding: chunked
    """
    return inspect.cleandoc(text).replace("\n", "\r\n").encode() + b"\r\n\r\n"


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def send(wire: Wire, data: bytes) -> Answer | None:
    """Send and read; None where the proxy closed instead of answering."""
    with contextlib.suppress(ConnectionError):
        return wire.send(data).read()
    return None


@pytest.mark.parametrize(
    "chunks",
    [
        (FIELD,),
        tuple(FIELD[i : i + 1] for i in range(len(FIELD))),
        # Without the chunk in which the field is found, the rest would be a good document.
        (b'{"model":"m","api_base', b'"', b'":"https://evil.example"}'),
        (b'{"model":"m","api_base":1,', b'"api_base":2,', b'"api_base":"https://evil.example"}'),
    ],
    ids=["whole", "byte-by-byte", "quote-alone", "repeated"],
)
@pytest.mark.parametrize("fresh", [True, False], ids=["new-connection", "kept-connection"])
def test_refused_field_in_a_stream_never_completes_at_the_gateway(
    proxy: Proxy, gateway: Upstream, chunks: tuple[bytes, ...], fresh: bool
) -> None:
    good = 0
    with proxy.tunnel("api.openai.com") as wire:
        if not fresh:
            answer = send(wire, head(proxy) + chunked(b'{"model":"m"}'))
            assert answer is not None
            assert answer.status == 200
            good = 1
        answer = send(wire, head(proxy) + chunked(*chunks))

    assert answer is None or (answer.status, answer.reason) == (403, "gateway_override_denied")
    [*_, finished] = proxy.wait_for_events("request.finished", good + 1)
    assert finished["reason"] == "gateway_override_denied"
    assert len(gateway.requests) == good
    assert b"evil.example" not in gateway.received


def test_nothing_reaches_the_gateway_after_the_refused_field(
    proxy: Proxy, gateway: Upstream
) -> None:
    with proxy.tunnel("api.openai.com") as wire:
        wire.send(head(proxy) + b'14\r\n{"model":"m","n":1  \r\n')
        gateway.wait_for(lambda g: g.handshakes == 1)
        answer = send(wire, chunked(b',"api_base"', b':"https://evil.example"}'))

    assert answer is None or answer.reason == "gateway_override_denied"
    assert gateway.requests == []
    assert b"evil.example" not in gateway.received
