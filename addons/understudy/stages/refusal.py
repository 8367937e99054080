"""A denial as the agent sees it: status, headers and a body that SDKs print as their error.

The body's shape is both OpenAI's and Anthropic's error object. Nothing here names an address, an
errno, a version, a secret or another rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mitmproxy import http

from understudy.reasons import Reason

REQUEST_ID_HEADER = "Understudy-Request-Id"
OWN_HEADERS = frozenset({b"proxy-status", REQUEST_ID_HEADER.lower().encode()})
"""Headers (lower case) that only a denial carries; removed from upstream responses."""

_ERROR_TYPES = {
    400: "invalid_request_error",
    405: "invalid_request_error",
    407: "authentication_error",
    413: "invalid_request_error",
    421: "invalid_request_error",
    431: "invalid_request_error",
    502: "api_error",
    503: "api_error",
    504: "api_error",
}
_PROXY_STATUS_ERRORS = {502: "destination_unavailable", 504: "connection_read_timeout"}
_METHOD_NOT_ALLOWED = 405
_PROXY_AUTHENTICATION_REQUIRED = 407


@dataclass(frozen=True, slots=True)
class Denial:
    """Everything that the answer to a refused request says."""

    reason: Reason
    request_id: str
    rule: str | None = None
    method: str = "this method"
    host: str = "This host"
    port: int | str = "this port"

    @property
    def status(self) -> int:
        """The HTTP status; a refusal that can only close has 400 where an answer is possible."""
        if self.reason is Reason.BAD_METHOD and self.method == "TRACE":
            return _METHOD_NOT_ALLOWED
        return self.reason.status or 400

    @property
    def message(self) -> str:
        """The sentence for the agent, with the request id in it."""
        sentence = self.reason.sentence.format(
            host=self.host[:253], port=self.port, method=self.method[:32]
        )
        return f"{sentence} (request {self.request_id})"

    def headers(self) -> list[tuple[str, str]]:
        """The denial's own headers, framing aside."""
        error = _PROXY_STATUS_ERRORS.get(self.status, "http_request_denied")
        headers = [
            ("Content-Type", "application/json"),
            ("Proxy-Status", f'understudy; error={error}; details="{self.reason}"'),
            (REQUEST_ID_HEADER, self.request_id),
            ("Cache-Control", "no-store"),
        ]
        if self.status == _PROXY_AUTHENTICATION_REQUIRED:
            headers.append(("Proxy-Authenticate", 'Basic realm="understudy"'))
        if self.status == _METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        return headers

    def body(self) -> bytes:
        """The JSON body, ASCII."""
        message = self.message
        return json.dumps(
            {
                "type": "error",
                "error": {
                    "type": _ERROR_TYPES.get(self.status, "permission_error"),
                    "code": str(self.reason),
                    "message": message,
                },
                "understudy": {
                    "reason": str(self.reason),
                    "rule": self.rule,
                    "request_id": self.request_id,
                    "retryable": self.reason.retryable,
                },
            }
        ).encode("ascii")

    def response(self) -> http.Response:
        """The denial as mitmproxy's response object."""
        headers = [(k.encode(), v.encode()) for k, v in self.headers()]
        # The client of a HEAD would take a body for its next answer.
        body = b"" if self.method == "HEAD" else self.body()
        return http.Response.make(self.status, body, http.Headers(headers))

    def to_bytes(self) -> bytes:
        """The denial as HTTP/1.1 bytes that end the connection."""
        response = self.response()
        lines = [f"HTTP/1.1 {self.status} {response.reason}".encode()]
        lines += [name + b": " + value for name, value in response.headers.fields]
        lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (response.content or b"")
