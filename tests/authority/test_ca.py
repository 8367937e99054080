from __future__ import annotations

import multiprocessing
import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.authority.certificates import make_certificate, write_pair

from understudy.authority import ca
from understudy.authority.ca import Authority
from understudy.authority.pair import AuthorityError


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


def test_a_new_ca_has_what_strict_verifiers_demand(tmp_path):
    authority = Authority.load_or_create(tmp_path)

    extensions = authority.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert isinstance(authority.key.curve, ec.SECP256R1)
    assert authority.key_identifier
    assert authority.not_before < datetime.now(UTC)
    assert timedelta(days=364) < authority.not_after - datetime.now(UTC) <= timedelta(days=365)


def test_only_the_owner_can_read_the_key_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        Authority.load_or_create(tmp_path / "state")
    finally:
        os.umask(before)

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/ca").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/ca/ca.key").stat().st_mode & 0o777 == 0o600


def test_the_ca_stays_the_same_across_starts(tmp_path):
    first = Authority.load_or_create(tmp_path)
    second = Authority.load_or_create(tmp_path)

    assert first.fingerprint_sha256 == second.fingerprint_sha256
    assert [entry.name for entry in tmp_path.iterdir() if "until" in entry.name] == []


def _fingerprint(folder, barrier, results):
    barrier.wait()
    results.put(Authority.load_or_create(folder).fingerprint_sha256)


def test_processes_that_start_at_once_agree_on_one_ca(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_fingerprint, args=(tmp_path, barrier, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    fingerprints = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()

    assert len(fingerprints) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".ca.lock", "ca"]


def test_a_crash_between_the_files_leaves_no_half_a_ca(tmp_path, monkeypatch):
    write_new = ca._write_new

    def crash_at_certificate(path, content, mode):
        if path.name == "ca.crt":
            raise OSError(28, "No space left on device")
        write_new(path, content, mode)

    monkeypatch.setattr(ca, "_write_new", crash_at_certificate)
    with pytest.raises(AuthorityError, match="No space left"):
        Authority.load_or_create(tmp_path)
    assert not (tmp_path / "ca").exists()

    monkeypatch.undo()
    Authority.load_or_create(tmp_path)


def test_a_ca_about_to_expire_is_renewed_at_start_and_the_old_one_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ca, "LIFETIME", timedelta(days=29))
    old = Authority.load_or_create(tmp_path)
    monkeypatch.undo()

    new = Authority.load_or_create(tmp_path)

    assert new.fingerprint_sha256 != old.fingerprint_sha256
    assert new.not_after - datetime.now(UTC) > timedelta(days=300)
    [kept] = tmp_path.glob("ca.until-*")
    assert (kept / "ca.crt").read_text() == old.cert_pem


def test_a_ca_that_a_clock_that_was_ahead_has_made_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(ca, "CLOCK_SKEW", -timedelta(days=40))
    ahead = Authority.load_or_create(tmp_path)
    monkeypatch.undo()

    now = Authority.load_or_create(tmp_path)

    assert now.fingerprint_sha256 != ahead.fingerprint_sha256
    assert now.not_before <= datetime.now(UTC)


def test_two_cas_never_share_a_name(tmp_path):
    one = Authority.load_or_create(tmp_path / "one")
    two = Authority.load_or_create(tmp_path / "two")

    assert one.certificate.subject != two.certificate.subject


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    Authority.load_or_create(tmp_path)
    (tmp_path / "ca/ca.key").chmod(mode)

    with pytest.raises(AuthorityError, match=rf"ca\.key: the CA's key has mode {mode:04o}.*chmod"):
        Authority.load_or_create(tmp_path)


@pytest.mark.parametrize(("mode", "accepted"), [(0o440, True), (0o400, True), (0o444, False)])
def test_a_mounted_key_of_another_owner_may_be_read_by_the_group_only(
    tmp_path, key, monkeypatch, mode, accepted
):
    cert_file, key_file = write_pair(tmp_path, key, make_certificate(key))
    key_file.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: key_file.stat().st_uid + 1)

    if accepted:
        Authority.from_files(cert_file, key_file)
    else:
        with pytest.raises(AuthorityError, match="mode 0444"):
            Authority.from_files(cert_file, key_file)


def test_the_key_is_not_in_the_repr(tmp_path):
    authority = Authority.load_or_create(tmp_path)

    assert "key" not in repr(authority).lower()


def test_the_fingerprint_is_openssls(tmp_path):
    authority = Authority.load_or_create(tmp_path)
    expected = authority.certificate.fingerprint(hashes.SHA256())

    assert authority.fingerprint_sha256 == ":".join(f"{byte:02X}" for byte in expected)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_an_operators_ca_is_taken(tmp_path, kind):
    key = (
        ec.generate_private_key(ec.SECP384R1())
        if kind == "ec"
        else rsa.generate_private_key(65537, 2048)
    )
    certificate = make_certificate(key)

    authority = Authority.from_files(*write_pair(tmp_path, key, certificate))

    assert authority.certificate == certificate
    assert authority.chain == ()


def test_an_operators_chain_is_taken_and_trusted_whole(tmp_path, key):
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = make_certificate(root_key, name="Root", issuer="Root")
    below = make_certificate(key, name="Sub", issuer="Root", signer=root_key)

    authority = Authority.from_files(*write_pair(tmp_path, key, below, root))

    assert authority.chain == (root,)
    assert authority.trust_pem.count("BEGIN CERTIFICATE") == 2
    assert authority.cert_pem.count("BEGIN CERTIFICATE") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_ca": False}, "not a CA's"),
        ({"is_ca": None}, "not a CA's"),
        ({"critical": False}, "not marked critical"),
        ({"usage": None}, "keyCertSign"),
        ({"identifier": False}, "subject key identifier"),
        ({"ends": timedelta(minutes=-1)}, "expired"),
        ({"starts": timedelta(hours=1)}, "not valid before"),
    ],
)
def test_an_unfit_ca_is_refused_with_a_sentence(tmp_path, key, options, message):
    files = write_pair(tmp_path, key, make_certificate(key, **options))

    with pytest.raises(AuthorityError, match=message) as caught:
        Authority.from_files(*files)
    assert str(files[0]) in str(caught.value)


def test_a_subordinate_that_does_not_name_its_signers_key_is_refused(tmp_path, key):
    root_key = ec.generate_private_key(ec.SECP256R1())
    certificate = make_certificate(key, name="Sub", issuer="Root")
    assert certificate.subject != certificate.issuer

    with pytest.raises(AuthorityError, match="which key signed it"):
        Authority.from_files(*write_pair(tmp_path, key, certificate))
    signed = make_certificate(key, name="Sub", issuer="Root", signer=root_key)
    Authority.from_files(*write_pair(tmp_path, key, signed))


def test_a_key_of_another_certificate_is_refused(tmp_path, key):
    files = write_pair(tmp_path, key, make_certificate(ec.generate_private_key(ec.SECP256R1())))

    with pytest.raises(AuthorityError, match="not the one of the first certificate"):
        Authority.from_files(*files)


def test_a_chain_that_did_not_sign_is_refused(tmp_path, key):
    stranger = make_certificate(ec.generate_private_key(ec.SECP256R1()), name="Other")
    impostor = make_certificate(ec.generate_private_key(ec.SECP256R1()))

    for certificate in (stranger, impostor):
        files = write_pair(tmp_path, key, make_certificate(key), certificate)
        with pytest.raises(AuthorityError, match="certificate 2 did not sign"):
            Authority.from_files(*files)


def test_an_encrypted_key_is_refused(tmp_path, key):
    encryption = serialization.BestAvailableEncryption(b"x")
    files = write_pair(tmp_path, key, make_certificate(key), encryption=encryption)

    with pytest.raises(AuthorityError, match="encrypted"):
        Authority.from_files(*files)


def test_a_kind_of_key_that_clients_may_not_know_is_refused(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()

    with pytest.raises(AuthorityError, match="Use EC P-256 or RSA"):
        Authority.from_files(*write_pair(tmp_path, key, make_certificate(key)))


def test_garbage_is_refused_and_not_quoted(tmp_path, key):
    cert_file, key_file = write_pair(tmp_path, key, make_certificate(key))
    key_file.write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")

    with pytest.raises(AuthorityError, match="not a private key in PEM") as caught:
        Authority.from_files(cert_file, key_file)
    assert "hunter2" not in str(caught.value)

    cert_file.write_text("nothing")
    with pytest.raises(AuthorityError, match="not a PEM certificate"):
        Authority.from_files(cert_file, key_file)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(AuthorityError, match=r"gone\.crt: cannot read the CA's certificate"):
        Authority.from_files(tmp_path / "gone.crt", tmp_path / "gone.key")


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(AuthorityError, match="cannot make the CA"):
        Authority.load_or_create(tmp_path / "file" / "state")
