"""The declared gateway: from the file, or from one environment variable."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from understudy.gateways.preset import gateway_presets
from understudy.policy.hosts import HostPattern, parse_authority
from understudy.policy.model import Gateway
from understudy.policy.paths import PathError, readings
from understudy.policy.problems import nearest
from understudy.providers.preset import provider_presets

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.gateways.preset import GatewayPreset
    from understudy.policy.document import GatewayDocument
    from understudy.policy.model import Scheme
    from understudy.policy.tree import NodePath

    type Report = Callable[[Literal["error", "warning"], NodePath, str], None]
    """Reports about a field of the gateway: (severity, its path within, message)."""

URL_VARIABLE = "UNDERSTUDY_LLM_GATEWAY_URL"
KIND_VARIABLE = "UNDERSTUDY_LLM_GATEWAY_KIND"

_URL = re.compile(r"(https?)://([^/?#@\s]+)(/[^?#\s]*)?", re.IGNORECASE)
_SETTING = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}


def build_gateway(
    document: GatewayDocument, used_providers: set[str], report: Report
) -> Gateway | None:
    """Resolve the gateway; None where an error was reported.

    ``used_providers`` are those of the policy's connections: without ``providers``, every LLM
    provider among them goes to the gateway. One that this kind of gateway does not know goes
    there all the same and is refused there: falling back to the provider would send the key past
    the gateway.
    """
    errors: list[NodePath] = []

    def refuse(field: NodePath, message: str) -> None:
        errors.append(field)
        report("error", field, message)

    presets = gateway_presets()
    preset = presets.get(document.kind)
    if preset is None:
        found = document.kind[:60]
        refuse(("kind",), f"there is no gateway {found!r}.{nearest(found, presets)}")
    address = _address(document.url, refuse)
    if address and address[0] == "http" and not _is_loopback(address[1]):
        _refuse_plaintext(document, refuse)
    if preset and address:
        _check_settings(document, preset, address[3], refuse)
    providers = _providers(document, used_providers, preset, report, refuse)
    if errors or preset is None or address is None:
        return None
    scheme, host, port, path_prefix = address
    return Gateway(
        preset=preset,
        scheme=scheme,
        host=host,
        port=port,
        path_prefix=path_prefix,
        providers=frozenset(providers),
        settings=dict(document.settings),
        headers=tuple(document.headers.items()),
    )


def _address(
    url: str, refuse: Callable[[NodePath, str], None]
) -> tuple[Scheme, str, int, str] | None:
    # The URL is not shown: one with userinfo holds a credential.
    match = _URL.fullmatch(url)
    if match is None:
        refuse(
            ("url",), "expected https://host[:port][/path], without userinfo, query and fragment"
        )
        return None
    scheme: Scheme = "https" if match[1].lower() == "https" else "http"
    try:
        authority = parse_authority(match[2].encode(), _DEFAULT_PORTS[scheme])
        host = HostPattern.parse(authority.host).text
        path = (match[3] or "").rstrip("/")
        if path and len(readings(path)) > 1:
            refuse(("url",), "the path may be read in more than one way: write it plainly")
            return None
    except PathError as error:
        refuse(("url",), f"the path cannot be used: {error}")
        return None
    except ValueError as error:
        refuse(("url",), f"the host cannot be used: {error}")
        return None
    return scheme, host, authority.port, path


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_plaintext(document: GatewayDocument, refuse: Callable[[NodePath, str], None]) -> None:
    if not document.allow_plaintext:
        refuse(
            ("url",),
            "http:// to another machine shows the gateway's key on the way: use https://, or "
            "write allow_plaintext: true beside the url in the policy",
        )


def _check_settings(
    document: GatewayDocument,
    preset: GatewayPreset,
    path_prefix: str,
    refuse: Callable[[NodePath, str], None],
) -> None:
    missing = [name for name in preset.settings if name not in document.settings]
    if missing and not path_prefix:
        refuse(
            ("settings",),
            f"{preset.kind} needs {' and '.join(missing)} here, or a url with the whole path",
        )
    for name, value in document.settings.items():
        if name not in preset.settings:
            hint = nearest(name, preset.settings)
            refuse(("settings", name), f"{preset.kind} has no setting {name!r}.{hint}")
        elif not _SETTING.fullmatch(value):
            refuse(("settings", name), "expected letters, digits and . _ ~ -")


def _providers(
    document: GatewayDocument,
    used_providers: set[str],
    preset: GatewayPreset | None,
    report: Report,
    refuse: Callable[[NodePath, str], None],
) -> list[str]:
    known = provider_presets()
    llm = sorted(name for name in known if known[name].kind == "llm")
    if document.providers is None:
        chosen = [name for name in llm if name in used_providers]
        for name in chosen:
            if preset and not preset.supports(name):
                message = f"a {preset.kind} gateway cannot stand in for {name}: it will refuse it"
                report("warning", ("kind",), message)
        return chosen
    for index, name in enumerate(document.providers):
        field = ("providers", index)
        if name not in llm:
            found = name[:60]
            refuse(field, f"there is no model provider {found!r}.{nearest(found, llm)}")
        elif preset and not preset.supports(name):
            refuse(field, f"a {preset.kind} gateway cannot stand in for {name}")
        elif name not in used_providers:
            report("warning", field, f"no connection uses the provider {name!r}")
    return document.providers
