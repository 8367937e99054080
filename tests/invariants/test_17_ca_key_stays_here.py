"""Invariant 17: the CA key is for the proxy's user alone; a sandbox gets the certificate only."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.world import World

PRIVATE = b"PRIVATE KEY"


def test_nothing_in_the_state_folder_is_for_others_but_the_public_part(world: World) -> None:
    state = world.proxy.state
    assert stat.S_IMODE(state.stat().st_mode) & 0o077 == 0 or _only_public_inside(state)
    for file in state.rglob("*"):
        if file.is_file() and PRIVATE in file.read_bytes():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert "public" not in file.relative_to(state).parts


def _only_public_inside(state: Path) -> bool:
    return all(
        path.name == "public" or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        for path in state.iterdir()
    )


@pytest.mark.attack("telling errors")
def test_what_a_sandbox_gets_holds_certificates_only(world: World) -> None:
    for name in (world.proxy.ca_cert, world.proxy.bundle):
        content = Path(name).read_bytes()
        assert PRIVATE not in content
        assert content.count(b"-----BEGIN CERTIFICATE-----") == content.count(b"-----BEGIN") > 0
    public = Path(world.proxy.ca_cert).parent
    for file in public.iterdir():
        assert PRIVATE not in file.read_bytes()


def test_no_page_log_or_line_shows_a_key(world: World) -> None:
    pages = b"".join(world.proxy.admin(page)[1] for page in ("/", "/ca", "/ca.key", "/../ca.key"))
    assert PRIVATE not in world.proxy.everything_written() + pages
    ready = json.loads((world.proxy.folder / "ready.json").read_text())
    assert "key" not in json.dumps(ready).lower()


def test_leaf_certificates_have_a_key_of_their_own(scene: Scene) -> None:
    authority = x509.load_pem_x509_certificate(Path(scene.proxy.ca_cert).read_bytes())
    with scene.tunnel("good.example") as wire:
        der = wire.socket.getpeercert(binary_form=True)
    leaf = x509.load_der_x509_certificate(der)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert leaf.public_key() != authority.public_key()
    leaf.verify_directly_issued_by(authority)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca


def test_the_proxys_own_ca_is_not_trusted_upstream(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., object], world: World
) -> None:
    """A server with a certificate from this proxy is not believed: the loop stays open."""
    policy = {
        "allow": [{"name": "good", "hosts": ["good.example"]}],
        "upstream": {"connect_to": {"good.example:443": world.proxy.url.removeprefix("http://")}},
    }
    proxy = start_proxy(policy)
    assert proxy.request("GET", "good.example").status in {502, 403}
