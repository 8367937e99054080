"""GET and POST with the standard library; argv: url, body. Prints [status, answer] of each."""

import json
import os
import sys
import urllib.request

url, body = sys.argv[1:]
headers = {"X-Search-Key": os.environ["SEARCH_KEY"]}
answers = []
for data in (None, body.encode()):
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        answers.append([answer.status, answer.read().decode()])
json.dump(answers, sys.stdout)
