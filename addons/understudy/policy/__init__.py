"""The policy: files, canonical forms and judgements; pure but for the loader's reads."""

from __future__ import annotations

from understudy.parts import import_in_parts

# Its own loops, and the library that they wait with; what watches is used directly.
import_in_parts("watchfiles")
