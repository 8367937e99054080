"""Jobs with the anthropic SDK: a message, whole or as a stream; what it says is the body."""

from anthropic import Anthropic
from jobs import outcome, serve


def ask(client, job):
    client = client.with_options(base_url=job["url"])
    question = {
        "model": "claude-pretend",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "PING"}],
    }
    if job["method"] == "STREAM":
        with client.messages.stream(**question) as stream:
            text = "".join(stream.text_stream)
    else:
        text = client.messages.create(**question).content[0].text
    return outcome(200, {}, text.encode())


serve(lambda: Anthropic(max_retries=0, timeout=60), ask)
