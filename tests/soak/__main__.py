"""``make soak``: everything at once through one real proxy for as long as you like.

Exit code 0: every promise was kept. 1: one was broken, and a sentence says which.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from tests.soak.agents import HOSTS, Agents
from tests.soak.gauges import ROUNDS, Gauges, judge_growth, read_gauges
from tests.soak.ledger import Findings, compare, judge_metrics
from tests.soak.report import (
    render_broken,
    render_faults,
    render_kinds,
    render_rounds,
    render_summary,
)
from tests.soak.stage import FORMS, Stage
from tests.soak.unrest import Unrest
from tests.soak.workers import Program, Worker, start_programs

AGENTS = 6
GRACE_SECONDS = 300
"""A soak that takes this much longer than it was given hangs, and fails."""
CLIENT_SECONDS = 90
"""No client waits longer than this for anything."""


def main() -> None:
    """Run a soak and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--engine", default="express", choices=["express", "mitmproxy"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two deeds")
    parser.add_argument("--keep", type=Path, help="a folder for audit and logs, to look at later")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stage = Stage(folder, options.engine, options.workers)
        soak = Soak(stage, options.minutes * 60, options.pause)
        broken = asyncio.run(soak.run())
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    sys.exit(any(broken.values()))


class Soak:
    """One soak: rounds of load with a rest after each, then the reckoning."""

    def __init__(self, stage: Stage, seconds: float, pause: float) -> None:
        self.stage = stage
        self.seconds = seconds
        self.pause = pause
        self.samples: list[Gauges] = []
        self.written = b""

    async def run(self) -> dict[str, list[str]]:
        """Do all of it; gives what broke each promise."""
        try:
            async with asyncio.timeout(self.seconds + GRACE_SECONDS):
                return self._reckon(await self._load())
        finally:
            await self.stage.leave()

    async def _load(self) -> int:
        started = time.monotonic()
        await self.stage.open()
        programs = await start_programs(self.stage)
        agents = [Agents(self.stage, seed) for seed in range(AGENTS)]
        unrest = Unrest(self.stage, AGENTS)
        await self._prime(agents[0])
        for number in range(1, ROUNDS + 1):
            left = started + self.seconds - time.monotonic()
            await self._round(left / (ROUNDS - number + 1), agents, programs, unrest)
            self.samples.append(await read_gauges(self.stage))
            say(f"round {number}/{ROUNDS}: {self.stage.ledger.requests} requests\n")
        for program in programs:
            if isinstance(program, Worker):
                await program.stop()
        self.written = await asyncio.to_thread(self.stage.proxy.everything_written)
        return await self.stage.stop()

    async def _prime(self, agent: Agents) -> None:
        """Fill what the proxy keeps by name, so that the rounds find it full."""
        for _ in range(HOSTS):
            await agent.ask_denied_host()

    async def _round(
        self, seconds: float, agents: list[Agents], programs: list[Program], unrest: Unrest
    ) -> None:
        until = time.monotonic() + seconds
        trouble = asyncio.create_task(unrest.run())
        await asyncio.gather(*(self._keep_on(actor.act, until) for actor in (*agents, *programs)))
        trouble.cancel()
        await asyncio.wait([trouble])
        unrest.calm()
        for program in programs:
            if isinstance(program, Worker):
                await program.rest()
        self.stage.upstreams.close_connections()
        async with asyncio.timeout(CLIENT_SECONDS):
            # Another process closes them.
            while await asyncio.to_thread(self.stage.proxy.open_connections):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def _keep_on(self, act: Callable[[], Awaitable[None]], until: float) -> None:
        """Act until the round is over. A client that fails unasked leaves its entry open."""
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(CLIENT_SECONDS):
                    await act()
            except Exception as error:  # noqa: BLE001 - whatever it was, the reckoning has it
                self.stage.ledger.offences.append(f"{act.__qualname__}: {error!r}")
            await asyncio.sleep(self.pause)

    # -- the reckoning

    def _reckon(self, code: int) -> dict[str, list[str]]:
        ledger = self.stage.ledger
        faulty: list[str] = []
        findings = compare(ledger, self._lines(faulty))
        broken = {
            "every request has its answer, its verdict and its end: none is lost": findings.lost,
            "the audit says what happened, and nothing else": findings.untrue,
            "every audit line is whole, valid, ASCII JSON": faulty,
            "no secret and no placeholder where it may not be, every refusal as it must be": [
                *ledger.offences,
                *self._search(),
            ],
            "descriptors, threads, tasks and memory stay flat": judge_growth(
                self.samples, self.stage.workers
            ),
            "the metrics count what the audit says": judge_metrics(self.written, findings),
            "the proxy ends with exit code 0 and says nothing unexpected": self._complaints(code),
        }
        self._report(findings, broken)
        return broken

    def _lines(self, faulty: list[str]) -> Iterator[dict[str, Any]]:
        """Every audit line in order, over all rotated files."""
        for file in self._audit_files():
            for raw in file.read_bytes().splitlines(keepends=True):
                try:
                    line = json.loads(raw.decode("ascii"))
                except ValueError as error:
                    faulty.append(f"{file.name}: {error}: {raw[:300]!r}")
                    continue
                if not raw.endswith(b"\n"):
                    faulty.append(f"{file.name}: a line without an end: {raw[:300]!r}")
                yield line

    def _audit_files(self) -> list[Path]:
        proxy = self.stage.proxy
        return [*sorted(proxy.folder.glob("audit.*.jsonl")), proxy.audit_file]

    def _search(self) -> list[str]:
        """Secrets in what the proxy wrote anywhere, its last words included."""
        self.written += self.stage.proxy.log.encode()
        found = []
        for file in self._audit_files():
            content = file.read_bytes()
            found += [f"{file.name} holds a secret" for form in FORMS if form in content]
        return found + ["a log or page holds a secret" for form in FORMS if form in self.written]

    def _complaints(self, code: int) -> list[str]:
        proxy = self.stage.proxy
        told = proxy.log.splitlines()
        lines = [line for line in told if "rror" in line or " failed with " in line]
        last = self._audit_files()[-1].read_bytes().splitlines()[-1]
        return [
            *([f"exit code {code}"] if code else []),
            *([] if json.loads(last)["event"] == "proxy.stopped" else ["no proxy.stopped at last"]),
            *(f"standard error: {line}" for line in lines),
        ]

    def _report(self, findings: Findings, broken: dict[str, list[str]]) -> None:
        ledger = self.stage.ledger
        say("\n" + render_kinds(ledger) + "\n" + render_faults(ledger))
        say("\n" + render_rounds(self.samples))
        say("\n" + render_summary(ledger, findings, self.samples))
        say("\n" + render_broken(broken))


def say(text: str) -> None:
    """For people."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
