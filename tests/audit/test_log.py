from __future__ import annotations

import asyncio
import json
import threading

import pytest

from understudy.audit.line import encode
from understudy.audit.log import MAX_BATCH_BYTES, AuditLog, AuditUnavailable
from understudy.audit.sinks import FileSink


class FakeSink:
    name = "fake"

    def __init__(self):
        self.works = True
        self.lines = []
        self.calls = []

    def _try(self):
        if not self.works:
            raise AuditUnavailable("no")

    def start(self):
        self._try()

    def check(self):
        self._try()

    def write(self, line):
        self._try()
        self.lines.append(line)

    def reopen(self):
        self.calls.append("reopen")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def sink():
    return FakeSink()


@pytest.fixture
def results():
    return []


def make_log(sink, results, failure):
    def note(name, result, lines):
        results.extend([(name, result)] * lines)

    return AuditLog(sink, failure, note)


def test_every_event_is_one_line_and_is_counted(sink, results):
    log = make_log(sink, results, "fail_closed")
    log.start()
    log.write({"event": "a"})

    assert sink.lines == [b'{"event":"a"}\n']
    assert results == [("fake", "written")]


def test_fail_closed_refuses_until_the_sink_works_again(sink, results):
    log = make_log(sink, results, "fail_closed")
    sink.works = False
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            log.write({"event": "lost"})
    assert not log.healthy

    sink.works = True
    log.write({"event": "kept"})
    assert log.healthy
    assert sink.lines == [b'{"event":"kept"}\n']
    assert results == [("fake", "failed"), ("fake", "failed"), ("fake", "written")]


def test_best_effort_counts_and_carries_on(sink, results):
    log = make_log(sink, results, "best_effort")
    sink.works = False
    log.start()
    log.write({"event": "lost"})
    assert not log.healthy
    sink.works = True
    log.write({"event": "kept"})

    assert sink.lines == [b'{"event":"kept"}\n']
    assert results == [("fake", "failed"), ("fake", "written")]


def test_fail_closed_does_not_start_without_its_sink(sink, results):
    sink.works = False

    with pytest.raises(AuditUnavailable):
        make_log(sink, results, "fail_closed").start()


def test_health_returns_without_waiting_for_a_line(sink, results):
    log = make_log(sink, results, "fail_closed")
    sink.works = False
    with pytest.raises(AuditUnavailable):
        log.write({})
    assert not log.healthy

    sink.works = True
    assert log.healthy
    assert sink.lines == []


def test_lines_are_redacted_before_they_are_written(sink):
    log = AuditLog(sink, redact=lambda line: line.replace(b"placeholder", b"<hidden>"))
    log.write({"path": "/placeholder"})

    assert sink.lines == [b'{"path":"/<hidden>"}\n']


def test_reopening_and_closing_reach_the_sink(sink, results):
    log = make_log(sink, results, "fail_closed")
    log.reopen()
    log.close()

    assert sink.calls == ["reopen", "close"]


def test_threads_never_mix_their_lines(tmp_path):
    log = AuditLog(FileSink(tmp_path / "audit.jsonl"))
    log.start()

    def write_many(number):
        for _ in range(200):
            log.write({"event": str(number) * 200})

    threads = [threading.Thread(target=write_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()

    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert len(lines) == 800
    assert all(len(set(json.loads(line)["event"])) == 1 for line in lines)


def test_a_line_that_can_wait_goes_out_with_the_next_one_and_before_it(sink, results):
    async def play():
        log = make_log(sink, results, "fail_closed")
        log.start()
        log.write_line_soon(encode({"event": "finished"}))
        assert sink.lines == []
        log.write({"event": "decided"})

    asyncio.run(play())

    assert sink.lines == [b'{"event":"finished"}\n{"event":"decided"}\n']
    assert results == [("fake", "written")] * 2


def test_a_line_that_can_wait_goes_out_by_itself_in_time(sink):
    written = asyncio.Event()

    async def play():
        log = AuditLog(sink, "fail_closed", lambda *_: written.set())
        log.start()
        log.write_line_soon(encode({"event": "finished"}))
        await written.wait()

    asyncio.run(play())

    assert sink.lines == [b'{"event":"finished"}\n']


def test_lines_that_wait_are_written_when_the_log_closes(sink, results):
    async def play():
        log = make_log(sink, results, "fail_closed")
        log.start()
        log.write_line_soon(encode({"event": "finished"}))
        log.close()

    asyncio.run(play())

    assert sink.lines == [b'{"event":"finished"}\n']


def test_lines_that_wait_and_cannot_be_written_are_counted_and_stop_nothing(sink, results):
    async def play():
        log = make_log(sink, results, "fail_closed")
        log.start()
        log.write_line_soon(encode({"event": "finished"}))
        sink.works = False
        log.close()

    asyncio.run(play())

    assert results == [("fake", "failed")]


def test_lines_written_together_fit_into_what_a_pipe_takes_whole(sink, results):
    async def play():
        log = make_log(sink, results, "fail_closed")
        log.start()
        for _ in range(40):
            log.write_line_soon(encode({"event": "x" * 200}))
        log.write({"path": "y" * 2000})

    asyncio.run(play())

    assert len(b"".join(sink.lines).splitlines()) == 41
    assert max(map(len, sink.lines)) <= MAX_BATCH_BYTES
