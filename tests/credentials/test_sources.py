from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from understudy.credentials.sources import (
    MAXIMUM_BYTES,
    EnvironmentSource,
    FileSource,
    SecretError,
    sources,
)

HIDDEN = "do-not-show-5ecret"


def read(path: Path) -> str:
    return asyncio.run(FileSource().fetch(str(path))).value


def settled_version(path: Path) -> object:
    """The file's version, once its time stamp is old enough to be relied on."""
    while (version := FileSource().version(str(path))) is None:
        pass
    return version


def test_a_variable_is_read_as_it_is() -> None:
    source = EnvironmentSource({"KEY": "value with inner space"})
    assert asyncio.run(source.fetch("KEY")).value == "value with inner space"


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "is not set"),
        ({"KEY": ""}, "is empty"),
        ({"KEY": f"{HIDDEN}\n"}, "more than one line"),
        ({"KEY": f"{HIDDEN}\r"}, "more than one line"),
        ({"KEY": f" {HIDDEN}"}, "begins or ends with a space"),
        ({"KEY": "x" * (MAXIMUM_BYTES + 1)}, f"larger than {MAXIMUM_BYTES} bytes"),
    ],
)
def test_a_variable_that_is_no_secret_is_refused(environ: dict[str, str], why: str) -> None:
    source = EnvironmentSource(environ)
    assert source.version("KEY") is bool(environ)
    with pytest.raises(SecretError, match=f"^the environment variable KEY .*{why}") as caught:
        asyncio.run(source.fetch("KEY"))
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"!s 3~", "!s 3~"),
        (b"x" * MAXIMUM_BYTES, "x" * MAXIMUM_BYTES),
    ],
)
def test_one_trailing_newline_is_taken_off(tmp_path: Path, content: bytes, value: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert read(path) == value


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (HIDDEN.encode() + b"\n\n", "more than one line"),
        (HIDDEN.encode() + b"\nX-Injected: 1", "more than one line"),
        (HIDDEN.encode() + b"\rX", "more than one line"),
        (HIDDEN.encode() + b"\x00", "control characters"),
        (HIDDEN.encode() + b"\x1b[0m", "control characters"),
        (HIDDEN.encode() + b"\x7f", "control characters"),
        (HIDDEN.encode() + b"\tx", "control characters"),
        (HIDDEN.encode() + b"\xff", "outside ASCII"),
        (HIDDEN.encode() + "é".encode(), "outside ASCII"),
        (b"\xef\xbb\xbf" + HIDDEN.encode(), "outside ASCII"),
        (HIDDEN.encode() + b" \n", "ends with a space"),
        (HIDDEN.encode() * 5000, "larger than"),
        (b"x" * (MAXIMUM_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_secret_is_refused_and_not_shown(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(SecretError, match=f"^the file /.*key .*{why}") as caught:
        read(path)
    assert HIDDEN not in str(caught.value)
    assert HIDDEN not in repr(caught.value.__context__)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for path, why in [
        (tmp_path, "is not a regular file"),
        (tmp_path / "fifo", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "missing", "cannot be read: No such file"),
    ]:
        with pytest.raises(SecretError, match=f"the file {path} {why}"):
            read(path)
    assert len(list(Path("/dev/fd").iterdir())) == descriptors


def test_a_fetched_secret_does_not_show_its_value(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(HIDDEN)
    assert HIDDEN not in repr(asyncio.run(FileSource().fetch(str(path))))


def test_a_files_version_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    before = settled_version(path)
    assert FileSource().version(str(path)) == before
    path.write_text("two!")
    assert settled_version(path) != before


def test_a_file_that_keeps_its_size_and_its_time_has_another_version(tmp_path: Path) -> None:
    """As `rsync --times --inplace` may leave it."""
    path = tmp_path / "key"
    path.write_text("one")
    status, before = path.stat(), settled_version(path)
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FileSource().version(str(path)) != before
    assert settled_version(path) != before


def test_a_file_that_may_no_longer_be_read_has_another_version(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    before = settled_version(path)
    path.chmod(0)
    assert FileSource().version(str(path)) != before


def test_a_swapped_symlink_is_a_new_version(tmp_path: Path) -> None:
    # As kubelet does it: ..data points at a dated folder and is replaced in one rename.
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(name)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "key").symlink_to("..data/key")
    before = settled_version(tmp_path / "key")
    settled_version(tmp_path / "two" / "key")
    (tmp_path / "..next").symlink_to("two")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert FileSource().version(str(tmp_path / "key")) != before
    assert read(tmp_path / "key") == "two"


def test_a_file_just_written_has_no_version_to_rely_on(tmp_path: Path) -> None:
    # Written twice within one tick of the clock, it would look unchanged.
    path = tmp_path / "key"
    path.write_text("one")
    assert FileSource().version(str(path)) is None
    assert FileSource().version(str(tmp_path / "missing")) is None


def test_every_source_has_the_name_that_policies_write() -> None:
    from understudy.policy.document import SECRET_SOURCES  # noqa: PLC0415 - only this test needs it

    assert set(sources({})) == set(SECRET_SOURCES)
