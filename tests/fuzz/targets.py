"""What is fuzzed: each target takes any bytes, and raises where a promise is broken."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h11

from understudy.credentials.forms import echoes
from understudy.credentials.scrub import Guarded, Scrubber, forms_of
from understudy.credentials.secret import Secret
from understudy.gateways.apply import refuse_body
from understudy.gateways.scan import FieldScanner
from understudy.policy.hosts import HostError, canonical_host, parse_authority
from understudy.policy.load import PolicyError, load
from understudy.policy.paths import PathError, readings
from understudy.wire.coding import MAX_GROWTH_BYTES, CodingError, decoder_of
from understudy.wire.head import parse_head
from understudy.wire.scan import HeadScan

SECRET = "sk-real/0a1B+2c=3D"
FIELDS = frozenset({"api_base", "base_url"})
PLACEHOLDER = b"PLACEHOLDER"
_FORMS = forms_of((Guarded("team", Secret(SECRET, "KEY"), PLACEHOLDER.decode()),))


def fuzz_head(data: bytes) -> None:
    """A head that is accepted is read by another parser in the same way."""
    raw = data.replace(b"\r\n\r\n", b"\r\n") + b"\r\n\r\n"
    head = parse_head(raw, max_headers=256)
    if head is None or head.refusal is not None or HeadScan().look(raw, len(raw)) != len(raw):
        return
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    other.receive_data(raw)
    request = other.next_event()
    assert isinstance(request, h11.Request), request
    assert (request.method, request.target) == (head.method.encode(), head.target)
    hosts = [value for name, value in request.headers if name == b"host"]
    assert hosts == [head.host] or (hosts, head.method, head.minor_version) == ([], "CONNECT", 0)
    assert isinstance(other.next_event(), h11.EndOfMessage) != head.has_body


def fuzz_authority(data: bytes) -> None:
    """A host has one canonical form, and the form has itself."""
    with contextlib.suppress(HostError):
        parsed = parse_authority(data, 443)
        assert canonical_host(parsed.host) == parsed.host
        written = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        assert parse_authority(f"{written}:{parsed.port}".encode(), None) == parsed


def fuzz_path(data: bytes) -> None:
    """Every reading of a path that is accepted is one that would be accepted."""
    with contextlib.suppress(PathError):
        read = readings("/" + data.decode("latin-1"))
        for reading in read:
            parts = reading.split("/")
            assert ".." not in parts
            assert "." not in parts
            assert "\0" not in reading


def fuzz_scan(data: bytes) -> None:
    """What is refused of a whole body is refused of one in pieces, however they are cut."""
    size, body = _take_size(data)
    for is_form in (False, True):
        scanner = FieldScanner(FIELDS, is_form=is_form)
        found = any(scanner.feed(piece) for piece in _cut(body, size))
        refused = refuse_body(FIELDS, body, is_form=is_form)
        assert found or not refused or (_is_broken_json(body) and not is_form)


def fuzz_scrub(data: bytes) -> None:
    """No form of a secret passes, and chunks change nothing."""
    size, body = _take_size(data)
    # One byte stands for the whole secret: a fuzzer would never guess it.
    body = body.replace(b"\xff", SECRET.encode()).replace(b"\xfe", _ESCAPED)
    pieces, whole = Scrubber(_FORMS), Scrubber(_FORMS)
    cleaned = b"".join([*map(pieces.feed, _cut(body, size)), pieces.close()])
    assert cleaned == whole.scrub(body)
    assert pieces.found == whole.found
    for part in cleaned.split(PLACEHOLDER):
        assert not any(form in part for form in (*_SECRET_FORMS, _ESCAPED))


def fuzz_coding(data: bytes) -> None:
    """A coded body becomes bounded plain bytes, or a CodingError."""
    size, body = _take_size(data)
    decoder = decoder_of(("gzip", "deflate", "br", "zstd")[size % 4])
    assert decoder is not None
    with contextlib.suppress(CodingError):
        for piece in _cut(body, size):
            assert sum(map(len, decoder.feed(piece))) <= MAX_GROWTH_BYTES
        decoder.close()


def fuzz_policy(data: bytes) -> None:
    """A policy file gives a policy or problems."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        file = Path(folder, "policy.yaml")
        file.write_bytes(data)
        with contextlib.suppress(PolicyError):
            load(file, {})


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "head": fuzz_head,
    "authority": fuzz_authority,
    "path": fuzz_path,
    "scan": fuzz_scan,
    "scrub": fuzz_scrub,
    "coding": fuzz_coding,
    "policy": fuzz_policy,
}
CORPUS = Path(__file__).parent / "corpus"
_SECRET_FORMS = echoes(SECRET)
_ESCAPED = "".join(f"%25{ord(char):02x}" for char in SECRET).encode()


def _is_broken_json(body: bytes) -> bool:
    """Begins as JSON and is none: refused whole, and of no use to a gateway in pieces."""
    if body.lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n\x00")[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def _take_size(data: bytes) -> tuple[int, bytes]:
    return 1 + (data[0] if data else 0) % 64, data[1:]


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
