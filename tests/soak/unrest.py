"""Trouble around a working proxy: policies good and bad, secrets that change, logs that rotate."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal

from tests.soak.stage import BAD_POLICIES, Stage

POLICY_SECONDS, SECRET_SECONDS, ROTATION_SECONDS = 0.7, 0.5, 4.0


class Unrest:
    """Makes trouble until it is cancelled; each kind in a task of its own."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.faults = stage.ledger.faults
        self._turns = itertools.count()
        self.rotations = 0

    async def change_policies(self) -> None:
        """Good, bad, the other good one."""
        while True:
            turn = next(self._turns)
            if turn % 2:
                self.stage.proxy.write_policy(self.random.choice(BAD_POLICIES))
                self.faults["policy: bad file"] += 1
            else:
                self.stage.proxy.write_policy(self.stage.policies[turn // 2 % 2])
                self.faults["policy: reload"] += 1
            await asyncio.sleep(POLICY_SECONDS)

    async def change_secrets(self) -> None:
        """One secret is rotated all the time; another comes and goes."""
        fragile = self.stage.secret_files["fragile.example"]
        while True:
            self.stage.renew_secret("search.example")
            self.faults["secret: rotated"] += 1
            match self.random.randrange(4):
                case 0:
                    fragile.unlink(missing_ok=True)
                    self.faults["secret: gone"] += 1
                case 1:
                    fragile.write_text("")
                    self.faults["secret: empty"] += 1
                case _:
                    self.stage.renew_secret("fragile.example")
            await asyncio.sleep(SECRET_SECONDS)

    async def rotate_audit(self) -> None:
        """Rename the audit file, with and without a signal after it."""
        proxy = self.stage.proxy
        while True:
            await asyncio.sleep(ROTATION_SECONDS)
            if proxy.audit_file.exists():
                proxy.audit_file.rename(proxy.folder / f"audit.{self.rotations:06}.jsonl")
                self.rotations += 1
                self.faults["audit: renamed"] += 1
                if self.random.randrange(2):
                    proxy.process.send_signal(signal.SIGHUP)
                    self.faults["signal: SIGHUP"] += 1

    async def run(self) -> None:
        """All of it."""
        async with asyncio.TaskGroup() as group:
            for trouble in (self.change_policies, self.change_secrets, self.rotate_audit):
                group.create_task(trouble())

    def calm(self) -> None:
        """Everything as it was: the first policy, good secrets."""
        self.stage.proxy.write_policy(self.stage.policies[0])
        for host in self.stage.secret_files:
            self.stage.renew_secret(host)
