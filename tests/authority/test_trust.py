from __future__ import annotations

import os
import ssl

import certifi
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.authority.certificates import handshake, make_certificate, write_pair

from understudy.authority.ca import Authority, to_pem
from understudy.authority.leaf import LeafIssuer
from understudy.authority.pair import AuthorityError
from understudy.authority.trust import sandbox_bundle, upstream_bundle_pem, write_atomic


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.load_or_create(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def corporate():
    return make_certificate(ec.generate_private_key(ec.SECP256R1()), name="Corp", issuer="Corp")


def certificates_of(pem: str) -> set[bytes]:
    context = ssl.create_default_context(cadata=pem)
    return set(context.get_ca_certs(binary_form=True))


def test_our_own_ca_is_trusted_in_the_sandbox_and_never_upstream(authority, corporate):
    own = authority.certificate.public_bytes(serialization.Encoding.DER)
    extra = to_pem(corporate)

    assert own in certificates_of(sandbox_bundle(authority, extra))
    assert own not in certificates_of(upstream_bundle_pem(extra))
    assert own not in certificates_of(upstream_bundle_pem(None))


def test_both_bundles_hold_the_public_and_the_operators_roots(authority, corporate):
    public = certificates_of(certifi.contents())
    corporate_der = corporate.public_bytes(serialization.Encoding.DER)

    for pem in (
        upstream_bundle_pem(to_pem(corporate)),
        sandbox_bundle(authority, to_pem(corporate)),
    ):
        assert public < certificates_of(pem)
        assert corporate_der in certificates_of(pem)


@pytest.mark.parametrize("extra", [None, "", "\n"])
def test_without_operators_roots_the_public_ones_stand_alone(extra):
    assert certificates_of(upstream_bundle_pem(extra)) == certificates_of(certifi.contents())


def test_our_own_ca_among_the_operators_roots_is_refused(authority, corporate):
    extra = to_pem(corporate) + authority.cert_pem

    with pytest.raises(AuthorityError, match="own CA is among the upstream roots"):
        upstream_bundle_pem(extra, own=authority)


def test_a_leaf_of_ours_does_not_pass_as_a_provider(authority, tmp_path):
    issued = LeafIssuer(authority).issue("api.openai.com")

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(upstream_bundle_pem(), issued, "api.openai.com", tmp_path)


def test_a_private_key_never_gets_into_a_bundle(authority, corporate, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    _, key_file = write_pair(tmp_path, key, make_certificate(key))
    extra = to_pem(corporate) + key_file.read_text()

    for make in (upstream_bundle_pem, lambda pem: sandbox_bundle(authority, pem)):
        with pytest.raises(AuthorityError, match="private key"):
            make(extra)
    assert "PRIVATE" not in sandbox_bundle(authority, to_pem(corporate))


def test_operators_roots_that_are_no_certificates_are_refused():
    with pytest.raises(AuthorityError, match="not PEM certificates"):
        upstream_bundle_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_the_ca_is_in_the_bundle_once_even_if_the_operator_lists_it(authority):
    bundle = sandbox_bundle(authority, authority.cert_pem)

    assert bundle.count(authority.cert_pem) == 1


def test_a_subordinate_cas_whole_chain_is_in_the_sandboxs_bundle(tmp_path):
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = make_certificate(root_key, name="Root", issuer="Root")
    below = make_certificate(key, name="Sub", issuer="Root", signer=root_key)
    authority = Authority.from_files(*write_pair(tmp_path, key, below, root))

    bundle = sandbox_bundle(authority)

    assert to_pem(below) in bundle
    assert to_pem(root) in bundle


def test_a_file_is_replaced_whole_with_the_mode_asked_for(tmp_path):
    file = tmp_path / "bundle.pem"
    file.write_text("old")
    before = os.umask(0o077)
    try:
        write_atomic(file, "new")
    finally:
        os.umask(before)

    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    file = tmp_path / "bundle.pem"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))

    with pytest.raises(OSError, match="full"):
        write_atomic(file, b"new")

    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
