"""`understudy demo`: the whole path on one screen, offline, and every claim checked."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.console import UsageProblem, make_app, stdout
from understudy.cli.demo import show
from understudy.cli.demo.checks import ANTHROPIC, GATEWAY, OPENAI, REFUSED, Outcome, check

if TYPE_CHECKING:
    from understudy.cli.demo.upstream import PretendUpstream
    from understudy.engine.sidecar import Sidecar

app = make_app()

AGENT_SECONDS = 30
POLICY = """\
version: 1
gateway:
  url: https://litellm.internal
  kind: litellm
  providers: [openai]
connections:
  claude: {provider: anthropic, secret: {env: ANTHROPIC_API_KEY}}
  gpt: {provider: openai, secret: {env: LITELLM_KEY}}
allow:
  - {name: claude, connection: claude}
  - {name: gpt, connection: gpt}
"""


@app.command(epilog="Example: understudy demo")
def demo() -> None:
    """See it work, offline, in a few seconds.

    A pretend provider and a pretend gateway on loopback, the real proxy, and an agent that holds
    placeholders. Exit code 0 only if everything that is shown was also checked.
    """
    started = time.monotonic()
    from understudy.engine.kinds import ENGINES
    from understudy.engine.settings import DEFAULT_ENGINE
    from understudy.engine.sidecar import START_ERRORS

    try:
        with (
            tempfile.TemporaryDirectory(prefix="understudy-demo-") as folder,
            asyncio.Runner(loop_factory=ENGINES[DEFAULT_ENGINE]().new_event_loop) as runner,
        ):
            outcome = runner.run(_play(Path(folder)))
    except START_ERRORS as error:
        raise UsageProblem(f"the demo cannot start: {error}") from None
    checks = show.Checks()
    _show(outcome)
    check(outcome, checks)
    show.show_title(stdout, "Checked", "Everything above, once more by the machine:")
    show.show_checks(stdout, checks)
    stdout.print()
    seconds = f"{time.monotonic() - started:.1f} s"
    if not checks.good:
        stdout.print(f"[bold red]Something is not as it should be[/] ({seconds}).")
        raise typer.Exit(1)
    stdout.print(f"All as promised ({seconds}). Next: understudy exec --help")


async def _play(folder: Path) -> Outcome:
    from understudy.authority.ca import Authority
    from understudy.authority.leaf import LeafIssuer
    from understudy.cli.demo.upstream import PretendUpstream
    from understudy.engine.settings import Settings
    from understudy.engine.sidecar import Sidecar

    looked_up, dialled = _watch_network()
    keys = {name: f"REAL-{secrets.token_hex(6)}" for name in ("ANTHROPIC_API_KEY", "LITELLM_KEY")}
    authority = Authority.load_or_create(folder / "upstreams")
    async with AsyncExitStack() as stack:
        upstreams = {
            host: await stack.enter_async_context(
                PretendUpstream(host, "PONG", LeafIssuer(authority), folder)
            )
            for host in (ANTHROPIC, OPENAI, GATEWAY)
        }
        (folder / "upstreams.pem").write_text(authority.cert_pem)
        policy = folder / "policy.yaml"
        policy.write_text(POLICY + _upstream_section(upstreams))
        settings = Settings(
            policy=policy,
            state_dir=folder / "state",
            listen=("127.0.0.1", 0),
            admin=None,
            audit=str(folder / "audit.jsonl"),
            environ=keys,
        )
        async with Sidecar(settings, fresh_placeholders=True) as sidecar:
            report = await _run_agent(sidecar)
            await sidecar.drain()
            placeholders = dict(sidecar.placeholders.current)
    lines = (folder / "audit.jsonl").read_text("ascii").splitlines()
    return Outcome(
        calls=report["calls"],
        agent_environment=report["environment"],
        upstreams=upstreams,
        audit=[json.loads(line) for line in lines],
        audit_lines=lines,
        placeholders=placeholders,
        keys=keys,
        looked_up=looked_up,
        dialled=dialled,
    )


def _upstream_section(upstreams: dict[str, PretendUpstream]) -> str:
    """Where the names lead in this demo; in earnest the policy has no such section."""
    lines = ["upstream:", "  ca_file: upstreams.pem", "  connect_to:"]
    lines += [f'    "{host}:443": "127.0.0.1:{each.port}"' for host, each in upstreams.items()]
    return "\n".join(lines) + "\n"


def _watch_network() -> tuple[list[str], list[str]]:
    """Note every name that this process looks up and every address that it connects to."""
    looked_up: list[str] = []
    dialled: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            looked_up.append(str(arguments[0]))
        elif event == "socket.connect":
            dialled.append(str(arguments[1][0]))

    sys.addaudithook(note)
    return looked_up, dialled


async def _run_agent(sidecar: Sidecar) -> dict[str, Any]:
    from understudy.cli.exec_command import find_secrets, sandbox_of

    policy = sidecar.policies.current
    if policy is None:
        raise RuntimeError(f"the demo's policy is not good: {sidecar.policies.problems}")
    holds_secret = await find_secrets(policy, sidecar.settings.environ)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(__file__).parent / "demo" / "agent.py"),
        env=sandbox_of(sidecar, policy, holds_secret),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(AGENT_SECONDS):
        output, _ = await process.communicate()
    report: dict[str, Any] = json.loads(output)
    return report


def _show(outcome: Outcome) -> None:
    claude, gpt, paste = outcome.calls
    real = outcome.keys
    show.show_title(
        stdout, "1  Straight to the provider", "The agent holds a placeholder. The proxy swaps it."
    )
    _show_call(
        claude,
        "x-api-key",
        show.placeholder(outcome.placeholders["claude"]),
        f"{ANTHROPIC} saw",
        outcome.upstreams[ANTHROPIC],
        show.key(real["ANTHROPIC_API_KEY"]),
    )
    show.show_title(
        stdout,
        "2  Through the gateway",
        "The policy sends OpenAI's traffic to a gateway instead, with the gateway's key.",
    )
    _show_call(
        gpt,
        "authorization",
        "Bearer " + show.placeholder(outcome.placeholders["gpt"]),
        f"{GATEWAY} saw",
        outcome.upstreams[GATEWAY],
        "Bearer " + show.key(real["LITELLM_KEY"]),
    )
    show.show_title(
        stdout, "3  Anywhere else", f"{REFUSED} is not in the policy: no look-up, no connection."
    )
    show.show_columns(
        stdout,
        {
            "The agent sent": _sent(
                paste, "x-api-key", show.placeholder(outcome.placeholders["claude"])
            ),
            f"{REFUSED} saw": ["nothing"],
            "The agent got": [str(paste["got"]), str(paste["proxy_status"])],
        },
    )
    show.show_title(stdout, "Audit", "One line for each decision, before a byte goes upstream.")
    show.show_lines(
        stdout,
        [
            line
            for line, event in zip(outcome.audit_lines, outcome.audit, strict=True)
            if "verdict" in event
        ],
    )


def _show_call(
    call: dict[str, Any],
    header: str,
    sent: str,
    seen_by: str,
    upstream: PretendUpstream,
    swapped: str,
) -> None:
    seen = upstream.requests[0] if upstream.requests else None
    show.show_columns(
        stdout,
        {
            "The agent sent": _sent(call, header, sent),
            seen_by: [
                *show.where(seen.method, f"https://{seen.header('host')[0]}{seen.path}"),
                "",
                f"{header}:",
                swapped if seen.header(header) else "nothing",
            ]
            if seen
            else ["nothing"],
            "The agent got": [str(call["status"]), "", str(call["got"])],
        },
    )


def _sent(call: dict[str, Any], header: str, value: str) -> list[str]:
    sent = call["sent"]
    return [*show.where(sent["method"], sent["url"]), "", f"{header}:", value]
