"""Reads manifests and states what must hold for every pod that carries the proxy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # ships no types
import pytest
import typer
import yaml

from understudy.authority.environment import sandbox_environment
from understudy.cli import run_command
from understudy.engine.settings import parse_address, parse_admin
from understudy.policy.load import load
from understudy.providers.preset import provider_presets

ROOT = Path(__file__).parents[2]
KUBERNETES_VERSION = "1.37"
PROXY_USER = 65532
PUBLIC = "/var/lib/understudy/public"

Manifest = dict[str, Any]


def parse_manifests(text: str) -> list[Manifest]:
    """Read a YAML stream; every object is checked against the Kubernetes API's own schema."""
    manifests = [document for document in yaml.safe_load_all(text) if document]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    return manifests


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Give the only manifest of that kind (and name)."""
    [found] = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    ]
    return found


def environment_of(container: Manifest) -> dict[str, str]:
    """Give a container's variables; none may appear twice or come from elsewhere."""
    assert "envFrom" not in container
    entries = container.get("env", [])
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry["value"] for entry in entries}


def sandbox_environment_of(policy_file: Path, proxy_url: str) -> dict[str, str]:
    """Give what ``understudy env`` prints for a policy that fixes every placeholder."""
    policy = load(policy_file, {}).policy
    placeholders = {
        name: connection.placeholder
        for name, connection in policy.connections.items()
        if connection.placeholder is not None
    }
    assert placeholders.keys() == policy.connections.keys()
    return sandbox_environment(
        policy,
        placeholders,
        proxy_url,
        ca_cert=Path(PUBLIC, "ca.crt"),
        bundle=Path(PUBLIC, "bundle.pem"),
        presets=provider_presets(),
    )


def assert_run_accepts(arguments: list[str]) -> dict[str, Any]:
    """The arguments are a command line that ``understudy`` itself takes; gives its parameters."""
    command, *rest = arguments
    assert command == "run"
    run = typer.main.get_command(run_command.app)
    with run.make_context("run", ["--policy=/etc/understudy/policy", *rest]) as context:
        parameters = dict(context.params)
    assert parse_address(parameters["listen"])
    assert parse_admin(parameters["admin"])
    return parameters


def assert_hardened(proxy: Manifest) -> None:
    """The proxy's container fits the restricted Pod Security Standard, with a read-only root."""
    assert proxy["securityContext"] == {
        "runAsUser": PROXY_USER,
        "runAsGroup": PROXY_USER,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert {"cpu", "memory"} <= set(proxy["resources"]["requests"])
    assert "memory" in proxy["resources"]["limits"]
    for probe, path in (
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/healthz"),
    ):
        assert proxy[probe]["httpGet"] == {"path": path, "port": "admin"}
    assert {"name": "admin", "containerPort": 9081} in proxy["ports"]
    # The kubelet probes the pod's address: an admin server on loopback would never be ready.
    assert assert_run_accepts(proxy["args"])["admin"] == "0.0.0.0:9081"


def assert_sidecar_keeps_keys_from_agents(spec: Manifest) -> None:
    """Nothing of the proxy's but the CA certificate and the bundle is in reach of the agent."""
    proxy, *other_inits = spec["initContainers"]
    agents = other_inits + spec["containers"]
    assert (proxy["name"], proxy["restartPolicy"]) == ("understudy", "Always")
    assert_hardened(proxy)
    assert assert_run_accepts(proxy["args"])["listen"] == "127.0.0.1:9080"
    for shared in ("hostNetwork", "hostPID", "shareProcessNamespace"):
        assert not spec.get(shared)
    assert spec["automountServiceAccountToken"] is False

    mounts = {mount["name"]: mount["mountPath"] for mount in proxy["volumeMounts"]}
    assert mounts["understudy-state"] == "/var/lib/understudy"
    assert mounts["understudy-public"] == PUBLIC
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(mounts) <= set(volumes)
    for private in ("understudy-state", "understudy-public"):
        assert "emptyDir" in volumes[private]
    for agent in agents:
        common = [mount for mount in agent["volumeMounts"] if mount["name"] in mounts]
        assert common == [{"name": "understudy-public", "mountPath": PUBLIC, "readOnly": True}]
        assert "secretKeyRef" not in str(agent)
        user = agent.get("securityContext", {}).get("runAsUser")
        assert user not in {0, PROXY_USER}


def find_helm() -> str:
    """Give helm's path; without helm the test is skipped, and fails in CI."""
    path = os.pathsep.join((str(ROOT / ".venv/bin"), os.environ.get("PATH", "")))
    if found := shutil.which("helm", path=path):
        return found
    message = "helm is not installed: make helm-tool"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
