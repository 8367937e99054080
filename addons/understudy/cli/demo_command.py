"""`understudy demo`: the whole path on one screen, offline, and every claim checked."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.console import UsageProblem, make_app, stdout
from understudy.cli.demo import show

if TYPE_CHECKING:
    from understudy.cli.demo.upstream import PretendUpstream
    from understudy.engine.sidecar import Sidecar

app = make_app()

AGENT_SECONDS = 30
ANTHROPIC, OPENAI, GATEWAY = "api.anthropic.com", "api.openai.com", "litellm.internal"
REFUSED = "paste.example"
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


@dataclass
class Outcome:
    """Everything that was seen on both sides of the proxy."""

    calls: list[dict[str, Any]]
    agent_environment: dict[str, str]
    upstreams: dict[str, PretendUpstream]
    audit: list[dict[str, Any]]
    audit_lines: list[str]
    placeholders: dict[str, str]
    keys: dict[str, str]
    looked_up: list[str]
    dialled: list[str]


@app.command(epilog="Example: understudy demo")
def demo() -> None:
    """See it work, offline, in a few seconds.

    A pretend provider and a pretend gateway on loopback, the real proxy, and an agent that holds
    placeholders. Exit code 0 only if everything that is shown was also checked.
    """
    started = time.monotonic()
    from understudy.engine.dialer import GuardedEventLoop
    from understudy.engine.sidecar import START_ERRORS

    try:
        with (
            tempfile.TemporaryDirectory(prefix="understudy-demo-") as folder,
            asyncio.Runner(loop_factory=GuardedEventLoop) as runner,
        ):
            outcome = runner.run(_play(Path(folder)))
    except START_ERRORS as error:
        raise UsageProblem(f"the demo cannot start: {error}") from None
    checks = show.Checks()
    _show(outcome)
    _check(outcome, checks)
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
    from understudy.cli.exec_command import sandbox_of

    policy = sidecar.policies.current
    if policy is None:
        raise RuntimeError(f"the demo's policy is not good: {sidecar.policies.problems}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(__file__).parent / "demo" / "agent.py"),
        env=sandbox_of(sidecar, policy),
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


def _check(outcome: Outcome, checks: show.Checks) -> None:
    claude, gpt, paste = outcome.calls
    real, held = outcome.keys, outcome.placeholders
    anthropic, gateway = outcome.upstreams[ANTHROPIC], outcome.upstreams[GATEWAY]
    checks.expect(
        "the agent sent placeholders: no real key is in its environment",
        claude["sent"]["headers"]["x-api-key"] == held["claude"]
        and gpt["sent"]["headers"]["Authorization"] == f"Bearer {held['gpt']}"
        and not _any_in(real.values(), json.dumps(outcome.agent_environment)),
    )
    checks.expect(
        f"{ANTHROPIC} saw the real key in x-api-key, once, and no placeholder",
        _saw_only(anthropic, "/v1/messages", "x-api-key", real["ANTHROPIC_API_KEY"], outcome),
    )
    checks.expect(
        f"{GATEWAY} saw its own key in authorization, and no placeholder",
        _saw_only(
            gateway,
            "/v1/chat/completions",
            "authorization",
            f"Bearer {real['LITELLM_KEY']}",
            outcome,
        ),
    )
    checks.expect(
        "the bodies arrived as they were sent, and the answers came back",
        [claude["sent"]["body"], gpt["sent"]["body"]]
        == [each.body for each in (*anthropic.requests, *gateway.requests)]
        and (claude["status"], gpt["status"]) == (200, 200)
        and [json.loads(each["got"]) for each in (claude, gpt)]
        == [{"from": host, "text": "PONG"} for host in (ANTHROPIC, GATEWAY)],
    )
    checks.expect(f"{OPENAI} itself saw no connection", outcome.upstreams[OPENAI].connections == 0)
    checks.expect(
        f"{REFUSED} was refused with its reason: host_not_allowed",
        paste["status"] is None
        and "403" in paste["got"]
        and 'details="host_not_allowed"' in (paste["proxy_status"] or ""),
    )
    checks.expect(
        "no name was looked up, and no address but loopback was connected to",
        not outcome.looked_up and set(outcome.dialled) == {"127.0.0.1"},
    )
    _check_audit(outcome, checks)


def _check_audit(outcome: Outcome, checks: show.Checks) -> None:
    verdicts = [event for event in outcome.audit if "verdict" in event]
    checks.expect(
        "the audit has one verdict for each call, and what was swapped where",
        [(each["verdict"], each["reason"], each["http"]["host"]) for each in verdicts]
        == [
            ("allow", "allowed", ANTHROPIC),
            ("allow", "allowed", OPENAI),
            ("deny", "host_not_allowed", REFUSED),
        ]
        and [each.get("swapped") for each in verdicts]
        == [
            [{"secret": "ANTHROPIC_API_KEY", "location": "header:x-api-key"}],
            [{"secret": "LITELLM_KEY", "location": "header:authorization"}],
            None,
        ]
        and verdicts[1]["gateway"]["host"] == GATEWAY,
    )
    finished = [event for event in outcome.audit if event["event"] == "request.finished"]
    checks.expect(
        "no key and no placeholder is in the audit or in what the agent got",
        [each["status"] for each in finished] == [200, 200]
        and not _any_in(
            (*outcome.keys.values(), *outcome.placeholders.values()),
            "".join(outcome.audit_lines) + "".join(str(call["got"]) for call in outcome.calls),
        ),
    )


def _saw_only(
    upstream: PretendUpstream, path: str, header: str, value: str, outcome: Outcome
) -> bool:
    if len(upstream.requests) != 1:
        return False
    seen = upstream.requests[0]
    return (
        seen.path == path
        and seen.header(header) == [value]
        and seen.header("host") == [upstream.host]
        and not _any_in(outcome.placeholders.values(), str(seen))
    )


def _any_in(needles: Any, text: str) -> bool:
    return any(needle in text for needle in needles)
