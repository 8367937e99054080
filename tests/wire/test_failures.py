"""What the audit says of a failed upstream: our own sentences, nothing of the engine's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.failures import _SENTENCES, UNKNOWN_FAILURE, describe_failure


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Certificate verify failed: hostname mismatch", "another name"),
        ("Certificate verify failed: certificate has expired", "expired"),
        ("Certificate verify failed: unable to get local issuer certificate", "authority"),
        ("[Errno 111] Connect call failed ('127.0.0.1', 38669)", "connected to"),
        ("server closed connection", "without an answer"),
        ("Cannot parse HTTP response: Bad HTTP response line: b'SSH-2.0'", "proper HTTP"),
    ],
)
def test_each_kind_of_failure_has_its_sentence(text: str, part: str) -> None:
    assert part in describe_failure(text)


@given(st.text())
def test_nothing_of_the_engines_text_is_kept(text: str) -> None:
    assert describe_failure(text) in {sentence for _, sentence in _SENTENCES} | {UNKNOWN_FAILURE}
