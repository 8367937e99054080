"""What nobody expected, told to the operator: what and where, never an exception's own text."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)


def describe_error(error: BaseException) -> str:
    """An exception's type and place. Its text may quote what was sent, secrets included."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    return f"{type(error).__name__} at {place}"


def log_failure(what: str, error: Exception) -> None:
    """Log that ``what`` failed."""
    logger.error("%s failed with %s", what, describe_error(error))


def tell_of_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what fails outside any request; the loop's own words show what callbacks were given."""
    error = context.get("exception")
    what = describe_error(error) if isinstance(error, BaseException) else "no exception"
    logger.error("something outside any request failed with %s", what)
