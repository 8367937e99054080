"""How an exchange breaks off."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.reasons import Reason


logger = logging.getLogger(__name__)


def log_failure(what: str, error: Exception) -> None:
    """Tell the operator that ``what`` failed, and with what; the text may quote what was sent."""
    logger.error("%s failed with %s", what, type(error).__name__)


class Broken(Exception):  # noqa: N818 - control flow inside this folder
    """The exchange broke off; the text is for the flow's error, the reason for the audit."""

    def __init__(self, text: str, reason: Reason | None = None) -> None:
        super().__init__(text)
        self.reason = reason
