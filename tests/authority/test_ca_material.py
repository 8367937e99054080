from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from understudy.authority.ca import Authority

ROOT = Path(__file__).parents[2]
CERTS = ROOT / "certs"
README = (CERTS / "README.md").read_text()


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CERTS / name).read_text()))


def hours(text: str) -> timedelta:
    return timedelta(hours=int(text.removesuffix("h")))


@pytest.fixture
def certificates() -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one
        for one in read("cert-manager.yaml")
        if one["kind"] == "Certificate"
    }


def test_certificates_are_cas_of_the_kind_the_proxy_takes(certificates):
    for one in certificates.values():
        spec = one["spec"]
        assert spec["isCA"] is True
        assert spec["privateKey"]["algorithm"] == "ECDSA"
        assert spec["privateKey"]["size"] == 256
        assert set(spec["usages"]) == {"cert sign", "crl sign"}
        assert spec["commonName"]
        assert hours(spec["renewBefore"]) < hours(spec["duration"])


def test_every_issuer_that_is_referred_to_is_there(certificates):
    issuers = {
        one["metadata"]["name"]: one
        for one in read("cert-manager.yaml")
        if one["kind"] == "ClusterIssuer"
    }
    for one in certificates.values():
        reference = one["spec"]["issuerRef"]
        assert (reference["group"], reference["kind"]) == ("cert-manager.io", "ClusterIssuer")
        assert reference["name"] in issuers
    assert (
        issuers["understudy-root"]["spec"]["ca"]["secretName"]
        == certificates["understudy-root"]["spec"]["secretName"]
    )


def test_the_roots_key_and_the_proxys_key_are_in_different_namespaces(certificates):
    namespaces = {name: one["metadata"]["namespace"] for name, one in certificates.items()}

    assert namespaces == {"understudy-root": "cert-manager", "understudy-ca": "agents"}


def test_the_bundle_distributes_the_root_certificate_and_no_key(certificates):
    [bundle] = read("trust-manager.yaml")

    assert bundle["apiVersion"] == "trust.cert-manager.io/v1alpha1"
    assert bundle["kind"] == "Bundle"
    assert bundle["spec"]["sources"] == [
        {"useDefaultCAs": True},
        {
            "secret": {
                "name": certificates["understudy-root"]["spec"]["secretName"],
                "key": "tls.crt",
            }
        },
    ]


def test_the_readme_names_what_the_manifests_make(certificates):
    [bundle] = read("trust-manager.yaml")
    names = [
        certificates["understudy-ca"]["spec"]["secretName"],
        bundle["metadata"]["name"],
        bundle["spec"]["target"]["configMap"]["key"],
        *bundle["spec"]["target"]["namespaceSelector"]["matchLabels"],
    ]

    for name in names:
        assert name in README


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
def test_the_readmes_openssl_commands_make_a_ca_that_is_taken(tmp_path):
    [script] = re.findall(r"```sh\n(openssl .*?)```", README, re.DOTALL)

    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, capture_output=True)

    authority = Authority.from_files(tmp_path / "ca.crt", tmp_path / "ca.key")
    assert authority.certificate.subject.rfc4514_string() == "CN=Understudy CA,O=Understudy"


@pytest.mark.parametrize("name", ["ca.key", "tls.key", "deep/down/ca.key", "ca.pem", "ca.p12"])
def test_keys_are_ignored_by_git(name):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        patterns = (ROOT / ".gitignore").read_text().splitlines()
        assert f"certs/**/*{Path(name).suffix}" in patterns
        return
    result = subprocess.run(["git", "check-ignore", "-q", f"certs/{name}"], cwd=ROOT, check=False)

    assert result.returncode == 0


def test_no_key_is_in_the_folder():
    for file in CERTS.rglob("*"):
        if file.is_file():
            assert "PRIVATE KEY" not in file.read_text()
