"""How an exchange breaks off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.reasons import Reason


class Broken(Exception):  # noqa: N818 - control flow inside this folder
    """The exchange broke off; the text is for the flow's error, the reason for the audit."""

    def __init__(self, text: str, reason: Reason | None = None) -> None:
        super().__init__(text)
        self.reason = reason
