from __future__ import annotations

import re
from types import SimpleNamespace

from understudy.audit import request_id
from understudy.audit.request_id import new_request_id

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")


def test_request_ids_are_ulids_that_sort_by_time(monkeypatch):
    ids = [new_request_id() for _ in range(1000)]
    assert all(ULID.match(one) for one in ids)
    assert len(set(ids)) == 1000

    now = 1_700_000_000_000_000_000
    monkeypatch.setattr(request_id, "time", SimpleNamespace(time_ns=lambda: now))
    earlier = new_request_id()
    now += 1_000_000
    later = new_request_id()
    assert earlier < later
    assert earlier[:10] == "01HF7YAT00"


def test_request_ids_are_drawn_together_and_never_twice() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len({request_id[10:] for request_id in ids}) == len(ids)
