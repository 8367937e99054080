"""Why an upstream failed, in a finite set of sentences for the audit.

The engine's own texts quote addresses, errnos and bytes of the upstream's, so none of them is kept.
"""

from __future__ import annotations

UNKNOWN_FAILURE = "the exchange with the upstream failed"

_SENTENCES = (
    # part of the engine's text, lower case; the first that is found counts
    ("hostname mismatch", "the upstream's certificate is for another name"),
    ("ip address mismatch", "the upstream's certificate is for another name"),
    ("certificate has expired", "the upstream's certificate has expired"),
    ("certificate is not yet valid", "the upstream's certificate is not yet valid"),
    ("issuer certificate", "the upstream's certificate is not from a trusted authority"),
    ("self-signed certificate", "the upstream's certificate is not from a trusted authority"),
    ("certificate verify failed", "the upstream's certificate could not be verified"),
    ("looked up", "the upstream's name could not be looked up"),
    ("too many connections", "too many connections to the upstream"),
    ("timed out", "the upstream could not be connected to in time"),
    ("no decided destination", "no decided destination"),
    ("connect call failed", "the upstream could not be connected to"),
    ("[errno", "the upstream could not be connected to"),
    ("server closed connection", "the upstream closed the connection without an answer"),
    ("connection closed", "the upstream closed the connection during the TLS handshake"),
    ("openssl error", "the TLS handshake with the upstream failed"),
    ("tls", "the TLS handshake with the upstream failed"),
    ("complete message body", "the upstream's answer broke off"),
    ("cannot parse http response", "the upstream's answer was not proper HTTP"),
    ("from server", "the upstream's answer was not proper HTTP"),
    ("protocol error", "the upstream's answer was not proper HTTP"),
    ("without a close frame", "the upstream ended the WebSocket without closing it"),
    ("response head too large", "the head of the upstream's answer was over the limit"),
)


def describe_failure(engine_text: str) -> str:
    """One of our sentences for what the engine says of an upstream."""
    lower = engine_text.lower()
    return next((sentence for part, sentence in _SENTENCES if part in lower), UNKNOWN_FAILURE)
