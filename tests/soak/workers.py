"""Real programs of the soak: some live as long as it does, curl and git are started for each job.

All of them have the environment of a sandbox and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.soak.ledger import Entry, bytes_of
from tests.soak.stage import GIT_USER, Stage, has_secret

PROGRAMS = Path(__file__).parent / "programs"
SIZES = (10, 600, 20_000, 300_000)
LINE_LIMIT = 1 << 20
DETAILS = re.compile(r'details="([a-z_]+)"')
GIT_HELPER = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "credential.https://github.com.helper",
    "GIT_CONFIG_VALUE_0": f'!f() {{ echo username={GIT_USER}; echo "password=$GITHUB_TOKEN"; }}; f',
    "GIT_TERMINAL_PROMPT": "0",
}


@dataclass
class Worker:
    """A program that lives as long as the soak."""

    name: str
    stage: Stage
    environ: dict[str, str]
    random: random.Random
    process: Process = field(init=False)

    async def start(self) -> None:
        file = next(PROGRAMS.glob(f"with_{self.name}.*"))
        interpreter = "node" if file.suffix == ".cjs" else sys.executable
        self.process = await asyncio.create_subprocess_exec(
            *(interpreter, file), env=self.environ, stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT
        )
        await self.rest()

    async def act(self) -> None:
        """One job."""
        if self.name in ("openai", "anthropic"):
            await self._ask_model()
        else:
            await self._ask_host()

    async def rest(self) -> None:
        """Close every connection."""
        await self._do({"rest": True})

    async def stop(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()

    async def _ask_host(self) -> None:
        ledger = self.stage.ledger
        size, sent = self.random.choice(SIZES), self.random.choice((0, *SIZES))
        if self.random.randrange(6):
            entry = ledger.open(self.name)
            what = self.random.choice(("answer", "chunked"))
            url = f"https://search.example/soak/{what}/{entry.mark}/{size}?q=1"
        else:
            entry = ledger.open(self.name, reasons=["denied_by_rule"], ends=())
            url = f"https://search.example/sealed/{entry.mark}"
        method = "POST" if sent else "GET"
        job = {"mark": entry.mark, "method": method, "url": url, "body_bytes": sent}
        note(entry, await self._do(job), bytes_of(entry.mark, size), self.stage)

    async def _ask_model(self) -> None:
        host, base = (
            ("api.openai.com", "/v1") if self.name == "openai" else ("api.anthropic.com", "")
        )
        method = self.random.choice(("WHOLE", "STREAM"))
        # The SDKs leave at the last event, which may be before the last byte.
        ends = (None, "client_closed") if method == "STREAM" else (None,)
        entry = self.stage.ledger.open(self.name, ends=ends)
        url = f"https://{host}/{entry.mark}{base}"
        note(entry, await self._do({"method": method, "url": url}), b"PONG", self.stage)

    async def _do(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        line = await self.process.stdout.readline()
        if has_secret(line):
            self.stage.ledger.offences.append(f"{self.name} was shown a secret")
        done: dict[str, Any] = json.loads(line)
        return done


def note(entry: Entry, done: dict[str, Any], body: bytes, stage: Stage) -> None:
    """Write down what a program says it got, and judge it."""
    entry.concluded = True
    if "error" in done:
        entry.failure = done["error"]
        return
    entry.status, entry.request_id = done["status"], done["request_id"]
    told = DETAILS.search(done["proxy_status"] or "")
    entry.denial = told[1] if told else None
    if entry.denial is not None:
        if entry.denial not in entry.reasons:
            entry.failure = f"refused with {entry.denial}"
    elif "allowed" not in entry.reasons:
        entry.failure = f"not refused, but answered {entry.status}"
    elif done["digest"] != sha256(body).hexdigest():
        entry.failure = f"another body than was sent ({done['size']} bytes, not {len(body)})"


class Curl:
    """A curl for each job: good ones, refused ones."""

    name = "curl"

    def __init__(self, stage: Stage, environ: dict[str, str], seed: int) -> None:
        self.stage = stage
        self.environ = environ
        self.random = random.Random(seed)

    async def act(self) -> None:
        if not self.random.randrange(4):
            await self._be_denied()
            return
        entry = self.stage.ledger.open("curl")
        size = self.random.choice(SIZES)
        url = f"https://search.example/soak/answer/{entry.mark}/{size}"
        sent = self.random.choice((None, bytes_of(entry.mark, self.random.choice(SIZES))))
        upload = ["--data-binary", "@-"] if sent else []
        code, output = await run(
            *("curl", "--silent", "--show-error", "--max-time", "60", *upload),
            *("-H", f"X-Search-Key: {self.environ['SEARCH_KEY']}", url),
            environ=self.environ,
            given=sent,
        )
        entry.concluded = True
        if has_secret(output):
            self.stage.ledger.offences.append("curl was shown a secret")
        if code:
            entry.failure = f"curl ended with {code}"
        elif output != bytes_of(entry.mark, size):
            entry.failure = f"curl got another body ({len(output)} bytes): {output[:300]!r}"

    async def _be_denied(self) -> None:
        code, _ = await run(
            *("curl", "--silent", "--max-time", "60", "https://curl.denied.example/"),
            environ=self.environ,
        )
        self.stage.ledger.refuse("tunnel.denied", "host_not_allowed", "curl.denied.example")
        if code != 56:  # what curl says where CONNECT is refused
            self.stage.ledger.offences.append(f"curl to a denied host ended with {code}")


class Git:
    """A clone for each job: asked without a credential, challenged, then with one."""

    name = "git"

    def __init__(self, stage: Stage, environ: dict[str, str]) -> None:
        self.stage = stage
        self.environ = environ | GIT_HELPER

    async def act(self) -> None:
        entry = self.stage.ledger.open("git", many=True)
        with tempfile.TemporaryDirectory(dir=self.stage.folder) as folder:
            url = f"https://github.com/acme/{entry.mark}.git"
            code, output = await run("git", "clone", "-q", url, folder, environ=self.environ)
            entry.concluded = True
            whole = (Path(folder) / "data.bin").exists()
        if code or not whole:
            entry.failure = f"git ended with {code}: {output[:300]!r}"


async def run(
    *command: str | Path, environ: dict[str, str], given: bytes | None = None
) -> tuple[int, bytes]:
    """Run a program: (exit code, what it wrote)."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdin=DEVNULL if given is None else PIPE, stdout=PIPE, stderr=None
    )
    output, _ = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, output


type Program = Worker | Curl | Git


async def start_programs(stage: Stage) -> list[Program]:
    """Every program that this machine has."""
    environ = stage.sandbox() | {"SEARCH_KEY": stage.placeholders["search"]}
    names = ["httpx", "requests", "aiohttp", "aiohttp", "openai", "anthropic"]
    if shutil.which("node"):
        names.append("node")
    workers = [
        Worker(name, stage, environ, random.Random(number)) for number, name in enumerate(names)
    ]
    for worker in workers:
        await worker.start()
    programs: list[Program] = [*workers]
    if shutil.which("curl"):
        programs.append(Curl(stage, environ, len(names)))
    if stage.git is not None:
        programs.append(Git(stage, environ))
    return programs
