"""Budgets: what is too large, too slow or too much is cut off, and memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.client import REFUSED, client_hello
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.upstream import Upstream

from understudy.engine.gaps import GAPS

POLICY = {
    "allow": [{"name": "good", "hosts": ["good.example"]}],
    "limits": {
        "max_header_bytes": 8192,
        "max_headers": 50,
        "max_request_body_bytes": 1000,
        "head_timeout_seconds": 0.3,
        "idle_timeout_seconds": 1,
        "max_connections": 5,
        "max_connections_per_client": 3,
    },
}
GET = b"GET / HTTP/1.1\r\nHost: good.example\r\n"


@pytest.fixture(scope="module")
def strict(
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[tuple[Proxy, Upstream]]:
    with Upstream("good.example", upstream_ca) as good:
        policy = complete_policy(POLICY, [good], upstream_ca_file)
        with Proxy(policy, tmp_path_factory.mktemp("budgets"), engine) as proxy:
            yield proxy, good


@pytest.fixture
def tight(strict: tuple[Proxy, Upstream]) -> Iterator[Scene]:
    proxy, good = strict
    scene = Scene(proxy, {"good.example": good})
    yield scene
    scene.leave()


@pytest.mark.attack("endless head")
@pytest.mark.parametrize("place", ["proxy port", "tunnel"])
def test_endless_header_is_cut_off_at_the_limit(tight: Scene, place: str) -> None:
    wire = tight.tunnel("good.example") if place == "tunnel" else tight.wire()
    before = tight.proxy.peak_memory_bytes()
    wire.send(GET + b"X: ")
    answered = b""
    try:
        for _ in range(60 * 16):
            wire.send(b"a" * 65536)
    except REFUSED:
        pass
    answered = wire.read_until_closed()
    # The answer may be lost to a reset: the client is still writing when it is cut off.
    assert answered == b"" or answered.startswith(b"HTTP/1.1 431 ")
    line = tight.verdict()
    assert (line["event"], line["reason"]) == ("connection.rejected", "header_too_large")
    assert tight.proxy.peak_memory_bytes() - before < 20_000_000
    tight.expect_nothing_upstream()


@pytest.mark.attack("endless head")
@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * 9000 + b"\r\n\r\n",
        GET + b"".join(b"X%d: y\r\n" % n for n in range(300)) + b"\r\n",
        GET + b"a: b\r\n" * 2000 + b"\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: good.example\r\n\r\n",
    ],
)
def test_head_over_a_limit_is_431(tight: Scene, head: bytes) -> None:
    with tight.tunnel("good.example") as wire:
        answer = wire.request(head)
    line = tight.verdict()
    assert answer.status == 431
    assert answer.reason == line["reason"] == "header_too_large"
    tight.expect_nothing_upstream()


@pytest.mark.attack("large body")
def test_declared_body_over_the_limit_is_413_before_it_is_sent(tight: Scene) -> None:
    with tight.tunnel("good.example") as wire:
        answer = wire.request(
            b"POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 1001\r\n\r\n"
        )
    tight.expect_denied(answer, "body_too_large")


@pytest.mark.attack("large body")
def test_chunked_body_over_the_limit_never_arrives_whole(tight: Scene) -> None:
    with tight.tunnel("good.example") as wire:
        wire.send(
            b"POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1f4\r\n%s\r\n" % (b"a" * 500) * 3
        )
        answer = wire.read()
    assert (answer.status, answer.reason) == (413, "body_too_large")
    assert len(tight.verdicts()) == 1
    (finished,) = tight.events("request.finished")
    assert finished["reason"] == "body_too_large"
    assert tight.seen("good.example") == []


@pytest.mark.attack("endless head")
@pytest.mark.parametrize("place", ["proxy port", "tunnel", "tunnel TLS"])
def test_half_a_head_is_closed_in_time(tight: Scene, place: str) -> None:
    wire = tight.wire()
    if place != "proxy port":
        assert wire.connect("good.example:443").status == 200
    if place == "tunnel TLS":
        wire.start_tls("good.example")
    wire.send(GET)
    tight.expect_closed(wire, "timeout")


@pytest.mark.attack("endless head")
def test_one_byte_at_a_time_does_not_extend_the_time(tight: Scene) -> None:
    wire = tight.tunnel("good.example")
    wire.socket.settimeout(0.05)
    received = b"-"
    try:
        for byte in GET + b"X: " + b"a" * 1000:
            wire.send(bytes([byte]))
            try:
                received = wire.socket.recv(1)
                break
            except TimeoutError:
                continue
    except REFUSED:
        received = b""
    assert received == b""
    line = tight.verdict()
    assert line["reason"] == "timeout"
    tight.expect_nothing_upstream()


@pytest.mark.attack("endless head")
@pytest.mark.parametrize("place", ["silence", "half a hello", "tunnel silence"])
def test_silence_is_closed_when_the_idle_time_is_over(tight: Scene, place: str) -> None:
    wire = tight.wire()
    if place != "silence":
        assert wire.connect("good.example:443").status == 200
    if place == "half a hello":
        wire.send(client_hello("good.example")[:50])
    assert wire.read_until_closed() == b""
    verdicts = tight.verdicts()
    assert len(verdicts) == (0 if place == "silence" else 1), verdicts
    tight.expect_nothing_upstream()


@pytest.mark.attack("endless head")
def test_connections_beyond_the_limit_are_closed_and_told_of(tight: Scene) -> None:
    kept = [tight.wire(f"127.0.0.{1 + n % 2}") for n in range(5)]
    for wire in kept:
        assert wire.connect("good.example:443").status == 200
        wire.start_tls("good.example")
    sixth = tight.wire("127.0.0.3")
    assert sixth.read_until_closed() == b""
    assert kept[0].request(GET + b"\r\n").status == 200
    for wire in kept:
        wire.close()
    sixth.close()
    tight.settle()
    with tight.tunnel("good.example") as again:
        assert again.request(GET + b"\r\n").status == 200
    (line,) = [v for v in tight.verdicts() if v["reason"] == "too_many_connections"]
    assert (line["event"], line["detail"]) == ("connection.rejected", "in all")


@pytest.mark.attack("endless head")
def test_connections_of_one_client_beyond_its_limit_leave_room_for_others(tight: Scene) -> None:
    kept = [tight.tunnel("good.example") for _ in range(3)]
    assert tight.wire().read_until_closed() == b""
    other = tight.wire("127.0.0.2")
    assert other.connect("good.example:443").status == 200
    for wire in [*kept, other.start_tls("good.example")]:
        assert wire.request(GET + b"\r\n").status == 200
    kept[0].close()
    tight.proxy.wait_until(lambda: tight.proxy.open_connections() == 3)
    with tight.tunnel("good.example") as again:
        assert again.request(GET + b"\r\n").status == 200
    (line,) = [v for v in tight.verdicts() if v["reason"] == "too_many_connections"]
    assert (line["client"]["address"], line["detail"]) == ("127.0.0.1", "from this client")
    counted = {"verdict": "deny", "reason": "too_many_connections", "rule": "none"}
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(counted.items()))
    assert tight.proxy.metrics()[f"understudy_requests_total{{{labels}}}"] >= 1


@pytest.mark.attack("endless head")
def test_as_many_headers_as_the_limit_pass_and_one_more_is_431(tight: Scene) -> None:
    with tight.tunnel("good.example") as wire:
        most = GET + b"".join(b"X%d: y\r\n" % n for n in range(49))
        assert wire.request(most + b"\r\n").status == 200
        assert wire.request(most + b"X: y\r\n\r\n").reason == "header_too_large"
    assert [line["reason"] for line in tight.verdicts()] == ["allowed", "header_too_large"]
    assert len(tight.seen("good.example")) == 1


@pytest.mark.attack("endless head")
def test_an_engine_says_at_its_start_what_it_does_not_enforce(
    strict: tuple[Proxy, Upstream],
) -> None:
    proxy, _ = strict
    docs = (Path(__file__).parents[2] / "docs/architecture.md").read_text("utf-8")
    for gap in GAPS:
        assert gap in docs
        assert (gap in proxy.log) == (proxy.engine == "mitmproxy")
