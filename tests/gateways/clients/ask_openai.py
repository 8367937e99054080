"""Ask a model once through the openai SDK, with nothing configured but the environment.

Usage: ask_openai.py plain|stream|responses. Prints the answer; an API error as ``STATUS message``.
"""

from __future__ import annotations

import sys

import openai

MODEL = "gpt-pretend"


def ask(how: str) -> str:
    client = openai.OpenAI()
    if how == "responses":
        return client.responses.create(model=MODEL, input="ping").output_text
    if how == "stream":
        with client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "ping"}], stream=True
        ) as chunks:
            return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "ping"}],
        extra_body={"api_base": "https://evil.example"} if how == "override" else None,
    )
    return completion.choices[0].message.content or ""


if __name__ == "__main__":
    try:
        sys.stdout.write(ask(sys.argv[1]))
    except openai.APIStatusError as error:
        sys.stdout.write(f"{error.status_code} {error.message}")
