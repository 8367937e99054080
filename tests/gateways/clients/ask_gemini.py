"""Ask a model once through the google-genai SDK, with nothing configured but the environment.

Usage: ask_gemini.py plain. Prints the answer; an API error as ``STATUS message``.
"""

from __future__ import annotations

import sys

from google import genai
from google.genai import errors

MODEL = "gemini-pretend"


def ask(how: str) -> str:
    assert how == "plain"
    client = genai.Client()
    return client.models.generate_content(model=MODEL, contents="ping").text or ""


if __name__ == "__main__":
    try:
        sys.stdout.write(ask(sys.argv[1]))
    except errors.APIError as error:
        sys.stdout.write(f"{error.code} {error.message}")
