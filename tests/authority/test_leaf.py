from __future__ import annotations

import ipaddress
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.authority.certificates import handshake, make_certificate, write_pair

from understudy.authority import ca, leaf
from understudy.authority.ca import Authority, to_pem
from understudy.authority.leaf import LeafIssuer
from understudy.authority.pair import AuthorityError

HOSTS = ["api.openai.com", "a_b.example", "127.0.0.1", "::1", "x" * 63 + ".example"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.load_or_create(tmp_path_factory.mktemp("state"))


@pytest.fixture
def issuer(authority):
    return LeafIssuer(authority)


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_client_accepts_the_leaf_for_exactly_its_host(authority, issuer, host, tmp_path):
    [(_, name)] = handshake(authority.trust_pem, issuer.issue(host), host, tmp_path)

    assert name in (host, "0:0:0:0:0:0:0:1")


@pytest.mark.parametrize("other", ["api.openai.com.evil.example", "x.api.openai.com", "openai.com"])
def test_no_client_accepts_the_leaf_for_another_host(authority, issuer, other, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority.trust_pem, issuer.issue("api.openai.com"), other, tmp_path)


def test_a_client_that_does_not_trust_the_ca_refuses(issuer, tmp_path):
    stranger = Authority.load_or_create(tmp_path / "other")

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(stranger.trust_pem, issuer.issue("api.openai.com"), "api.openai.com", tmp_path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
@pytest.mark.parametrize("host", ["api.openai.com", "127.0.0.1"])
def test_openssls_strict_verification_passes(authority, issuer, host, tmp_path):
    (tmp_path / "ca.pem").write_text(authority.cert_pem)
    (tmp_path / "leaf.pem").write_bytes(issuer.issue(host).cert_pem)
    option = "-verify_ip" if host == "127.0.0.1" else "-verify_hostname"

    result = subprocess.run(
        f"openssl verify -x509_strict -purpose sslserver {option} {host} -CAfile ca.pem leaf.pem",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stdout.strip() == "leaf.pem: OK", result.stderr


def test_a_leaf_says_no_more_than_it_must(authority, issuer):
    certificate = issuer.issue("api.openai.com").certificate
    extensions = certificate.extensions

    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("api.openai.com")]
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == authority.key_identifier
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert certificate.not_valid_after_utc <= datetime.now(UTC) + timedelta(days=7)


def test_an_address_is_named_as_an_address(issuer):
    names = issuer.issue("::1").certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )

    assert list(names.value) == [x509.IPAddress(ipaddress.ip_address("::1"))]


def test_leaves_never_use_the_cas_key(authority, issuer):
    def public(key):
        return key.public_key().public_numbers()

    assert public(issuer.issue("a.example").key) != public(authority.key)
    assert issuer.issue("a.example").key is issuer.issue("b.example").key
    assert LeafIssuer(authority).issue("a.example").key is not issuer.issue("a.example").key


def test_serial_numbers_are_random(authority):
    serials = {LeafIssuer(authority).issue("a.example").certificate.serial_number for _ in range(5)}

    assert len(serials) == 5
    assert all(serial.bit_length() > 64 for serial in serials)


def test_a_host_is_signed_for_once(issuer):
    assert issuer.issue("a.example") is issuer.issue("a.example")


def test_the_cache_forgets_the_host_used_longest_ago(authority, monkeypatch):
    monkeypatch.setattr(LeafIssuer, "capacity", 2)
    issuer = LeafIssuer(authority)
    first, second = issuer.issue("1.example"), issuer.issue("2.example")
    issuer.issue("1.example")
    issuer.issue("3.example")

    assert issuer.issue("1.example") is first
    assert issuer.issue("2.example") is not second


class Clock(datetime):
    ahead = timedelta(0)

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.ahead


def test_a_leaf_is_renewed_long_before_it_expires(issuer, monkeypatch):
    old = issuer.issue("a.example")
    monkeypatch.setattr(leaf, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", leaf.LIFETIME / 2 + timedelta(minutes=1))

    new = issuer.issue("a.example")

    assert new is not old
    assert old.certificate.not_valid_after_utc > Clock.now(UTC) + timedelta(days=1)


def test_a_leaf_from_before_the_clock_was_put_back_is_handed_out_no_more(tmp_path, monkeypatch):
    issuer = LeafIssuer(Authority.load_or_create(tmp_path))
    monkeypatch.setattr(leaf, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", timedelta(days=40))
    ahead = issuer.issue("a.example")
    monkeypatch.setattr(Clock, "ahead", timedelta(0))

    now = issuer.issue("a.example")

    assert now is not ahead
    assert now.certificate.not_valid_before_utc <= datetime.now(UTC)
    assert issuer.issue("a.example") is now


def test_a_leaf_never_outlives_its_ca(tmp_path, monkeypatch):
    monkeypatch.setattr(ca, "LIFETIME", timedelta(days=1))
    authority = Authority.load_or_create(tmp_path)
    issuer = LeafIssuer(authority)

    assert issuer.issue("a.example").certificate.not_valid_after_utc == authority.not_after

    monkeypatch.setattr(leaf, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", timedelta(days=2))
    with pytest.raises(AuthorityError, match="expired"):
        issuer.issue("a.example")


@pytest.mark.parametrize(
    "host", ["", "*.example.com", "a b", "a..b", "EXAMPLE.com", "a\n", "é.example", "a.", "[::1]"]
)
def test_nothing_is_signed_for_what_is_not_a_canonical_host(issuer, host):
    with pytest.raises(ValueError, match="not a canonical host"):
        issuer.issue(host)


def test_a_client_that_trusts_only_the_root_accepts_a_leaf_of_a_ca_below_it(tmp_path):
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = make_certificate(root_key, name="Root", issuer="Root")
    subordinate = make_certificate(key, name="Sub", issuer="Root", signer=root_key)
    authority = Authority.from_files(*write_pair(tmp_path, key, subordinate))

    issued = LeafIssuer(authority).issue("a.example")

    assert handshake(to_pem(root), issued, "a.example", tmp_path) == (("DNS", "a.example"),)


def test_a_leaf_of_an_operators_subordinate_ca_comes_with_its_chain(tmp_path):
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = make_certificate(root_key, name="Root", issuer="Root")
    subordinate = make_certificate(key, name="Sub", issuer="Root", signer=root_key)
    authority = Authority.from_files(*write_pair(tmp_path, key, subordinate, root))

    made = LeafIssuer(authority).issue("a.example")

    assert made.chain == (subordinate,)
    assert made.chain_pem.count(b"BEGIN CERTIFICATE") == 2
