"""Ask a model with the anthropic SDK: first whole, then as a stream, a line for each part."""

from anthropic import Anthropic

with Anthropic() as client:
    ask = {
        "model": "claude-pretend",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "PING"}],
    }
    whole = client.messages.create(**ask)
    print(whole.content[0].text, flush=True)  # noqa: T201 - the test reads it
    with client.messages.stream(**ask) as stream:
        for text in stream.text_stream:
            print(text, flush=True)  # noqa: T201 - the test reads it
