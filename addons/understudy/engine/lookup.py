"""Name look-ups that hold nothing up: bounded in time and number, one for a name at a time.

The system's look-up cannot be cancelled. asyncio runs it in a small pool, where a few names that
do not answer stop every other look-up, and the process's end waits for them. Here each runs in a
daemon thread: who waits goes on when the time is over, and the end waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - else the first look-up imports it
import socket
import threading

MAX_LOOKUPS = 64


class Lookups:
    """Asks the system's resolver. Used from one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[list[str]]] = {}

    async def find(self, host: str, timeout_seconds: float) -> list[str]:
        """Every address of ``host``, in the resolver's order; OSError or TimeoutError if none."""
        running = self._running.get(host)
        if running is None:
            if len(self._running) >= MAX_LOOKUPS:
                raise OSError("too many look-ups are under way")
            running = self._start(host)
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.shield(running)

    def _start(self, host: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str] | OSError) -> None:
            self._running.pop(host, None)
            if isinstance(found, OSError):
                future.set_exception(found)
                # Read, so that a failure that nobody waited for is not reported by asyncio.
                future.exception()
            else:
                future.set_result(found)

        def look_up() -> None:
            found = _addresses(host)
            # The loop may have closed meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, found)

        self._running[host] = future
        try:
            threading.Thread(target=look_up, name="look-up", daemon=True).start()
        except RuntimeError:
            settle(OSError("no thread can be started"))
        return future


def _addresses(host: str) -> list[str] | OSError:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except Exception:  # noqa: BLE001 - who waits for the name must hear of it
        return OSError("the name cannot be looked up")
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
