"""One program as a child: our terminal, our process group, its signals, its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_EXECUTABLE = 126
NOT_FOUND = 127
_SIGNAL_BASE = 128

# What a terminal sends to every process in its foreground group, so to the child as well.
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH})
_FORWARDED = (*_FROM_TERMINAL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class ChildError(Exception):
    """The program could not be started; ``exit_code`` is what a shell would give."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


async def run_child(command: Sequence[str], environment: Mapping[str, str], umask: int) -> int:
    """Run ``command`` to its end and give the exit code that a shell would give.

    It shares standard input, output, error and the process group, and makes files with ``umask``,
    so that terminals, job control and its files are as without us. Signals sent to us go on to it;
    those that the terminal has sent to it already do not. Raises ChildError where it cannot be
    started.
    """
    loop = asyncio.get_running_loop()
    early: list[signal.Signals] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: signal.Signals) -> None:
        if child is None:
            early.append(number)
        elif not (number in _FROM_TERMINAL and _holds_terminal()):
            _send(child, number)

    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    try:
        child = _start(command, environment, umask)
        for number in early:
            _send(child, number)
        code = await asyncio.to_thread(child.wait)
    finally:
        for number in _FORWARDED:
            loop.remove_signal_handler(number)
    return code if code >= 0 else _SIGNAL_BASE - code


def _start(
    command: Sequence[str], environment: Mapping[str, str], umask: int
) -> subprocess.Popen[bytes]:
    name = command[0]
    try:
        # Not the loop's own way to start one: uvloop's cannot set a umask.
        return subprocess.Popen(command, env=environment, umask=umask)  # noqa: S603 - what the operator asked for
    except FileNotFoundError:
        raise ChildError(f"{name}: there is no such program", NOT_FOUND) from None
    except OSError as error:
        raise ChildError(f"{name} cannot be run: {error.strerror}", NOT_EXECUTABLE) from None
    except ValueError:
        raise ChildError("a program's arguments cannot hold NUL", NOT_EXECUTABLE) from None


def _send(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # A child that has just ended is not an error: send_signal looks first.
    child.send_signal(number)


def _holds_terminal() -> bool:
    """Whether we are in the terminal's foreground group, which the terminal itself signals."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
