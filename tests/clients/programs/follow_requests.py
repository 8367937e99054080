"""GET with requests, redirects followed; argv: url. Prints the last answer."""

import os
import sys

import requests

headers = {"Authorization": f"Bearer {os.environ['API_TOKEN']}"}
answer = requests.get(sys.argv[1], headers=headers)
answer.raise_for_status()
sys.stdout.write(answer.text)
