"""`understudy explain`: the verdict on a request that is never sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from understudy.cli import options
from understudy.cli.console import UsageProblem, make_app, print_json, stdout

if TYPE_CHECKING:
    from understudy.credentials.placeholders import Placeholders
    from understudy.policy.explain import Explanation
    from understudy.policy.model import Policy

app = make_app()

_ACTIONS = {
    "swap": "the placeholder becomes {secret}, in {carriers}",
    "inject": "{secret} is added, in {carriers}",
    "strip": "what the request carries is removed; none goes up",
}


@app.command(
    epilog="Example: understudy explain GET https://api.github.com/repos/acme/app "
    "--policy policies/coding-agent.yaml"
)
def explain(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="The method, as sent: GET.", show_default=False)
    ],
    url: Annotated[str, typer.Argument(metavar="URL", help="The whole URL.", show_default=False)],
    policy: options.Policy,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="'K: V'",
            help="A header of the request; any number.",
            show_default=False,
        ),
    ] = None,
    state_dir: options.StateDir = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what would happen to a request, without sending it.

    Shows the verdict, the rule, the connection, what happens to the credential, where the request
    would go, and why each rule matches or not. Placeholders are known from the state directory.
    No secret is read, no name looked up. Exit code 1: denied.
    """
    from understudy.policy.explain import explain as explain_request

    headers = [_parse_header(text) for text in header or ()]
    _check_text(method, "the method")
    _check_text(url, "the URL")
    loaded = options.load_policy(policy)
    placeholders = _placeholders(loaded.policy, state_dir)
    found = explain_request(loaded.policy, method, url, headers, placeholders)
    if as_json:
        print_json(_document(found, loaded.policy))
    else:
        _print(found, loaded.policy)
    raise typer.Exit(0 if found.allow else 1)


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name or name != name.strip():
        raise UsageProblem(f"--header: {text!r} is not a header", "Write 'Name: value'.")
    _check_text(text, "--header")
    return name, value.strip()


def _check_text(text: str, what: str) -> None:
    # As bytes these would not be what was typed, and no client sends them.
    if not text.isascii() or not text.isprintable():
        raise UsageProblem(f"{what} holds characters that are not plain ASCII: {text!r}")


def _placeholders(policy: Policy, state_dir: Path | None) -> Placeholders:
    from understudy.credentials.placeholders import PlaceholderError, kept_placeholders

    try:
        return kept_placeholders(options.resolve_state_dir(state_dir), policy)
    except PlaceholderError as error:
        raise UsageProblem(str(error)) from None
    except OSError as error:
        raise UsageProblem(f"{error.filename}: {error.strerror}") from None


def _document(found: Explanation, policy: Policy) -> dict[str, object]:
    return {
        "allow": found.allow,
        "reason": str(found.reason),
        "rule": found.rule,
        "connection": found.connection,
        "credential": {
            "action": found.action,
            "carriers": list(found.carriers),
            "secret": _secret(found, policy),
        },
        "destination": found.destination,
        "websocket": found.websocket,
        "gateway": _gateway(found, policy),
        "mode": policy.mode,
        "considered": [
            {"kind": each.kind, "name": each.name, "matches": each.matches, "why": each.why}
            for each in found.considered
        ],
    }


def _print(found: Explanation, policy: Policy) -> None:
    from understudy.cli.hints import HINTS

    verdict = "[green]allowed[/]" if found.allow else "[red]denied[/]"
    if found.reason != "allowed":
        verdict += f", {found.reason}" + (" (report mode lets it pass)" if found.allow else "")
    _row("verdict", verdict)
    if found.reason in HINTS:
        _row("agent sees", escape(_sentence(found)))
        _row("hint", escape(HINTS[found.reason]))
    if found.rule:
        _row("rule", escape(found.rule))
    if found.connection:
        _row("connection", escape(found.connection))
        _row("credential", escape(_credential(found, policy)))
    if found.destination:
        gateway = _gateway(found, policy)
        _row("sent to", escape(found.destination) + (f" ({gateway} gateway)" if gateway else ""))
    if found.websocket:
        _row("websocket", "may be opened (on the express engine)")
    if found.considered:
        stdout.print()
        stdout.print(_considered(found))


def _row(name: str, markup: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=10, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(name, markup)
    stdout.print(grid)


def _sentence(found: Explanation) -> str:
    target = found.target
    host, port, method = (target.host, target.port, target.method) if target else ("?", "?", "?")
    return found.reason.sentence.format(host=host, port=port, method=method)


def _credential(found: Explanation, policy: Policy) -> str:
    secret = _secret(found, policy)
    if secret is None:
        return "none" if found.action == "none" else _ACTIONS["strip"]
    carriers = " or ".join(found.carriers)
    if found.action in _ACTIONS:
        return _ACTIONS[found.action].format(secret=secret, carriers=carriers)
    return f"this request carries none; a placeholder in {carriers} would become {secret}"


def _secret(found: Explanation, policy: Policy) -> str | None:
    connection = policy.connections.get(found.connection or "")
    return connection.secret.label if connection and connection.secret else None


def _gateway(found: Explanation, policy: Policy) -> str | None:
    connection = policy.connections.get(found.connection or "")
    if policy.gateway is None or connection is None or not connection.via_gateway:
        return None
    return policy.gateway.preset.kind


def _considered(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("rule", overflow="fold")
    table.add_column("matches", overflow="fold")
    for each in found.considered:
        why = "[bold]yes[/]" if each.matches else f"[dim]no: {escape(each.why)}[/]"
        table.add_row(each.kind, escape(each.name), why)
    return table
