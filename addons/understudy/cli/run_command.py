"""`understudy run`: the sidecar."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from understudy.cli import options
from understudy.cli.console import make_app, print_policy_problem, say, stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.engine.settings import Settings
    from understudy.engine.sidecar import Sidecar

app = make_app()


@app.command(epilog="Example: understudy run --policy policies/llm-agent.yaml --audit audit.jsonl")
def run(
    policy: options.Policy,
    listen: options.Listen = "127.0.0.1:9080",
    admin: options.Admin = "127.0.0.1:9081",
    state_dir: options.StateDir = None,
    audit: options.Audit = None,
    audit_failure: options.AuditFailureOption = options.AuditFailure.FAIL_CLOSED,
    engine: options.EngineOption = options.DEFAULT_ENGINE,
    workers: options.Workers = "1",
    ca_cert: options.CaCert = None,
    ca_key: options.CaKey = None,
    ready_file: options.ReadyFile = None,
    proxy_token_file: options.ProxyTokenFile = None,
    admin_token_file: options.AdminTokenFile = None,
    drain_seconds: options.DrainSeconds = 30.0,
) -> None:
    """Serve as a sidecar until SIGTERM; SIGHUP reads the policy again.

    With a policy that is missing or wrong it serves too, denies everything, says why, and takes
    the policy in force as soon as it is good.
    """
    settings = options.make_settings(
        policy=policy,
        listen=listen,
        admin=admin,
        state_dir=state_dir,
        audit=audit or "-",
        audit_failure=audit_failure,
        engine=engine,
        workers=workers,
        ca_cert=ca_cert,
        ca_key=ca_key,
        ready_file=ready_file,
        proxy_token_file=proxy_token_file,
        admin_token_file=admin_token_file,
        drain_seconds=drain_seconds,
    )
    serve(settings)


def serve(settings: Settings) -> None:
    """Run a sidecar until a signal ends it; UsageProblem where it cannot start."""
    from understudy.engine.process import allow_descriptors

    options.harden_process()
    allow_descriptors()
    if settings.workers == 1:
        _run(settings, lambda _: _make_sidecar(settings))
        return
    from understudy.engine.sidecar import START_ERRORS
    from understudy.workers.supervisor import prepare

    with ExitStack() as stack:
        try:
            supervisor = stack.enter_context(prepare(settings))
        except START_ERRORS as error:
            raise options.start_problem(error) from None
        _run(settings, supervisor.make_sidecar)
    if supervisor.is_lost:
        raise typer.Exit(1)


def _make_sidecar(settings: Settings) -> Sidecar:
    from understudy.engine.sidecar import Sidecar

    return Sidecar(settings)


def _run(settings: Settings, make_sidecar: Callable[[Callable[[], None]], Sidecar]) -> None:
    from understudy.engine.kinds import ENGINES

    with asyncio.Runner(loop_factory=ENGINES[settings.engine]().new_event_loop) as runner:
        runner.run(_serve(make_sidecar))


async def _serve(make_sidecar: Callable[[Callable[[], None]], Sidecar]) -> None:
    from understudy.engine.sidecar import START_ERRORS

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = make_sidecar(stop.set)
    loop.add_signal_handler(signal.SIGHUP, sidecar.reopen)
    try:
        await sidecar.__aenter__()
    except START_ERRORS as error:
        raise options.start_problem(error) from None
    try:
        _greet(sidecar)
        await stop.wait()
        await sidecar.drain()
    finally:
        await sidecar.__aexit__()


def _greet(sidecar: Sidecar) -> None:
    from understudy.engine.gaps import GAPS
    from understudy.engine.settings import format_address

    say(f"proxy   http://{format_address(sidecar.proxy.address)}")
    admin = sidecar.admin_address
    if admin is not None:
        where = f"http://{format_address(admin)}" if isinstance(admin, tuple) else f"unix:{admin}"
        say(f"admin   {where}")
    if sidecar.settings.workers > 1:
        say(f"workers {sidecar.settings.workers}")
    if sidecar.settings.engine == "mitmproxy":
        say(f" engine mitmproxy: {'; '.join(GAPS)}", "warning", "yellow")
    say(f"CA      {sidecar.ca_cert}")
    if sidecar.policies.current is None:
        say("", f"policy  {sidecar.policies.path}: none in force, all is denied", "red")
        for problem in sidecar.policies.problems:
            print_policy_problem(stderr, problem)
    else:
        say(f"policy  {sidecar.policies.path} ({sidecar.policies.current.mode})")
