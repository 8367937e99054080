"""A secret file that goes through every state under load: the secret or 503, nothing between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.support.world import with_key_in

OLD = "sk-real-loaded-old-0123456789abcdef"
NEW = "sk-real-loaded-new-fedcba9876543210"
BAD = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_text(""),
    "two lines": lambda file: file.write_text(f"{NEW}\n{OLD}"),
    "not text": lambda file: file.write_bytes(b"\xff\xfe\x00" + NEW.encode()),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
    "too large": lambda file: file.write_text("x" * (1 << 17)),
}


def put_right(file: Path, value: str) -> None:
    if file.is_dir():
        file.rmdir()
    fresh = file.with_name("fresh")
    fresh.write_text(value)
    fresh.replace(file)


def test_under_load_every_state_of_the_file_is_the_secret_or_503(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    file = folder / "key"
    put_right(file, OLD)
    good = start_upstream("good.example")
    policy = with_key_in(file)
    proxy = start_proxy(policy, upstreams=[good])
    placeholder = proxy.placeholder("good")
    head = f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
    stop = threading.Event()
    answers: list[tuple[int, str]] = []

    def load() -> None:
        with proxy.tunnel("good.example") as wire:
            while not stop.is_set():
                answer = wire.request(head)
                answers.append((answer.status, "" if answer.status == 200 else answer.reason))

    def see(wanted: tuple[int, str]) -> None:
        """Every connection of the load has been through it: twice as many as there are."""
        before = len(answers)
        proxy.wait_until(lambda: answers[before:].count(wanted) >= 6)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn, spoil in enumerate(BAD.values()):
        spoil(file)
        see((503, "secret_unavailable"))
        put_right(file, OLD if turn % 2 else NEW)
        see((200, ""))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert set(answers) == {(200, ""), (503, "secret_unavailable")}
    assert {received.header("x-api-key") for received in good.requests} == {OLD, NEW}
    assert placeholder.encode() not in good.received
    assert len(good.requests) == answers.count((200, ""))
    decided = proxy.events("request.decided")
    assert len(decided) == len(answers)
    failures = [line["detail"] for line in proxy.events("secret.failed")]
    assert len(failures) >= len(BAD)
    written = proxy.everything_written()
    assert OLD.encode() not in written
    assert NEW.encode() not in written
