"""Ask a model with the openai SDK: whole, as a stream, and whole again by its async client."""

import asyncio

from openai import AsyncOpenAI, OpenAI

ASK = {"model": "gpt-pretend", "messages": [{"role": "user", "content": "PING"}]}


async def ask_async() -> None:
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(**ASK)
    print(answer.choices[0].message.content, flush=True)  # noqa: T201 - the test reads it


with OpenAI() as client:
    whole = client.chat.completions.create(**ASK)
    print(whole.choices[0].message.content, flush=True)  # noqa: T201 - the test reads it
    for chunk in client.chat.completions.create(**ASK, stream=True):
        print(chunk.choices[0].delta.content, flush=True)  # noqa: T201 - the test reads it
asyncio.run(ask_async())
