"""The engines by name; only the chosen one is imported, which halves what a start costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from understudy.engine.master import Master
    from understudy.express.engine import Express


class Engine(NamedTuple):
    """What moves the bytes."""

    master: type[Master] | type[Express]
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]
    """A loop that opens no connection without a decided destination."""


def _mitmproxy() -> Engine:
    from understudy.engine.dialer import GuardedEventLoop  # noqa: PLC0415 - see above
    from understudy.engine.master import Master  # noqa: PLC0415

    return Engine(Master, GuardedEventLoop)


def _express() -> Engine:
    from understudy.express.engine import Express  # noqa: PLC0415
    from understudy.express.loop import GuardedUvloop  # noqa: PLC0415

    return Engine(Express, GuardedUvloop)


ENGINES: dict[str, Callable[[], Engine]] = {"mitmproxy": _mitmproxy, "express": _express}
