"""Jobs with httpx."""

import httpx
from jobs import KEY, body_of, outcome, serve


def ask(client, job):
    answer = client.request(job["method"], job["url"], content=body_of(job) or None)
    return outcome(answer.status_code, answer.headers, answer.content)


serve(lambda: httpx.Client(headers={"X-Search-Key": KEY}, timeout=60), ask)
