"""Several processes, one destination: lines stay whole, also where a writer is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.audit import sinks
from understudy.audit.sinks import AuditUnavailable, FileSink, StdoutSink
from understudy.audit.turns import SharedSink, Turns

# Forks, which a process with the test suite's threads must not.
WRITERS = """\
import json, os, signal, sys
from pathlib import Path
from understudy.audit.sinks import make_sink
from understudy.audit.turns import SharedSink, Turns

destination, folder, kill = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "kill"
turns = Turns(folder)
children = []
for writer in range(4):
    child = os.fork()
    if child == 0:
        sink = SharedSink(make_sink(destination), turns)
        sink.start()
        number = 0
        while kill or number < 200:
            # Longer and shorter than what a pipe takes at once, and than a page.
            line = {"writer": writer, "number": number, "fill": "x" * (number % 9 * 1500)}
            sink.write(json.dumps(line).encode() + b"\\n")
            number += 1
        os._exit(0)
    children.append(child)
if kill:
    for child in children[:3]:
        sys.stdin.read(1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    sys.stdin.read(1)
    os.kill(children[3], signal.SIGKILL)
for child in children:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass
"""


def start_writers(destination: str, folder: Path, mode: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITERS, destination, str(folder), mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_every_line_of_every_process_is_whole(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "audit.jsonl"
    with start_writers("-" if kind == "pipe" else str(file), tmp_path, "finish") as writers:
        out, _ = writers.communicate(timeout=60)
    lines = [json.loads(line) for line in (out or file.read_bytes()).splitlines()]
    assert writers.returncode == 0
    for writer in range(4):
        numbers = [line["number"] for line in lines if line["writer"] == writer]
        assert numbers == list(range(200))


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_writer_that_is_killed_tears_its_own_line_at_most_and_holds_nobody_up(
    tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "audit.jsonl"
    with start_writers("-" if kind == "pipe" else str(file), tmp_path, "kill") as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        data = b""
        for _ in range(4):
            if kind == "pipe":
                data += b"".join(writers.stdout.readline() for _ in range(300))
            else:
                size = file.stat().st_size if file.exists() else 0
                while not file.exists() or file.stat().st_size < size + 500_000:
                    assert writers.poll() is None
            writers.stdin.write(b"k")
            writers.stdin.flush()
        out = writers.stdout.read()
    data += out if kind == "pipe" else file.read_bytes()
    torn = 0
    numbers: dict[int, int] = {}
    for line in data.splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            torn += 1
        else:
            assert read["number"] == numbers.get(read["writer"], -1) + 1
            numbers[read["writer"]] = read["number"]
    assert torn <= 4
    assert 3 in numbers  # it lived through the death of the others


def test_after_a_torn_line_of_another_process_a_file_goes_on_in_a_new_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    turns = Turns(tmp_path)
    sink = SharedSink(FileSink(file), turns)
    sink.start()
    sink.write(b"one\n")
    sink.write(b"two\n")
    with file.open("ab") as other:
        other.write(b"tor")
    turns.broken = True  # as a process that is killed while it writes leaves it
    sink.write(b"three\n")
    turns.broken = True  # killed before or after its write: nothing is torn
    sink.write(b"four\n")
    assert file.read_bytes() == b"one\ntwo\ntor\nthree\nfour\n"


def test_an_end_that_was_torn_when_the_file_was_opened_is_mended_once(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"tor")
    turns = Turns(tmp_path)
    processes = [SharedSink(FileSink(file), turns) for _ in range(3)]
    for process in processes:
        process.start()
    for number, process in enumerate(processes):
        process.write(b"%d\n" % number)
    assert file.read_bytes() == b"tor\n0\n1\n2\n"


def test_after_a_long_line_that_another_process_tore_a_pipe_goes_on_in_a_new_line(
    tmp_path: Path,
) -> None:
    reading, writing = os.pipe()
    turns = Turns(tmp_path)
    try:
        sink = SharedSink(StdoutSink(writing), turns)
        sink.start()
        sink.write(b"one\n")
        os.write(writing, b"tor")
        turns.broken = True
        sink.write(b"two\n")
        sink.write(b"three\n")
        assert os.read(reading, 100) == b"one\ntor\ntwo\nthree\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_where_nobody_reads_only_the_first_of_all_processes_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    turns = Turns(tmp_path)
    patience: list[float] = []
    look = sinks._not_writable

    def watch(descriptor: int, timeout_seconds: float) -> OSError | None:
        patience.append(timeout_seconds)
        return look(descriptor, 0)

    try:
        processes = [SharedSink(StdoutSink(writing), turns) for _ in range(3)]
        for process in processes:
            process.start()
        while True:
            try:
                os.write(writing, b"x" * 4096)
            except BlockingIOError:
                break
        monkeypatch.setattr(sinks, "_not_writable", watch)
        for process in processes:
            with pytest.raises(AuditUnavailable):
                process.write(b"lost\n")
        assert patience == [sinks.STALL_SECONDS, 0, 0]
        os.read(reading, 1 << 20)
        for process in processes:
            process.write(b"kept\n")
        assert os.read(reading, 100) == b"kept\n" * 3
    finally:
        os.close(reading)
        os.close(writing)


def test_a_line_that_cannot_be_written_leaves_the_turn_to_others(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    full = SharedSink(FileSink(Path("/dev/full")), turns)
    file = tmp_path / "audit.jsonl"
    with pytest.raises(AuditUnavailable):
        full.write(b"lost\n")
    SharedSink(FileSink(file), turns).write(b"kept\n")
    assert file.read_bytes() == b"kept\n"
