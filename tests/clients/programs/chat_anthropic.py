"""Ask a model with the anthropic SDK: whole, as a stream, and whole again by its async client."""

import asyncio

from anthropic import Anthropic, AsyncAnthropic

ASK = {
    "model": "claude-pretend",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "PING"}],
}


async def ask_async() -> None:
    async with AsyncAnthropic() as client:
        answer = await client.messages.create(**ASK)
    print(answer.content[0].text, flush=True)  # noqa: T201 - the test reads it


with Anthropic() as client:
    whole = client.messages.create(**ASK)
    print(whole.content[0].text, flush=True)  # noqa: T201 - the test reads it
    with client.messages.stream(**ASK) as stream:
        for text in stream.text_stream:
            print(text, flush=True)  # noqa: T201 - the test reads it
asyncio.run(ask_async())
