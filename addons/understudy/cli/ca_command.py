"""`understudy ca`: the certificate authority as an operator handles it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from understudy.cli import options
from understudy.cli.console import UsageProblem, make_app, print_json, stderr, stdout

if TYPE_CHECKING:
    from understudy.authority.ca import Authority

app = make_app("Make, show and export the certificate authority (CA).")


@app.command(epilog="Example: understudy ca init --state-dir /var/lib/understudy")
def init(state_dir: options.StateDir = None, as_json: options.AsJson = False) -> None:
    """Make the CA, unless there is one, and show it.

    It lives in the state directory: EC P-256, good for a year; the key is readable by its
    owner alone. `run` does the same on its first start. A CA with less than 30 days left is
    replaced, the old one kept beside it.
    """
    from understudy.authority.ca import Authority
    from understudy.authority.pair import AuthorityError

    folder = options.resolve_state_dir(state_dir)
    try:
        authority = Authority.load_or_create(folder)
    except AuthorityError as error:
        raise UsageProblem(str(error)) from None
    _show(authority, folder / "ca" / "ca.crt", as_json=as_json)


@app.command(epilog="Example: understudy ca show")
def show(
    state_dir: options.StateDir = None,
    ca_cert: options.CaCert = None,
    ca_key: options.CaKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the fingerprint and expiry of the CA that `run` would use."""
    authority, file = _find(state_dir, ca_cert, ca_key)
    _show(authority, file, as_json=as_json)


@app.command(epilog="Example: understudy ca export --bundle --output sandbox-roots.pem")
def export(
    state_dir: options.StateDir = None,
    ca_cert: options.CaCert = None,
    ca_key: options.CaKey = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="With the public roots, for programs that need both.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="PATH",
            help="Adds the roots of the policy's upstream.ca_file to the bundle.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file.",
            show_default="standard output",
        ),
    ] = None,
) -> None:
    """Print the CA's certificate, PEM; never its key. A sandbox may have all of it."""
    from understudy.authority.pair import AuthorityError
    from understudy.authority.trust import sandbox_bundle, write_atomic

    if policy is not None and not bundle:
        raise UsageProblem("--policy says what goes into a bundle", "Add --bundle.")
    authority, _ = _find(state_dir, ca_cert, ca_key)
    text = authority.trust_pem
    if bundle:
        extra = options.load_policy(policy).policy.upstream.ca_pem if policy else None
        try:
            text = sandbox_bundle(authority, extra)
        except AuthorityError as error:
            raise UsageProblem(str(error)) from None
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        write_atomic(output, text)
    except OSError as error:
        raise UsageProblem(f"{output} cannot be written: {error.strerror}") from None
    stderr.print(f"wrote {escape(str(output))}", soft_wrap=True)


def _find(
    state_dir: Path | None, ca_cert: Path | None, ca_key: Path | None
) -> tuple[Authority, Path]:
    """The CA that `run` would use, without making one."""
    from understudy.authority.ca import Authority
    from understudy.authority.pair import AuthorityError

    options.check_pair(ca_cert, ca_key)
    folder = options.resolve_state_dir(state_dir) / "ca"
    certificate = ca_cert or folder / "ca.crt"
    if ca_cert is None and options.is_missing(certificate):
        raise UsageProblem(f"there is no CA in {folder}", "Make one with: understudy ca init")
    try:
        return Authority.from_files(certificate, ca_key or folder / "ca.key"), certificate
    except AuthorityError as error:
        raise UsageProblem(str(error)) from None


def _show(authority: Authority, certificate: Path, *, as_json: bool) -> None:
    facts = {
        "subject": authority.certificate.subject.rfc4514_string(),
        "fingerprint_sha256": authority.fingerprint_sha256,
        "not_before": f"{authority.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{authority.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "certificate": str(certificate),
    }
    if as_json:
        print_json(facts)
        return
    days = (authority.not_after - datetime.now(UTC)).days
    half = len(facts["fingerprint_sha256"]) // 2 + 1
    rows = {
        "subject": facts["subject"],
        "SHA-256": facts["fingerprint_sha256"][:half],
        "": facts["fingerprint_sha256"][half:],
        "from": facts["not_before"],
        "until": f"{facts['not_after']} ({days} days left)",
        "file": facts["certificate"],
    }
    for name, value in rows.items():
        stdout.print(f"{name:<9}{escape(value)}", soft_wrap=True)
