from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml
from tests.deploy import manifests
from tests.deploy.manifests import PUBLIC, ROOT

FILE = ROOT / "deploy/compose.yaml"
POLICY = ROOT / "deploy/policy/policy.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return document


def test_agents_network_has_no_route_but_the_proxy(compose: dict[str, Any]) -> None:
    services, networks = compose["services"], compose["networks"]
    assert services["agent"]["networks"] == ["sandbox"]
    assert set(services["understudy"]["networks"]) == {"sandbox", "outside"}
    assert networks["sandbox"]["internal"] is True
    # Without this the host's own services answer on the bridge's address.
    mode = networks["sandbox"]["driver_opts"]["com.docker.network.bridge.gateway_mode_ipv4"]
    assert mode == "isolated"
    assert set(services) == {"agent", "understudy"}
    for service in services.values():
        for open_door in ("ports", "network_mode", "extra_hosts", "privileged", "pid", "links"):
            assert open_door not in service


def test_agent_shares_only_the_certificate_volume(compose: dict[str, Any]) -> None:
    agent, proxy = compose["services"]["agent"], compose["services"]["understudy"]
    assert agent["volumes"] == [
        {"type": "volume", "source": "public", "target": PUBLIC, "read_only": True}
    ]
    assert "secrets" not in agent
    assert "env_file" not in agent
    targets = {volume["source"]: volume["target"] for volume in proxy["volumes"]}
    assert targets["public"] == PUBLIC
    assert targets["state"] == "/var/lib/understudy"
    [policy] = [volume for volume in proxy["volumes"] if volume["type"] == "bind"]
    assert (policy["target"], policy["read_only"]) == ("/etc/understudy/policy", True)
    assert (FILE.parent / policy["source"]).resolve() == POLICY.parent


def test_both_services_run_without_privileges(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert compose["services"]["understudy"]["read_only"] is True
    assert not compose["services"]["agent"]["user"].startswith(("0", str(manifests.PROXY_USER)))


def test_agent_waits_until_the_proxy_is_ready(compose: dict[str, Any]) -> None:
    agent, proxy = compose["services"]["agent"], compose["services"]["understudy"]
    assert agent["depends_on"] == {"understudy": {"condition": "service_healthy"}}
    kind, *command = proxy["healthcheck"]["test"]
    assert kind == "CMD"
    assert "/readyz" in command[-1]
    compile(command[-1], "healthcheck", "exec")


def test_proxys_command_is_one_that_understudy_takes(compose: dict[str, Any]) -> None:
    parameters = manifests.assert_run_accepts(compose["services"]["understudy"]["command"])
    # On loopback: the agent is in another container and cannot reach it.
    assert parameters["admin"] == "127.0.0.1:9081"


def test_secrets_are_the_files_that_the_policy_reads(compose: dict[str, Any]) -> None:
    mounted = {secret["target"] for secret in compose["services"]["understudy"]["secrets"]}
    policy = yaml.safe_load(POLICY.read_text("utf-8"))
    assert mounted == {
        connection["secret"]["file"] for connection in policy["connections"].values()
    }
    ignored = (FILE.parent / ".gitignore").read_text("ascii").split()
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    assert "secrets/" in ignored


def test_agent_holds_what_understudy_env_prints(compose: dict[str, Any]) -> None:
    environment = compose["services"]["agent"]["environment"]
    assert environment == manifests.sandbox_environment_of(POLICY, "http://understudy:9080")


def test_image_carries_the_projects_version(compose: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert compose["services"]["understudy"]["image"] == f"understudy:{version}"
