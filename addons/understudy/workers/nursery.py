"""The process that forks workers, and hears of their death.

It runs no event loop and has one thread, so that forking it is safe at any time. It talks with the
supervisor through one socket: a JSON object a message. To ``{"start": 3}``, which brings the
worker's end of its own socket along, it says ``{"started": 3, "process": 4711}``; ``{"kill": 3}``
is SIGKILL; ``{"died": 3, "status": -9}`` comes unasked, once for every worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    type Work = Callable[[int, socket.socket], int]
    """What a worker does: its number and its socket in, its exit code out."""

MESSAGE_BYTES = 4096
FAREWELL_SECONDS = 10.0
"""Workers end by themselves when the supervisor is gone; those that do not by then are killed."""
_FAREWELL_STEP_SECONDS = 0.05
_SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Line:
    """The supervisor's end of the socket."""

    def __init__(self, end: socket.socket, process: int) -> None:
        os.set_blocking(end.fileno(), False)
        self.socket = end
        self._process = process

    def start(self, number: int, workers_end: socket.socket) -> None:
        """Ask for a worker; OSError where the nursery is gone."""
        message = json.dumps({"start": number}).encode()
        socket.send_fds(self.socket, [message], [workers_end.fileno()])

    def kill(self, number: int) -> None:
        """Ask for a worker's end, now."""
        with contextlib.suppress(OSError):
            self.socket.send(json.dumps({"kill": number}).encode())

    def close(self) -> None:
        """Let the nursery end, and wait until it has."""
        self.socket.close()
        os.waitpid(self._process, 0)


def open_nursery(work: Work) -> Line:
    """Fork the nursery. Call it before anything has made a thread or an event loop."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # What is there now is shared with every worker: a collection would only copy it.
    gc.collect()
    gc.freeze()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            ours.close()
            code = _Nursery(theirs, work).run()
        finally:
            os._exit(code)
    theirs.close()
    return Line(ours, process)


class _Nursery:
    def __init__(self, line: socket.socket, work: Work) -> None:
        self._line = line
        self._work = work
        self._numbers: dict[int, int] = {}
        """Workers by process."""

    def run(self) -> int:
        """Serve until the supervisor is gone."""
        for number in _SHUTDOWN_SIGNALS:
            # They are for the supervisor; some senders give them to every process.
            signal.signal(number, signal.SIG_IGN)
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if wake in ready:
                os.read(wake, MESSAGE_BYTES)
                self._bury()
            if self._line.fileno() in ready and not self._obey():
                return self._part()

    def _obey(self) -> bool:
        """Do what one message asks; false where there are no more."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._line, MESSAGE_BYTES, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if "start" in message and not descriptors:
            self._say({"died": message["start"], "status": None})  # this process may have no more
        elif "start" in message:
            with socket.socket(fileno=descriptors[0]) as workers_end:
                self._start(message["start"], workers_end)
        for process in [p for p, number in self._numbers.items() if number == message.get("kill")]:
            os.kill(process, signal.SIGKILL)
        return True

    def _start(self, number: int, workers_end: socket.socket) -> None:
        try:
            process = os.fork()
        except OSError:
            self._say({"died": number, "status": None})
            return
        if process == 0:
            _become_worker(self._line, self._work, number, workers_end)
        self._numbers[process] = number
        self._say({"started": number, "process": process})

    def _bury(self) -> None:
        while self._numbers:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._say({"died": self._numbers.pop(process), "status": code})

    def _say(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # nobody listens: noticed at the next message
            self._line.send(json.dumps(message).encode())

    def _part(self) -> int:
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._numbers and time.monotonic() < deadline:
            time.sleep(_FAREWELL_STEP_SECONDS)
            self._bury()
        for process in self._numbers:
            os.kill(process, signal.SIGKILL)
        return 0


def _become_worker(line: socket.socket, work: Work, number: int, end: socket.socket) -> None:
    """Never returns: what the nursery would do next is not for a worker."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        line.close()
        code = work(number, end)
    finally:
        sys.stderr.flush()
        os._exit(code)
