"""GET and POST with requests; argv: url, body. Prints [status, answer] of each."""

import json
import os
import sys

import requests

url, body = sys.argv[1:]
with requests.Session() as session:
    session.headers["X-Search-Key"] = os.environ["SEARCH_KEY"]
    answers = [session.get(url), session.post(url, data=body)]
json.dump([[answer.status_code, answer.text] for answer in answers], sys.stdout)
