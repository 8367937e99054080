"""Ask a model with the google-genai SDK: whole, as a stream, and whole again by its async API."""

import asyncio

from google import genai


async def ask_async(client: genai.Client) -> None:
    async with client.aio as aio:
        answer = await aio.models.generate_content(model="gemini-pretend", contents="PING")
    print(answer.text, flush=True)  # noqa: T201 - the test reads it


with genai.Client() as client:
    whole = client.models.generate_content(model="gemini-pretend", contents="PING")
    print(whole.text, flush=True)  # noqa: T201 - the test reads it
    for chunk in client.models.generate_content_stream(model="gemini-pretend", contents="PING"):
        print(chunk.text, flush=True)  # noqa: T201 - the test reads it
    asyncio.run(ask_async(client))
