"""GET and POST with aiohttp, which needs trust_env; argv: url, body. Prints [status, answer]."""

import asyncio
import json
import os
import sys

import aiohttp


async def main(url: str, body: str) -> None:
    headers = {"X-Search-Key": os.environ["SEARCH_KEY"]}
    answers = []
    async with aiohttp.ClientSession(trust_env=True, headers=headers) as session:
        async with session.get(url) as answer:
            answers.append([answer.status, await answer.text()])
        async with session.post(url, data=body) as answer:
            answers.append([answer.status, await answer.text()])
    json.dump(answers, sys.stdout)


asyncio.run(main(*sys.argv[1:]))
