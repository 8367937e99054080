"""A chunked body has one end; what is not proper chunks never comes to one."""

from __future__ import annotations

import pytest

from understudy.wire.chunked import ChunkedReader, ChunkError

END = b"0\r\n\r\n"
MISTAKES = {
    "a trailer": b"0\r\nX-Sum: 1\r\n\r\n",
    "a size that is no number": b"x\r\n" + END,
    "a chunk longer than it says": b"1\r\nab\r\n" + END,
    "a size line without end": b"1;" + b"x" * 2000 + b"\r\na\r\n" + END,
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_nobody_reads_on_behind_a_mistake(mistake: str, piece_bytes: int) -> None:
    raw = MISTAKES[mistake] + b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n" + END
    reader = ChunkedReader()
    failed = False
    for start in range(0, len(raw), piece_bytes):
        try:
            reader.feed(raw[start : start + piece_bytes])
        except ChunkError:
            failed = True
        else:
            assert not failed
    for _ in range(3):
        with pytest.raises(ChunkError):
            reader.feed(b"")
    assert not reader.done
