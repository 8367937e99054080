"""The environment that makes a sandbox's programs use the proxy, trust it and hold placeholders.

Pure: names and values in, names and values out. Which program reads which variable was measured;
docs/environment.md has the table.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from understudy.policy.model import Connection, Policy
    from understudy.providers.preset import ProviderPreset

type Format = Literal["shell", "dotenv", "json", "kubernetes"]

NO_PROXY = "127.0.0.1,localhost,::1"
PLACEHOLDER_PREFIX = "UNDERSTUDY_PLACEHOLDER_"
"""With a connection's name in upper case, ``_`` for the rest: holds its placeholder."""

# wget and curl read only the lower-case http_proxy, others only the upper-case names.
PROXY_VARIABLES = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
)
NO_PROXY_VARIABLES = ("NO_PROXY", "no_proxy")
# These replace a program's own roots, so they get the bundle: public roots and the proxy's CA.
BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "CODEX_CA_CERTIFICATE",
)
# These add to a program's own roots, so they get the CA certificate alone.
CERTIFICATE_VARIABLES = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
NODE_VARIABLE = "NODE_USE_ENV_PROXY"
"""Makes node's ``fetch`` and ``https`` read the proxy variables, from 22.21 on."""

# Lower case; removed in any case. What would win over the variables above, or would write the
# keys of TLS sessions to a file.
_OVERRIDING = frozenset(
    {
        "ftp_proxy",
        "grpc_proxy",
        "rsync_proxy",
        "socks_proxy",
        "ws_proxy",
        "wss_proxy",
        "no_grpc_proxy",
        "cargo_http_proxy",
        "npm_config_ca",
        "npm_config_http_proxy",
        "npm_config_https_proxy",
        "npm_config_noproxy",
        "npm_config_proxy",
        "pip_proxy",
        "git_proxy_ssl_cainfo",
        "git_ssl_capath",
        "ssl_cert_dir",
        "sslkeylogfile",
        "mitmproxy_sslkeylogfile",
    }
)
_OWN_PREFIX = "understudy_"
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*\Z")


def sandbox_environment(
    policy: Policy,
    placeholders: Mapping[str, str],
    proxy_url: str,
    *,
    ca_cert: Path,
    bundle: Path,
    presets: Mapping[str, ProviderPreset],
) -> dict[str, str]:
    """Give every variable that a sandbox needs; ``ca_cert`` and ``bundle`` are paths inside it.

    Where two connections share a provider the first in the policy gets the provider's variables.
    Base URLs are not set, because with their defaults SDKs work unchanged, through the gateway
    too; the one exception is a provider that has no default, where the policy names its one host.
    """
    environment = placeholder_variables(policy, placeholders, presets)
    environment |= dict.fromkeys(PROXY_VARIABLES, proxy_url)
    environment |= dict.fromkeys(NO_PROXY_VARIABLES, NO_PROXY)
    environment[NODE_VARIABLE] = "1"
    environment |= dict.fromkeys(BUNDLE_VARIABLES, str(bundle))
    environment |= dict.fromkeys(CERTIFICATE_VARIABLES, str(ca_cert))
    return environment


def placeholder_variables(
    policy: Policy, placeholders: Mapping[str, str], presets: Mapping[str, ProviderPreset]
) -> dict[str, str]:
    """Give the variables in which programs look for their keys, with placeholders in them.

    A variable that the policy reads a secret from holds that connection's placeholder, whatever
    the provider's preset says. Every connection with a placeholder also has one of its own name.
    """
    held = [
        (connection, placeholders[connection.name])
        for connection in policy.connections.values()
        if connection.name in placeholders
    ]
    environment: dict[str, str] = {}
    for connection, placeholder in held:
        if connection.secret is not None and connection.secret.source == "env":
            environment.setdefault(connection.secret.locator, placeholder)
    for connection, placeholder in held:
        preset = presets.get(connection.provider or "")
        if preset is not None:
            for variable in preset.variables:
                environment.setdefault(variable, placeholder)
            for variable, url in _base_urls(connection, preset).items():
                environment.setdefault(variable, url)
    for connection, placeholder in held:
        environment.setdefault(own_variable(connection.name), placeholder)
    return environment


def own_variable(connection: str) -> str:
    """Give the variable that holds a connection's placeholder under the connection's own name."""
    return PLACEHOLDER_PREFIX + re.sub(r"[^A-Z0-9]", "_", connection.upper())


def names_to_remove(
    policy: Policy, presets: Mapping[str, ProviderPreset], inherited: Mapping[str, str]
) -> frozenset[str]:
    """Give the ``inherited`` variables that a sandbox must not see, to be removed before setting.

    They are: real keys (the policy's ``env`` secrets and the variables of every known provider),
    settings that would win over the sandbox's own, session key logs, and the proxy's settings.
    Names are compared without case: Windows and npm do so, and a second spelling may win.
    """
    unwanted = {name.lower() for name in _always_set()} | _OVERRIDING
    # For the index variables: an address with a password in it is a key.
    addresses: set[str] = set()
    for preset in presets.values():
        unwanted.update(name.lower() for name in preset.variables)
        unwanted.update(name.lower() for name in preset.alternative_variables)
        addresses.update(name.lower() for name in preset.base_url_variables)
    for connection in policy.connections.values():
        if connection.secret is not None and connection.secret.source == "env":
            unwanted.add(connection.secret.locator.lower())
    return frozenset(
        name
        for name, value in inherited.items()
        if name.lower() in unwanted
        or name.lower().startswith(_OWN_PREFIX)
        or (name.lower() in addresses and _holds_password(value))
    )


def render(environment: Mapping[str, str], style: Format) -> str:
    """Give the environment as text: shell exports, dotenv, JSON or a Kubernetes ``env:`` list.

    Raises ValueError for a value with a line break, which dotenv cannot hold everywhere.
    """
    for name, value in environment.items():
        if "\n" in value or "\r" in value or "\0" in value:
            raise ValueError(f"{name} holds a line break, so it cannot be written.")
    if style == "json":
        return json.dumps(dict(environment), indent=2) + "\n"
    if style == "kubernetes":
        # $(NAME) is expanded by the kubelet, $$ is its way to write a dollar sign.
        entries = [
            {"name": name, "value": value.replace("$(", "$$(")}
            for name, value in environment.items()
        ]
        return yaml.safe_dump(entries, sort_keys=False)
    if style == "dotenv":
        return "".join(f"{name}={_quote_dotenv(value)}\n" for name, value in environment.items())
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def _always_set() -> tuple[str, ...]:
    return (
        *PROXY_VARIABLES,
        *NO_PROXY_VARIABLES,
        NODE_VARIABLE,
        *BUNDLE_VARIABLES,
        *CERTIFICATE_VARIABLES,
    )


def _base_urls(connection: Connection, preset: ProviderPreset) -> dict[str, str]:
    """Give base URLs for a model provider without a default host, where there is one answer.

    Not for registries and indexes: their URL has a path that the policy does not know.
    """
    if preset.hosts or preset.kind != "llm" or len(connection.hosts) != 1:
        return {}
    pattern = connection.hosts[0]
    if pattern.is_wildcard:
        return {}
    host = f"[{pattern.text}]" if ":" in pattern.text else pattern.text
    return dict.fromkeys(preset.base_url_variables, f"https://{host}")


def _holds_password(value: str) -> bool:
    try:
        return "@" in urlsplit(value).netloc
    except ValueError:
        return True  # not a URL, so nobody knows what it is


def _quote_dotenv(value: str) -> str:
    # Bare where possible: docker's --env-file takes quotes for a part of the value.
    if _PLAIN_VALUE.match(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
