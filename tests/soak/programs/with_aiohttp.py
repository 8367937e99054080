"""Jobs with aiohttp."""

import asyncio
from contextlib import contextmanager

import aiohttp
from jobs import KEY, body_of, outcome, serve

runner = asyncio.Runner()


@contextmanager
def open_session():
    async def make():
        return aiohttp.ClientSession(trust_env=True, headers={"X-Search-Key": KEY})

    session = runner.run(make())
    try:
        yield session
    finally:
        runner.run(session.close())


def ask(session, job):
    async def go():
        async with session.request(job["method"], job["url"], data=body_of(job) or None) as answer:
            return outcome(answer.status, answer.headers, await answer.read())

    return runner.run(go())


serve(open_session, ask)
