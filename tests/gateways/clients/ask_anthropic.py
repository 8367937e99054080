"""Ask a model once through the anthropic SDK, with nothing configured but the environment.

Usage: ask_anthropic.py plain|stream. Prints the answer; an API error as ``STATUS message``.
"""

from __future__ import annotations

import sys

import anthropic

MODEL = "claude-pretend"


def ask(how: str) -> str:
    client = anthropic.Anthropic()
    question: dict[str, str] = {"role": "user", "content": "ping"}
    if how == "stream":
        with client.messages.stream(model=MODEL, max_tokens=64, messages=[question]) as stream:
            return "".join(stream.text_stream)
    message = client.messages.create(model=MODEL, max_tokens=64, messages=[question])
    return "".join(block.text for block in message.content if block.type == "text")


if __name__ == "__main__":
    try:
        sys.stdout.write(ask(sys.argv[1]))
    except anthropic.APIStatusError as error:
        sys.stdout.write(f"{error.status_code} {error.message}")
