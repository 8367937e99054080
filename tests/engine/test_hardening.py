"""What the engines rely on inside mitmproxy is what was read when they were written."""

from __future__ import annotations

import json

from tests.engine.pins import PINNED, digest_of, modules_used

HOW = (
    "Read what changed in it and look at what understudy/engine and understudy/express do with it; "
    "then pin it: python -m tests.engine.pins"
)


def test_every_module_of_mitmproxy_that_is_used_is_the_one_that_was_read() -> None:
    pinned = json.loads(PINNED.read_text())
    changed = [name for name in modules_used() if pinned.get(name) != digest_of(name)]
    assert changed == [], HOW


def test_nothing_is_pinned_that_is_not_used() -> None:
    assert set(json.loads(PINNED.read_text())) == set(modules_used()), HOW
