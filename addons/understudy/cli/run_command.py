"""`understudy run`: the sidecar."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from understudy.cli import options
from understudy.cli.console import make_app, print_policy_problem, stderr

if TYPE_CHECKING:
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
    from understudy.engine.kinds import ENGINES

    options.harden_process()
    with asyncio.Runner(loop_factory=ENGINES[settings.engine]().new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from understudy.engine.sidecar import START_ERRORS, Sidecar

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(settings)
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
    from understudy.engine.settings import format_address

    stderr.print(f"proxy   http://{format_address(sidecar.proxy.address)}")
    admin = sidecar.admin_address
    if admin is not None:
        stderr.print(
            f"admin   http://{format_address(admin)}"
            if isinstance(admin, tuple)
            else f"admin   unix:{admin}"
        )
    stderr.print(f"CA      {sidecar.ca_cert}")
    if sidecar.policies.current is None:
        stderr.print(f"[red]policy  {sidecar.policies.path}: none in force, all is denied[/]")
        for problem in sidecar.policies.problems:
            print_policy_problem(stderr, problem)
    else:
        stderr.print(f"policy  {sidecar.policies.path} ({sidecar.policies.current.mode})")
