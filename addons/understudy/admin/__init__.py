"""What operators look at: health, readiness, metrics and status, on an address of its own."""

from __future__ import annotations

from understudy.parts import import_in_parts

# Its client, which reads the system's roots into two TLS contexts when it is imported.
import_in_parts("aiohttp")
