"""`understudy exec`: one command behind a proxy of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from understudy.cli import options
from understudy.cli.console import UsageProblem, make_app, print_policy_problem, stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from understudy.engine.settings import Settings
    from understudy.engine.sidecar import Sidecar
    from understudy.policy.model import Policy

app = make_app()

TOKEN_BYTES = 24


@app.command(
    name="exec",
    context_settings={"allow_interspersed_args": False},
    epilog="Example: understudy exec --policy policies/llm-agent.yaml -- python agent.py",
)
def execute(
    command: Annotated[
        list[str],
        typer.Argument(metavar="CMD", help="The command and its arguments.", show_default=False),
    ],
    policy: options.Policy,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table at the end.")] = False,
    listen: options.Listen = "127.0.0.1:0",
    admin: options.Admin = "off",
    state_dir: options.StateDir = None,
    audit: options.ExecAudit = None,
    audit_failure: options.AuditFailureOption = options.AuditFailure.FAIL_CLOSED,
    engine: options.EngineOption = options.DEFAULT_ENGINE,
    ca_cert: options.CaCert = None,
    ca_key: options.CaKey = None,
    ready_file: options.ReadyFile = None,
    proxy_token_file: options.ExecProxyTokenFile = None,
    admin_token_file: options.AdminTokenFile = None,
    drain_seconds: options.DrainSeconds = 2.0,
) -> None:
    """Run one command behind a proxy of its own, and return its exit code.

    The command gets the proxy, its CA and fresh placeholders in its environment; inherited
    copies, and every real secret that the policy names, are taken out. A table on standard error
    says at the end what was allowed, swapped and denied.
    """
    settings = options.make_settings(
        policy=policy,
        listen=listen,
        admin=admin,
        state_dir=state_dir,
        audit=audit or str(options.resolve_state_dir(state_dir) / _audit_name()),
        audit_failure=audit_failure,
        engine=engine,
        ca_cert=ca_cert,
        ca_key=ca_key,
        ready_file=ready_file,
        proxy_token_file=proxy_token_file,
        admin_token_file=admin_token_file,
        drain_seconds=drain_seconds,
    )
    if settings.caller_token is None:
        # So that no other user of this machine can use the port while the command runs.
        settings = replace(settings, caller_token=secrets.token_urlsafe(TOKEN_BYTES))
    # Read here as well, so that a bad policy is said before the engine is even imported.
    for warning in options.load_policy(policy).warnings:
        print_policy_problem(stderr, warning)
    raise typer.Exit(_run(settings, command, quiet=quiet))


def _audit_name() -> str:
    return f"exec-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.jsonl"


def _run(settings: Settings, command: Sequence[str], *, quiet: bool) -> int:
    from understudy.engine.kinds import ENGINES

    umask = options.harden_process(quiet=quiet)
    with asyncio.Runner(loop_factory=ENGINES[settings.engine]().new_event_loop) as runner:
        return runner.run(_serve_and_run(settings, command, umask, quiet=quiet))


async def _serve_and_run(
    settings: Settings, command: Sequence[str], umask: int, *, quiet: bool
) -> int:
    from understudy.audit.sinks import make_sink
    from understudy.cli.child import ChildError, run_child
    from understudy.cli.tally import TalliedSink, Tally, print_tally
    from understudy.engine.sidecar import START_ERRORS, Sidecar

    tally = Tally()
    sidecar = Sidecar(
        settings, fresh_placeholders=True, sink=TalliedSink(make_sink(settings.audit), tally)
    )
    try:
        await sidecar.__aenter__()
    except START_ERRORS as error:
        raise options.start_problem(error) from None
    try:
        policy = sidecar.policies.current
        if policy is None:
            raise UsageProblem(
                f"{settings.policy} cannot be used", problems=sidecar.policies.problems
            )
        _warn_of_missing_secrets(sidecar)
        holds_secret = await find_secrets(policy, settings.environ)
        _check_arguments(command, holds_secret)
        code = await run_child(command, sandbox_of(sidecar, policy, holds_secret), umask)
        await sidecar.drain()
    except ChildError as error:
        stderr.print(f"[bold red]understudy:[/] {escape(str(error))}", soft_wrap=True)
        return error.exit_code
    finally:
        await sidecar.__aexit__()
    if not quiet:
        stderr.print()
        print_tally(stderr, tally)
        if settings.audit != "-":
            stderr.print(f"\n[dim]audit {escape(settings.audit)}[/]", soft_wrap=True)
    return code


def _warn_of_missing_secrets(sidecar: Sidecar) -> None:
    for name, state in sidecar.proxy.secrets().items():
        if state.last_error is not None:
            stderr.print(
                f"[yellow]warning[/] connection {escape(name)}: {escape(state.last_error)}; "
                "its requests will be refused (secret_unavailable)",
                soft_wrap=True,
            )


async def find_secrets(policy: Policy, environ: Mapping[str, str]) -> Callable[[str], bool]:
    """Whether a text holds one of the policy's secrets, as it is or encoded as an echo may be."""
    from understudy.credentials.resolver import Resolver, SecretUnavailable
    from understudy.credentials.scrub import Guarded, Scrubber, forms_of

    resolver = Resolver(environ)
    guarded = []
    for connection in policy.connections.values():
        with suppress(SecretUnavailable):
            guarded.append(Guarded(connection.name, await resolver.resolve(connection), ""))
    scrubber = Scrubber(forms_of(tuple(guarded)))
    return lambda text: scrubber.scrub(os.fsencode(text)) != os.fsencode(text)


def _check_arguments(command: Sequence[str], holds_secret: Callable[[str], bool]) -> None:
    """Refuse a real secret in the command line, which every process of the machine can read."""
    for number, argument in enumerate(command):
        if holds_secret(argument):
            raise UsageProblem(
                f"argument {number} of the command holds a real secret",
                "Let the command read its variable itself: there it finds a placeholder.",
            )


def sandbox_of(
    sidecar: Sidecar, policy: Policy, holds_secret: Callable[[str], bool]
) -> dict[str, str]:
    """The inherited environment, less what a sandbox must not see, plus what it needs.

    Copies of a real secret go too, under whatever name.
    """
    from understudy.authority.environment import names_to_remove, sandbox_environment
    from understudy.providers.preset import provider_presets

    inherited = sidecar.settings.environ
    presets = provider_presets()
    removed = names_to_remove(policy, presets, inherited)
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in removed and not holds_secret(value)
    }
    return kept | sandbox_environment(
        policy,
        sidecar.placeholders.current,
        _proxy_url(sidecar),
        ca_cert=sidecar.ca_cert,
        bundle=sidecar.bundle,
        presets=presets,
    )


def _proxy_url(sidecar: Sidecar) -> str:
    from urllib.parse import quote

    from understudy.engine.settings import format_address

    host, port = sidecar.proxy.address
    # An address that means "every interface" is none to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound
    token = sidecar.settings.caller_token
    user = f"understudy:{quote(token, safe='')}@" if token else ""
    return f"http://{user}{format_address((host, port))}"
