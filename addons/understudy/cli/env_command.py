"""`understudy env`: the environment that a sandbox needs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli import options
from understudy.cli.console import UsageProblem, make_app

if TYPE_CHECKING:
    from understudy.policy.model import Policy

app = make_app()


class Format(StrEnum):
    """How the variables are written."""

    SHELL = "shell"
    DOTENV = "dotenv"
    JSON = "json"
    KUBERNETES = "kubernetes"


@app.command(epilog='Example: eval "$(understudy env --policy policies/llm-agent.yaml)"')
def env(
    policy: options.Policy,
    style: Annotated[
        Format, typer.Option("--format", help="How the variables are written.")
    ] = Format.SHELL,
    proxy_url: Annotated[
        str,
        typer.Option("--proxy-url", metavar="URL", help="The proxy, as the sandbox reaches it."),
    ] = "http://127.0.0.1:9080",
    state_dir: options.StateDir = None,
    ca_cert: Annotated[
        Path | None,
        typer.Option(
            "--ca-cert",
            metavar="FILE",
            help="The CA certificate, as the sandbox sees it.",
            show_default="public/ca.crt in the state directory",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            help="The CA and the public roots, as the sandbox sees them.",
            show_default="public/bundle.pem in the state directory",
        ),
    ] = None,
) -> None:
    """Print the environment of a sandbox: the proxy, its CA, and placeholders.

    The placeholders are those that `run` accepts with the same state directory; they are made if
    need be. No secret is read. What the sandbox inherits must be taken out elsewhere: real keys,
    other proxies.
    """
    from understudy.authority.environment import render, sandbox_environment
    from understudy.credentials.placeholders import PlaceholderError, load_or_mint
    from understudy.providers.preset import provider_presets

    _check_proxy_url(proxy_url)
    loaded = options.load_policy(policy)
    folder = options.resolve_state_dir(state_dir)
    public = folder / "public"
    try:
        placeholders = load_or_mint(folder, loaded.policy)
        if ca_cert is None or bundle is None:
            _publish_trust(folder, loaded.policy)
        environment = sandbox_environment(
            loaded.policy,
            placeholders,
            proxy_url,
            ca_cert=ca_cert or public / "ca.crt",
            bundle=bundle or public / "bundle.pem",
            presets=provider_presets(),
        )
        text = render(environment, style.value)
    except (PlaceholderError, ValueError) as error:
        raise UsageProblem(str(error)) from None
    except OSError as error:
        raise UsageProblem(f"{error.filename or folder}: {error.strerror}") from None
    typer.echo(text, nl=False)


def _check_proxy_url(text: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in text):
        raise UsageProblem(
            f"--proxy-url: {text!r} is not a proxy's URL", "Write http://HOST:PORT, no path."
        )


def _publish_trust(state_dir: Path, policy: Policy) -> None:
    """Write the files that the variables name, unless the proxy has: it may use another CA."""
    from understudy.authority.ca import Authority
    from understudy.authority.pair import AuthorityError
    from understudy.authority.trust import sandbox_bundle, write_atomic

    public = state_dir / "public"
    if (public / "ca.crt").exists() and (public / "bundle.pem").exists():
        return
    try:
        authority = Authority.load_or_create(state_dir)
        public.mkdir(parents=True, exist_ok=True)
        write_atomic(public / "ca.crt", authority.trust_pem)
        write_atomic(public / "bundle.pem", sandbox_bundle(authority, policy.upstream.ca_pem))
    except AuthorityError as error:
        raise UsageProblem(str(error)) from None
