"""GET with httpx, redirects followed; argv: url. Prints the last answer."""

import os
import sys

import httpx

headers = {"Authorization": f"Bearer {os.environ['API_TOKEN']}"}
answer = httpx.get(sys.argv[1], headers=headers, follow_redirects=True)
answer.raise_for_status()
sys.stdout.write(answer.text)
