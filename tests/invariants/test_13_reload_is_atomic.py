"""Invariant 13: a reload is atomic; each request is judged by one whole policy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from tests.support.scene import Scene
from tests.support.upstream import Upstream


def policy(names: list[str]) -> dict[str, Any]:
    return {"allow": [{"name": f"{name}-{len(names)}", "hosts": [name]} for name in names]}


@pytest.mark.attack("policy change")
def test_requests_during_reloads_are_each_judged_by_one_whole_policy(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    """One policy allows both hosts by one name, the other only the first by another."""
    one, two = start_upstream("one.example"), start_upstream("two.example")
    scene = start_scene(policy(["one.example", "two.example"]), [one, two], {})
    whole = yaml.safe_load(scene.proxy.policy_file.read_text())
    half = whole | policy(["one.example"])
    done = threading.Event()
    answers: list[tuple[str, int]] = []

    def ask(host: str) -> None:
        with scene.tunnel(host) as wire:
            while not done.is_set():
                answers.append((host, wire.request(f"GET / HTTP/1.1\nHost: {host}").status))

    threads = [
        threading.Thread(target=ask, args=(host,)) for host in ("one.example", "two.example")
    ]
    for thread in threads:
        thread.start()
    digests = {line["policy_digest"] for line in scene.proxy.events("policy.loaded")}
    for number in range(6):
        scene.proxy.write_policy(half if number % 2 == 0 else whole)
        loaded = scene.proxy.wait_for_events("policy.loaded", number + 2)
        digests.add(loaded[-1]["policy_digest"])
    done.set()
    for thread in threads:
        thread.join(30)
    assert len(digests) == 2
    assert {status for host, status in answers if host == "one.example"} == {200}
    assert {status for host, status in answers if host == "two.example"} == {200, 403}
    by_digest: dict[str, set[tuple[str, str]]] = {}
    for line in scene.verdicts():
        seen = (line["http"]["host"], line.get("rule", "none"))
        by_digest.setdefault(line["policy_digest"], set()).add(seen)
    assert set(by_digest) == digests
    assert sorted(map(sorted, by_digest.values())) == sorted(
        map(
            sorted,
            [
                {("one.example", "one.example-2"), ("two.example", "two.example-2")},
                {("one.example", "one.example-1"), ("two.example", "none")},
            ],
        )
    )
