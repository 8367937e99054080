"""Jobs with requests."""

import requests
from jobs import KEY, body_of, outcome, serve


def open_session():
    session = requests.Session()
    session.headers["X-Search-Key"] = KEY
    return session


def ask(session, job):
    answer = session.request(job["method"], job["url"], data=body_of(job) or None, timeout=60)
    return outcome(answer.status_code, answer.headers, answer.content)


serve(open_session, ask)
