"""What was worked out once about a head is used only for heads like it."""

from __future__ import annotations

import pytest

from understudy.wire.outline import Outline

FIELDS = ((b"Host", b"a"), (b"content-length", b"1"), (b"X", b"y"))


def test_each_request_has_its_own_length() -> None:
    outline = Outline(FIELDS, b"/", length_varies=True)
    assert outline.fill(12) == ((b"Host", b"a"), (b"content-length", b"12"), (b"X", b"y"))
    changed = outline.changed((*FIELDS[1:], (b"Z", b"")), b"/z")
    assert changed.fill(3) == ((b"content-length", b"3"), (b"X", b"y"), (b"Z", b""))
    assert changed.target == b"/z"


def test_where_the_length_is_a_requests_own_it_stays() -> None:
    assert Outline(FIELDS, b"/").fill(12) == FIELDS
    assert Outline(FIELDS, b"/").changed(FIELDS[:2], b"/").fill(12) == FIELDS[:2]


def test_two_lengths_are_never_filled_in() -> None:
    with pytest.raises(ValueError, match="more than one"):
        Outline(FIELDS, b"/", length_varies=True).changed((*FIELDS, *FIELDS), b"/")


def test_a_step_is_taken_again_for_another_basis_and_by_another_name() -> None:
    outline = Outline((), b"/", lasts=True)
    taken: list[str] = []

    def step(name: str) -> str:
        taken.append(name)
        return name

    assert outline.once("judge", (1, "a"), lambda: step("first")) == "first"
    assert outline.once("judge", (1, "a"), lambda: step("never")) == "first"
    assert outline.once("judge", (2, "a"), lambda: step("second")) == "second"
    assert outline.once("swap", (2, "a"), lambda: step("third")) == "third"
    assert taken == ["first", "second", "third"]


def test_a_step_that_fails_leaves_nothing() -> None:
    outline = Outline((), b"/", lasts=True)

    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        outline.once("swap", (), fail)
    assert outline.once("swap", (), lambda: "good") == "good"


@pytest.mark.parametrize("length_varies", [True, False])
@pytest.mark.parametrize("fields", [FIELDS, FIELDS[:1], ()])
def test_the_lines_are_those_of_the_fields(
    fields: tuple[tuple[bytes, bytes], ...], length_varies: bool
) -> None:
    outline = Outline(fields, b"/", length_varies=length_varies)
    for length in (7, 65536):
        expected = b"".join(b"%s: %s\r\n" % field for field in outline.fill(length))
        assert outline.lines(length) == expected


def test_what_is_of_one_request_is_worked_out_for_that_alone() -> None:
    outline = Outline((), b"/")
    taken: list[str] = []
    for _ in range(2):
        outline.changed((), b"/").once("judge", (), lambda: taken.append("again"))
        outline.once("judge", (), lambda: taken.append("again"))
    assert len(taken) == 4
