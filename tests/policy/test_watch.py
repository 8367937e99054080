from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from understudy.policy import watch
from understudy.policy.watch import PolicyHolder

TEXT = "version: 1\nallow: [{name: a, hosts: [a.example]}]\n"
OTHER = TEXT.replace("a.example", "b.example")


class Watched:
    """A policy file that is watched, and what was heard of it."""

    def __init__(self, path):
        self.path = path
        self.loaded = []
        self.rejected = []
        self.refusal = None
        path.write_text(TEXT)
        self.holder = PolicyHolder(
            path, {}, on_loaded=self._on_loaded, on_rejected=self.rejected.append
        )
        self.holder.reload()

    def _on_loaded(self, loaded):
        if self.refusal is not None:
            raise self.refusal
        self.loaded.append(loaded.policy)

    async def wait_until(self, condition):
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def watching(self):
        task = asyncio.create_task(self.holder.watch())
        yield
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


def run(path, scenario):
    async def main():
        watched = Watched(path)
        async with watched.watching():
            await scenario(watched)

    asyncio.run(main())


def test_a_file_that_never_holds_still_is_read_all_the_same(tmp_path):
    async def scenario(watched):
        async with asyncio.timeout(30):
            while len(watched.loaded) < 2:
                fresh = tmp_path / "fresh"
                fresh.write_text(f"{OTHER}# {len(watched.rejected)}\n")
                fresh.replace(watched.path)
                await asyncio.sleep(0.01)

    run(tmp_path / "policy.yaml", scenario)


def test_a_file_that_was_touched_is_the_same_policy(tmp_path):
    async def scenario(watched):
        watched.path.touch()
        watched.path.chmod(0o600)
        watched.path.write_text(OTHER)
        await watched.wait_until(lambda: len(watched.loaded) == 2)
        watched.path.write_text(OTHER)
        watched.path.write_text("bad")
        await watched.wait_until(lambda: watched.rejected)
        assert len(watched.loaded) == 2

    run(tmp_path / "policy.yaml", scenario)


def test_what_was_in_the_way_of_a_good_policy_is_told_once_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(watch, "_SHARE", 1.0)

    async def scenario(watched):
        tries = []
        watched.refusal = OSError("no room")
        load = watch.load
        monkeypatch.setattr(watch, "load", lambda *given: tries.append(1) or load(*given))
        watched.path.write_text(OTHER)
        await watched.wait_until(lambda: len(tries) > 3)
        ((problem,),) = watched.rejected
        assert "OSError" in problem.message
        assert watched.holder.current is watched.loaded[0]
        watched.refusal = None
        await watched.wait_until(lambda: len(watched.loaded) == 2)
        assert watched.holder.problems == ()

    run(tmp_path / "policy.yaml", scenario)


def test_a_look_that_fails_is_not_the_last(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watch, "_RETRY_SECONDS", 0.05)

    async def scenario(watched):
        with monkeypatch.context() as patch:
            patch.setattr(watch, "look", lambda *_: 1 / 0)
            await watched.wait_until(lambda: "ZeroDivisionError" in caplog.text)
        watched.path.write_text(OTHER)
        await watched.wait_until(lambda: len(watched.loaded) == 2)

    run(tmp_path / "policy.yaml", scenario)
