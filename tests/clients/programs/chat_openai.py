"""Ask a model with the openai SDK: first whole, then as a stream, a line for each part."""

from openai import OpenAI

with OpenAI() as client:
    ask = {"model": "gpt-pretend", "messages": [{"role": "user", "content": "PING"}]}
    whole = client.chat.completions.create(**ask)
    print(whole.choices[0].message.content, flush=True)  # noqa: T201 - the test reads it
    for chunk in client.chat.completions.create(**ask, stream=True):
        print(chunk.choices[0].delta.content, flush=True)  # noqa: T201 - the test reads it
