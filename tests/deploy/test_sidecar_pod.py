from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.deploy import manifests
from tests.deploy.manifests import ROOT, Manifest

FILE = ROOT / "deploy/kubernetes/sidecar-pod.yaml"
POLICY = ROOT / "deploy/policy/policy.yaml"


@pytest.fixture(scope="module")
def objects() -> list[Manifest]:
    return manifests.parse_manifests(FILE.read_text("utf-8"))


def test_agent_of_the_example_pod_gets_the_certificate_and_nothing_else(
    objects: list[Manifest],
) -> None:
    spec = manifests.one(objects, "Pod")["spec"]
    manifests.assert_sidecar_keeps_keys_from_agents(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["understudy-secrets"]["secret"] == {"secretName": "understudy-secrets"}


def test_policy_of_the_example_pod_is_a_mounted_configmap(objects: list[Manifest]) -> None:
    config = manifests.one(objects, "ConfigMap")
    spec = manifests.one(objects, "Pod")["spec"]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "understudy-policy"]
    assert volume["configMap"] == {"name": config["metadata"]["name"]}
    [mount] = [
        mount
        for mount in spec["initContainers"][0]["volumeMounts"]
        if mount["name"] == "understudy-policy"
    ]
    # A subPath mount would never see an update of the ConfigMap.
    assert mount == {
        "name": "understudy-policy",
        "mountPath": "/etc/understudy/policy",
        "readOnly": True,
    }


def test_example_pod_and_compose_carry_the_same_policy(objects: list[Manifest]) -> None:
    [(name, text)] = manifests.one(objects, "ConfigMap")["data"].items()
    assert name.endswith(".yaml")
    assert yaml.safe_load(text) == yaml.safe_load(POLICY.read_text("utf-8"))


def test_example_pods_agent_holds_what_understudy_env_prints(
    objects: list[Manifest], tmp_path: Path
) -> None:
    [agent] = manifests.one(objects, "Pod")["spec"]["containers"]
    environment = manifests.environment_of(agent)
    assert environment == manifests.sandbox_environment_of(POLICY, "http://127.0.0.1:9080")
