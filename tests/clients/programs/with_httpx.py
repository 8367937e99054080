"""GET and POST with httpx; argv: url, body. Prints [status, answer] of each."""

import json
import os
import sys

import httpx

url, body = sys.argv[1:]
with httpx.Client(headers={"X-Search-Key": os.environ["SEARCH_KEY"]}) as client:
    answers = [client.get(url), client.post(url, content=body)]
json.dump([[answer.status_code, answer.text] for answer in answers], sys.stdout)
