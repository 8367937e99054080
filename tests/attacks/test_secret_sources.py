"""A secret that is not to be had: 503, never the placeholder upstream, never an old value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.scene import Scene
from tests.support.upstream import Upstream

FIRST = "sk-real-file-first-0123456789abcdef"
SECOND = "sk-real-file-second-fedcba9876543210"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder / "key"


@pytest.fixture
def filed(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], secret_file: Path
) -> Scene:
    policy = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"file": str(secret_file)},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    good = start_upstream("good.example")
    return start_scene(policy, [good], {FIRST: ["good.example"], SECOND: ["good.example"]})


def replace(file: Path, value: str) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text(value)
    fresh.replace(file)


def ask(scene: Scene) -> tuple[int, str]:
    answer = scene.request("good.example", headers=[("X-Api-Key", scene.placeholder("good"))])
    return answer.status, answer.reason if answer.status != 200 else "allowed"


@pytest.mark.attack("broken secret")
@pytest.mark.parametrize(
    "content",
    [None, b"", b"\n", b"two\nlines-of-a-secret", b"nul\x00in-a-secret", b"\xff\xfe-not-text",
     b"\r\n", b"carriage\rreturn", b" leading-space", b"e\xcc\x81-not-ascii-secret"],
)  # fmt: skip
def test_unusable_secret_file_is_503_and_nothing_upstream(
    filed: Scene, secret_file: Path, content: bytes | None
) -> None:
    if content is not None:
        secret_file.write_bytes(content)
    answer = filed.request("good.example", headers=[("X-Api-Key", filed.placeholder("good"))])
    filed.expect_denied(answer, "secret_unavailable")
    failed = filed.proxy.events("secret.failed")[-1]
    assert failed["connection"] == "good"


@pytest.mark.attack("broken secret")
def test_a_folder_in_place_of_the_file_is_503(filed: Scene, secret_file: Path) -> None:
    secret_file.mkdir()
    assert ask(filed) == (503, "secret_unavailable")
    filed.expect_nothing_upstream()


@pytest.mark.attack("broken secret")
def test_one_trailing_newline_is_not_part_of_the_secret(filed: Scene, secret_file: Path) -> None:
    secret_file.write_text(FIRST + "\n")
    assert ask(filed) == (200, "allowed")
    (received,) = filed.expect_allowed("good.example")
    assert received.header("x-api-key") == FIRST


@pytest.mark.attack("broken secret")
def test_a_secret_that_vanishes_is_503_at_the_next_request(filed: Scene, secret_file: Path) -> None:
    secret_file.write_text(FIRST)
    assert ask(filed) == (200, "allowed")
    secret_file.unlink()
    assert ask(filed) == (503, "secret_unavailable")
    replace(secret_file, SECOND)
    assert ask(filed) == (200, "allowed")
    seen = [received.header("x-api-key") for received in filed.seen("good.example")]
    assert seen == [FIRST, SECOND]


@pytest.mark.attack("broken secret")
def test_a_symlink_swap_of_a_mounted_secret_is_seen(filed: Scene, secret_file: Path) -> None:
    """As Kubernetes does it: key → ..data/key, ..data → ..one."""
    folder = secret_file.parent
    for name, value in (("..one", FIRST), ("..two", SECOND)):
        (folder / name).mkdir()
        (folder / name / "key").write_text(value)
    (folder / "..data").symlink_to("..one")
    secret_file.symlink_to("..data/key")
    assert ask(filed) == (200, "allowed")
    (folder / "..data_tmp").symlink_to("..two")
    (folder / "..data_tmp").replace(folder / "..data")
    assert ask(filed) == (200, "allowed")
    seen = [received.header("x-api-key") for received in filed.seen("good.example")]
    assert seen == [FIRST, SECOND]


@pytest.mark.attack("broken secret")
def test_a_secret_replaced_under_load_is_old_or_new_never_a_placeholder(
    filed: Scene, secret_file: Path
) -> None:
    secret_file.write_text(FIRST)
    head = f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {filed.placeholder('good')}"
    half_way, replaced = threading.Barrier(5), threading.Barrier(5)
    statuses: list[int] = []

    def load() -> None:
        with filed.tunnel("good.example") as wire:
            statuses.extend(wire.request(head).status for _ in range(20))
            half_way.wait(30)
            statuses.extend(wire.request(head).status for _ in range(20))
            replaced.wait(30)
            statuses.append(wire.request(head).status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    half_way.wait(30)
    replace(secret_file, SECOND)
    replaced.wait(30)
    for thread in threads:
        thread.join(30)
    assert statuses == [200] * 4 * 41
    seen = [received.header("x-api-key") for received in filed.seen("good.example")]
    assert set(seen) == {FIRST, SECOND}
    assert seen[-4:] == [SECOND] * 4


@pytest.mark.attack("broken secret")
def test_an_environment_secret_that_is_unset_is_503(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    policy = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"env": "NOT_SET_ANYWHERE"},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    scene = start_scene(policy, [start_upstream("good.example")], {})
    answer = scene.request("good.example", headers=[("X-Api-Key", scene.placeholder("good"))])
    scene.expect_denied(answer, "secret_unavailable")
