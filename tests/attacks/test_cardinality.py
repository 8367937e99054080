"""What a client makes up never becomes a metric's label, a certificate or a file."""

from __future__ import annotations

import random
import string

import pytest
from tests.support.client import client_hello
from tests.support.scene import Scene

REQUESTS = 9000
HELLOS = 1000


def word(source: random.Random, letters: str = string.ascii_lowercase) -> str:
    return "".join(source.choices(letters, k=source.randint(4, 16)))


@pytest.mark.attack("flood of names")
def test_random_hosts_methods_and_paths_add_no_series(scene: Scene) -> None:
    source = random.Random(7)
    before = set(scene.proxy.metrics())
    files = sorted(path.name for path in scene.proxy.state.rglob("*"))
    wire = scene.wire()
    for number in range(REQUESTS):
        host = f"{word(source)}.{word(source)}.example"
        if number % 3 == 0:
            answer = wire.connect(f"{host}:{source.randint(1, 65535)}")
        else:
            method = word(source, string.ascii_uppercase) if number % 3 == 1 else "GET"
            answer = wire.request(f"{method} http://{host}/{word(source)} HTTP/1.1\nHost: {host}")
        assert answer.reason == "host_not_allowed"
        if "close" in (answer.header("connection") or ""):
            wire.close()
            wire = scene.wire()
    assert len(scene.verdicts()) == REQUESTS
    scene.expect_nothing_upstream()
    assert set(scene.proxy.metrics()) == before
    assert sorted(path.name for path in scene.proxy.state.rglob("*")) == files


@pytest.mark.attack("flood of names")
def test_random_server_names_add_no_series_and_get_no_certificate(scene: Scene) -> None:
    source = random.Random(8)
    before = set(scene.proxy.metrics())
    for _ in range(HELLOS):
        with scene.wire() as wire:
            assert wire.connect("good.example:443").status == 200
            wire.send(client_hello(f"{word(source)}.{word(source)}.example"))
            # A handshake record would carry a certificate; an alert or nothing does not.
            assert wire.read_until_closed()[:1] != b"\x16"
    verdicts = scene.verdicts()
    assert {line["reason"] for line in verdicts} == {"sni_mismatch"}
    assert len(verdicts) == HELLOS
    assert set(scene.proxy.metrics()) == before
    scene.expect_nothing_upstream()


@pytest.mark.attack("flood of names")
def test_random_bytes_in_every_field_add_no_series(scene: Scene) -> None:
    source = random.Random(9)
    before = set(scene.proxy.metrics())
    with scene.tunnel("other.example") as wire:
        for _ in range(100):
            answer = wire.request(
                f"GET /{word(source)}?{word(source)} HTTP/1.1\nHost: other.example\n"
                f"User-Agent: {word(source)}\nX-{word(source)}: {word(source)}"
            )
            assert answer.status == 200
    assert set(scene.proxy.metrics()) == before
