from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy import manifests
from tests.deploy.manifests import ROOT, Manifest

CHART = ROOT / "helm/understudy"
POLICY = ROOT / "deploy/policy/policy.yaml"
SIDECAR = CHART / "examples/sidecar.yaml"
SHARED = CHART / "examples/shared.yaml"

Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Manifest]]


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Run helm on the chart: ``helm("template", SIDECAR, {"image": …}, "--set=…")``."""
    program = manifests.find_helm()

    def run(
        command: str, values: Path | None, changes: dict[str, Any] | None = None, *more: str
    ) -> subprocess.CompletedProcess[str]:
        release = [] if command == "lint" else ["sandbox"]
        arguments = [program, command, *release, str(CHART), *more]
        if values is not None:
            arguments += [f"--values={values}", f"--set-file=policy={POLICY}"]
        if changes is not None:
            overlay = tmp_path / "changes.yaml"
            overlay.write_text(json.dumps(changes), "utf-8")
            arguments.append(f"--values={overlay}")
        environment = {"HOME": str(tmp_path), "KUBECONFIG": "/dev/null"}
        return subprocess.run(
            arguments, capture_output=True, text=True, check=False, env=environment, timeout=60
        )

    return run


@pytest.fixture
def render(helm: Helm) -> Render:
    """Render the chart and check every object against the Kubernetes API's schema."""

    def run(
        values: Path | None, changes: dict[str, Any] | None = None, *more: str
    ) -> list[Manifest]:
        done = helm("template", values, changes, *more)
        assert done.returncode == 0, done.stderr
        return manifests.parse_manifests(done.stdout)

    return run


def agent_template(**spec: Any) -> dict[str, Any]:
    agent = {"name": "agent", "image": "agent:1", **spec.pop("container", {})}
    return {"sidecar": {"podTemplate": {"spec": {"containers": [agent], **spec}}}}


@pytest.mark.parametrize("values", [None, SIDECAR, SHARED])
def test_chart_passes_helms_strict_lint(helm: Helm, values: Path | None) -> None:
    done = helm("lint", values, None, "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_chart_carries_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_readme_explains_every_value() -> None:
    readme = (CHART / "README.md").read_text("utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    named = [
        f"{name}.{inner}" if isinstance(value, dict) else name
        for name, value in values.items()
        for inner in (value if isinstance(value, dict) else [None])
    ]
    assert [name for name in named if f"`{name}`" not in readme] == []


# the sidecar form


def test_sidecars_agent_gets_the_certificate_and_nothing_else(render: Render) -> None:
    deployment = manifests.one(render(SIDECAR), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    manifests.assert_sidecar_keeps_keys_from_agents(spec)
    [agent] = spec["containers"]
    assert agent["command"] == ["sleep", "infinity"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "research"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_every_container_of_the_template_goes_through_the_proxy(render: Render) -> None:
    changes = agent_template(
        container={"env": [{"name": "MODE", "value": "fast"}]},
        initContainers=[{"name": "clone", "image": "git:1"}],
        volumes=[{"name": "work", "emptyDir": {}}],
    )
    spec = manifests.one(render(SIDECAR, changes), "Deployment")["spec"]["template"]["spec"]
    manifests.assert_sidecar_keeps_keys_from_agents(spec)
    assert [container["name"] for container in spec["initContainers"]] == ["understudy", "clone"]
    expected = manifests.sandbox_environment_of(POLICY, "http://127.0.0.1:9080")
    assert manifests.environment_of(spec["initContainers"][1]) == expected
    assert manifests.environment_of(spec["containers"][0]) == expected | {"MODE": "fast"}
    assert "work" in {volume["name"] for volume in spec["volumes"]}


def test_sidecar_serves_a_job(render: Render) -> None:
    objects = render(SIDECAR, {"sidecar": {"kind": "Job"}})
    spec = manifests.one(objects, "Job")["spec"]["template"]["spec"]
    manifests.assert_sidecar_keeps_keys_from_agents(spec)
    assert spec["restartPolicy"] == "Never"


# the shared form


def test_shared_proxy_is_hardened_and_uses_the_operators_ca(render: Render) -> None:
    deployment = manifests.one(render(SHARED), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    [proxy] = spec["containers"]
    manifests.assert_hardened(proxy)
    parameters = manifests.assert_run_accepts(proxy["args"])
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in proxy["volumeMounts"]}
    assert set(mounts) == set(volumes)
    for option, name in (("ca_cert", "tls.crt"), ("ca_key", "tls.key")):
        assert str(parameters[option]) == f"{mounts['understudy-ca']}/{name}"
    # Not readable by everybody; the group is the proxy's own.
    assert volumes["understudy-ca"]["secret"] == {
        "secretName": "understudy-ca",
        "defaultMode": 0o440,
    }
    assert spec["securityContext"]["fsGroup"] == manifests.PROXY_USER
    assert spec["automountServiceAccountToken"] is False
    # A Service called understudy would put UNDERSTUDY_PORT and others into the environment.
    assert spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] > parameters["drain_seconds"]
    assert manifests.environment_of(proxy) == {
        "UNDERSTUDY_LLM_GATEWAY_URL": "https://litellm.internal.example",
        "UNDERSTUDY_LLM_GATEWAY_KIND": "litellm",
    }


def test_service_leads_to_the_proxy_port_only(render: Render) -> None:
    objects = render(SHARED)
    service = manifests.one(objects, "Service")["spec"]
    template = manifests.one(objects, "Deployment")["spec"]["template"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert [port["targetPort"] for port in service["ports"]] == ["proxy"]
    assert {"name": "proxy", "containerPort": 9080} in template["spec"]["containers"][0]["ports"]


def test_without_the_proxy_agents_have_no_way_out(render: Render) -> None:
    objects = render(SHARED)
    proxy_labels = manifests.one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    agents = manifests.one(objects, "NetworkPolicy", "sandbox-understudy-agents")["spec"]
    assert agents["podSelector"] == {"matchLabels": {"understudy.agent": "true"}}
    assert agents["policyTypes"] == ["Egress"]
    [rule] = agents["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9080}]
    [peer] = rule["to"]
    assert set(peer) == {"podSelector"}
    assert peer["podSelector"]["matchLabels"].items() <= proxy_labels.items()


def test_only_agents_reach_the_proxy_port_and_only_monitoring_the_admin_port(
    render: Render,
) -> None:
    proxy = manifests.one(render(SHARED), "NetworkPolicy", "sandbox-understudy-proxy")["spec"]
    assert proxy["policyTypes"] == ["Ingress"]
    callers, monitoring = proxy["ingress"]
    assert callers == {
        "from": [{"podSelector": {"matchLabels": {"understudy.agent": "true"}}}],
        "ports": [{"protocol": "TCP", "port": 9080}],
    }
    assert monitoring["ports"] == [{"protocol": "TCP", "port": 9081}]
    changes: dict[str, Any] = {"shared": {"networkPolicy": {"metricsFrom": []}}}
    proxy = manifests.one(render(SHARED, changes), "NetworkPolicy", "sandbox-understudy-proxy")
    assert len(proxy["spec"]["ingress"]) == 1


# both forms


@pytest.mark.parametrize("values", [SIDECAR, SHARED])
def test_policy_arrives_unchanged_and_a_new_one_replaces_the_pods(
    render: Render, values: Path
) -> None:
    objects = render(values)
    text = POLICY.read_text("utf-8")
    assert manifests.one(objects, "ConfigMap")["data"] == {"policy.yaml": text}
    annotations = manifests.one(objects, "Deployment")["spec"]["template"]["metadata"][
        "annotations"
    ]
    assert annotations["checksum/policy"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("text", ["  version: 1\n", "version: 1", "version: 1\n# {{ fail }}\n"])
def test_policy_text_survives_any_layout(render: Render, text: str) -> None:
    objects = render(None, {"policy": text}, f"--values={SHARED}")
    assert manifests.one(objects, "ConfigMap")["data"] == {"policy.yaml": text}


def test_own_policy_configmap_is_mounted_and_none_is_made(render: Render) -> None:
    objects = render(None, {"existingPolicyConfigMap": "team"}, f"--values={SHARED}")
    assert [manifest for manifest in objects if manifest["kind"] == "ConfigMap"] == []
    template = manifests.one(objects, "Deployment")["spec"]["template"]
    assert "annotations" not in template["metadata"]
    volumes = template["spec"]["volumes"]
    assert {"name": "understudy-policy", "configMap": {"name": "team"}} in volumes


def test_image_is_pinned_by_digest_where_one_is_given(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    changes = {"image": {"repository": "registry.example/understudy", "digest": digest}}
    deployment = manifests.one(render(SHARED, changes), "Deployment")
    [proxy] = deployment["spec"]["template"]["spec"]["containers"]
    assert proxy["image"] == f"registry.example/understudy@{digest}"


@pytest.mark.parametrize("values", [SIDECAR, SHARED])
def test_metrics_ask_for_a_token_where_one_is_given(render: Render, values: Path) -> None:
    path = "/run/secrets/understudy/admin-token"
    deployment = manifests.one(render(values, {"adminTokenFile": path}), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    [proxy, *_] = spec.get("initContainers", []) or spec["containers"]
    assert str(manifests.assert_run_accepts(proxy["args"])["admin_token_file"]) == path


@pytest.mark.parametrize("values", [SIDECAR, SHARED])
@pytest.mark.parametrize("workers", [1, 4, "auto"])
def test_the_proxy_runs_as_many_workers_as_are_asked_for(
    render: Render, values: Path, workers: int | str
) -> None:
    deployment = manifests.one(render(values, {"workers": workers}), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    [proxy, *_] = spec.get("initContainers", []) or spec["containers"]
    assert manifests.assert_run_accepts(proxy["args"])["workers"] == str(workers)


REFUSED: dict[str, tuple[Path | None, dict[str, Any], str]] = {
    "nothing enabled": (None, {}, "set sidecar.enabled or shared.enabled"),
    "no policy": (
        None,
        {"shared": {"enabled": True, "caSecretName": "ca"}},
        "no policy: give one",
    ),
    "two policies": (SHARED, {"existingPolicyConfigMap": "p"}, "exclude each other"),
    "policy as a map": (None, {"policy": {"version": 1}}, "policy"),
    "unknown value": (SHARED, {"shared": {"replica": 2}}, "replica"),
    "no worker": (SHARED, {"workers": 0}, "workers"),
    "unknown section": (SHARED, {"gateway": {}}, "gateway"),
    "bad gateway address": (SHARED, {"llmGateway": {"url": "ftp://x"}}, "url"),
    "gateway kind alone": (SHARED, {"llmGateway": {"url": ""}}, "llmGateway.url is not"),
    "short placeholder": (SIDECAR, {"sidecar": {"placeholders": {"KEY": "short"}}}, "KEY"),
    "no CA": (SHARED, {"shared": {"caSecretName": ""}}, "shared.caSecretName is empty"),
    "CA among the secrets": (
        SHARED,
        {"secretNames": ["understudy-ca"]},
        "keep the CA's key in a Secret of its own",
    ),
    "every pod selected": (
        None,
        {"policy": "version: 1", "shared": {"enabled": True, "caSecretName": "ca"}},
        "agentSelector is empty",
    ),
    "no template": (
        None,
        {"policy": "version: 1", "sidecar": {"enabled": True}},
        "containers is empty",
    ),
    "host network": (SIDECAR, agent_template(hostNetwork=True), "hostNetwork"),
    "shared processes": (
        SIDECAR,
        agent_template(shareProcessNamespace=True),
        "shareProcessNamespace",
    ),
    "host's processes": (SIDECAR, agent_template(hostPID=True), "hostPID"),
    "host's files": (
        SIDECAR,
        agent_template(volumes=[{"name": "node", "hostPath": {"path": "/var/lib/kubelet"}}]),
        "hostPath",
    ),
    "privileged": (
        SIDECAR,
        agent_template(container={"securityContext": {"privileged": True}}),
        "is privileged",
    ),
    "the proxy's name": (SIDECAR, agent_template(container={"name": "understudy"}), "another name"),
    "the chart's volume": (
        SIDECAR,
        agent_template(volumes=[{"name": "understudy-state", "emptyDir": {}}]),
        "is a name of this chart's",
    ),
    "the proxy's state": (
        SIDECAR,
        agent_template(
            container={"volumeMounts": [{"name": "understudy-state", "mountPath": "/state"}]}
        ),
        "mounts understudy-state",
    ),
    "a variable of the chart's": (
        SIDECAR,
        agent_template(container={"env": [{"name": "NO_PROXY", "value": "*"}]}),
        "sets NO_PROXY",
    ),
    "real keys as a volume": (
        SIDECAR,
        agent_template(volumes=[{"name": "k", "secret": {"secretName": "understudy-secrets"}}]),
        "holds the real keys",
    ),
    "real keys in a projected volume": (
        SIDECAR,
        agent_template(
            volumes=[
                {
                    "name": "k",
                    "projected": {
                        "sources": [
                            {
                                "secret": {
                                    "items": [{"key": "github-token", "path": "t"}],
                                    "name": "understudy-secrets",
                                }
                            }
                        ]
                    },
                }
            ]
        ),
        "holds the real keys",
    ),
    "a real key as a variable": (
        SIDECAR,
        agent_template(
            container={
                "env": [
                    {
                        "name": "K",
                        "valueFrom": {
                            "secretKeyRef": {"key": "github-token", "name": "understudy-secrets"}
                        },
                    }
                ]
            }
        ),
        "holds the real keys",
    ),
    "real keys as variables": (
        SIDECAR,
        agent_template(
            container={"envFrom": [{"secretRef": {"name": "understudy-secrets", "optional": True}}]}
        ),
        "holds the real keys",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_or_mistaken_values_are_refused_with_a_sentence(helm: Helm, name: str) -> None:
    values, changes, sentence = REFUSED[name]
    done = helm("template", values, changes)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_agents_own_secrets_are_not_refused(render: Render) -> None:
    changes = agent_template(
        container={"name": "understudy-secrets"},
        volumes=[{"name": "k", "secret": {"secretName": "agent-data"}}],
    )
    assert render(SIDECAR, changes)


@pytest.mark.parametrize("values", [SIDECAR, SHARED])
def test_notes_say_what_is_not_prevented(helm: Helm, values: Path) -> None:
    done = helm("install", values, None, "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = " ".join(done.stdout.partition("NOTES:")[2].split())
    if values is SIDECAR:
        assert "a program that ignores HTTPS_PROXY dials on its own" in notes
    else:
        assert "get service sandbox-understudy -o jsonpath='{.spec.clusterIP}'" in notes
        assert "must time out" in notes
