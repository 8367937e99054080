from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from understudy.audit import sinks
from understudy.audit.sinks import AuditUnavailable, FileSink, StdoutSink, make_sink


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def sink(path):
    sink = FileSink(path)
    sink.start()
    yield sink
    sink.close()


@pytest.fixture
def fake_os(monkeypatch):
    """What the sinks see as ``os``, so that nobody else's calls are faked."""
    fake = SimpleNamespace(**vars(os))
    monkeypatch.setattr(sinks, "os", fake)
    return fake


@pytest.fixture
def disk(fake_os):
    """A disk with ``disk.room`` bytes left; None: as much as there is."""

    class Disk:
        room: int | None = None
        error = errno.ENOSPC

        def write(self, descriptor, data, _write=os.write):
            if self.room is None:
                return _write(descriptor, data)
            if self.room == 0:
                raise OSError(self.error, os.strerror(self.error))
            taken = _write(descriptor, data[: self.room])
            self.room -= taken
            return taken

    disk = Disk()
    fake_os.write = disk.write
    return disk


def test_making_a_sink_has_no_side_effects(path):
    FileSink(path)

    assert not path.exists()


def test_a_file_is_for_its_owner_only(path, sink):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lines_are_appended(path, sink):
    sink.write(b"1\n")
    sink.write(b"2\n")

    again = FileSink(path)
    again.start()
    again.write(b"3\n")
    again.close()

    assert path.read_bytes() == b"1\n2\n3\n"


def test_the_descriptor_is_not_inherited(sink):
    assert not os.get_inheritable(sink._descriptor)


def test_a_line_that_a_crash_tore_is_ended_first(path):
    path.write_bytes(b'{"whole":1}\n{"torn":')
    sink = FileSink(path)
    sink.start()
    sink.write(b'{"next":1}\n')
    sink.close()

    assert path.read_bytes().splitlines()[-1] == b'{"next":1}'


def test_a_full_disk_leaves_no_part_of_a_line_and_writing_resumes(path, sink, disk):
    sink.write(b"first\n")
    disk.room = 3
    with pytest.raises(AuditUnavailable, match="No space left"):
        sink.write(b"second\n")
    with pytest.raises(AuditUnavailable):
        sink.write(b"third\n")
    assert path.read_bytes() == b"first\n"

    disk.room = None
    sink.write(b"fourth\n")
    assert path.read_bytes() == b"first\nfourth\n"


def test_a_line_written_in_parts_is_completed(path, sink, fake_os):
    fake_os.write = lambda descriptor, data: os.write(descriptor, data[:3])

    sink.write(b"0123456789\n")

    assert path.read_bytes() == b"0123456789\n"


def test_another_writers_lines_are_never_cut_off(path, sink, disk, fake_os):
    disk.room = 3

    def append_before(descriptor, *rest):
        with path.open("ab") as other:
            other.write(b"\nother\n")
        return os.lseek(descriptor, *rest)

    fake_os.lseek = append_before
    with pytest.raises(AuditUnavailable):
        sink.write(b"torn line\n")
    disk.room = None
    sink.write(b"next\n")

    assert path.read_bytes() == b"tor\nother\nnext\n"


def test_a_renamed_file_is_followed_at_once_when_told(path, sink, tmp_path):
    sink.write(b"old\n")
    path.rename(tmp_path / "audit.1")
    sink.reopen()
    sink.write(b"new\n")

    assert (tmp_path / "audit.1").read_bytes() == b"old\n"
    assert path.read_bytes() == b"new\n"


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(sinks, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return Clock


@pytest.mark.parametrize("gone", ["renamed", "removed", "replaced"])
def test_a_rotated_file_is_noticed_within_a_second(path, tmp_path, clock, gone):
    sink = FileSink(path)
    sink.start()
    sink.write(b"old\n")
    if gone == "removed":
        path.unlink()
    else:
        path.rename(tmp_path / "audit.1")
    if gone == "replaced":
        path.write_bytes(b"theirs\n")
    clock.now += 1.0
    sink.write(b"new\n")
    sink.close()

    assert path.read_bytes() == (b"theirs\nnew\n" if gone == "replaced" else b"new\n")


def test_a_line_that_went_into_a_deleted_file_is_written_again(path, clock):
    sink = FileSink(path)
    sink.start()
    for line in (b"1\n", b"2\n"):
        path.unlink()
        sink.write(line)
        assert path.read_bytes() == line
    sink.close()


def test_where_links_are_not_counted_no_file_counts_as_deleted(path, fake_os):
    """As on some file systems in user space."""

    def fstat(descriptor):
        status = list(os.fstat(descriptor))
        status[stat.ST_NLINK] = 0
        return os.stat_result(status)

    fake_os.fstat = fstat
    sink = FileSink(path)
    sink.start()
    sink.write(b"1\n")
    sink.write(b"2\n")
    sink.close()

    assert path.read_bytes() == b"1\n2\n"


def test_after_a_close_that_failed_the_number_is_used_no_more(path, sink, disk, fake_os):
    """It may be another file's by then."""

    def close(descriptor):
        os.close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fake_os.close = close
    disk.room = 0
    with pytest.raises(AuditUnavailable, match="No space left"):
        sink.write(b"1\n")
    disk.room = None
    with path.with_name("other").open("w+b") as other:
        sink.write(b"2\n")
        assert other.read() == b""

    assert path.read_bytes() == b"2\n"


def test_the_path_is_not_looked_at_for_every_line(path, clock, monkeypatch):
    sink = FileSink(path)
    sink.start()
    looks = []
    monkeypatch.setattr(Path, "stat", looks.append)
    for _ in range(100):
        sink.write(b"x\n")
    sink.close()

    assert looks == []


def test_a_folder_that_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(AuditUnavailable, match=r"gone/audit\.jsonl.*cannot be written"):
        FileSink(tmp_path / "gone/audit.jsonl").start()


def test_a_file_that_may_not_be_written_is_a_sentence(path, fake_os):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    fake_os.open = refuse
    with pytest.raises(AuditUnavailable, match="Permission denied"):
        FileSink(path).start()


def test_a_sink_recovers_when_its_folder_comes_back(tmp_path):
    sink = FileSink(tmp_path / "later/audit.jsonl")
    with pytest.raises(AuditUnavailable):
        sink.write(b"1\n")
    (tmp_path / "later").mkdir()
    sink.write(b"2\n")
    sink.close()

    assert (tmp_path / "later/audit.jsonl").read_bytes() == b"2\n"


def test_a_fifo_and_a_folder_are_refused(path, tmp_path):
    os.mkfifo(path)

    with pytest.raises(AuditUnavailable, match="standard output"):
        FileSink(path).start()
    with pytest.raises(AuditUnavailable, match="Is a directory"):
        FileSink(tmp_path).start()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_that_is_full_is_unavailable():
    sink = FileSink(Path("/dev/full"))
    sink.start()

    with pytest.raises(AuditUnavailable, match="No space left"):
        sink.write(b"x\n")
    sink.close()


def test_no_descriptor_leaks_however_often_a_sink_fails(tmp_path):
    before = os.dup(1)
    os.close(before)
    sink = FileSink(tmp_path)
    for _ in range(20):
        with pytest.raises(AuditUnavailable):
            sink.write(b"x\n")

    after = os.dup(1)
    os.close(after)
    assert after == before  # the lowest free number


def test_check_says_whether_the_disk_has_room(sink, fake_os):
    sink.check()

    fake_os.fstatvfs = lambda _: SimpleNamespace(f_bavail=0)
    with pytest.raises(AuditUnavailable, match="No space left"):
        sink.check()


# -- standard output


@pytest.fixture
def pipe():
    ends = dict(zip(("reader", "writer"), os.pipe(), strict=True))
    yield ends
    for end in ends.values():
        os.close(end)


def test_standard_output_gets_each_line_at_once(pipe):
    sink = StdoutSink(pipe["writer"])
    sink.start()
    sink.write(b"line\n")

    assert os.read(pipe["reader"], 100) == b"line\n"


def test_a_reader_that_went_away_is_unavailable(pipe):
    sink = StdoutSink(pipe["writer"])
    os.close(pipe.pop("reader"))

    with pytest.raises(AuditUnavailable, match="Broken pipe"):
        sink.write(b"line\n")
    with pytest.raises(AuditUnavailable, match="Broken pipe"):
        sink.check()


def test_a_line_torn_in_a_pipe_is_ended_before_the_next(pipe, disk):
    sink = StdoutSink(pipe["writer"])
    disk.room = 3
    with pytest.raises(AuditUnavailable):
        sink.write(b"torn\n")
    disk.room = None
    sink.write(b"next\n")
    sink.write(b"last\n")

    assert os.read(pipe["reader"], 100) == b"tor\nnext\nlast\n"


def test_a_closed_descriptor_is_unavailable():
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)

    with pytest.raises(AuditUnavailable, match="Bad file descriptor"):
        StdoutSink(writer).start()


def test_a_dash_is_standard_output_and_all_else_a_file():
    assert make_sink("-").name == "stdout"
    assert make_sink("audit.jsonl").name == "file"
    assert {sink("x").name for sink in sinks.SINKS.values()} == set(sinks.SINKS)
