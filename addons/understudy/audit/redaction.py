"""Placeholders in audit lines, replaced by the name of their connection.

An agent may put its placeholder where the audit would show it, a path for instance. It is no
secret, but whoever reads the log could use it in the agent's stead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.credentials.placeholders import Placeholders


def hide_placeholders(line: bytes, placeholders: Placeholders) -> bytes:
    """Give the encoded line with each placeholder as ``<placeholder of NAME>``.

    One that was cut off at a field's end stays cut off; placeholders need no escaping in JSON.
    """
    for name in placeholders.find_all(line):
        line = line.replace(placeholders[name].encode(), b"<placeholder of %s>" % name.encode())
    return line
