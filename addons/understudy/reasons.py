"""Every verdict's code, status and sentence, in one enum.

The docs, the metric label, the audit field, the ``Proxy-Status`` header and the denial body all
read this table. A sentence tells the agent what to do next and never names an address, a secret
or another rule.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a request was allowed or refused; the value is the public code."""

    status: int | None
    """HTTP status of the answer; None where the connection can only be closed."""
    sentence: str
    """What happened and what to do next, for the agent; ``{host}`` etc. are filled in."""
    retryable: bool
    """Whether the same request may succeed later without a change of policy."""
    reportable: bool
    """Whether report mode lets the request pass: only what the policy's author decides."""

    def __new__(
        cls,
        code: str,
        status: int | None,
        sentence: str,
        retryable: bool = False,  # noqa: FBT001, FBT002 - rows of a table, read by column
        reportable: bool = False,  # noqa: FBT001, FBT002 - rows of a table, read by column
    ) -> Reason:
        """Make a member of one row of the table."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.sentence = sentence
        member.retryable = retryable
        member.reportable = reportable
        return member

    ALLOWED = "allowed", None, "The request is allowed."

    # policy
    HOST_NOT_ALLOWED = (
        "host_not_allowed",
        403,
        "{host}:{port} is not in the policy. Ask for a rule that allows it; do not retry.",
        False,
        True,
    )
    PORT_NOT_ALLOWED = (
        "port_not_allowed",
        403,
        "Port {port} of {host} is not in the policy. Use an allowed port; do not retry.",
        False,
        True,
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed",
        403,
        "The policy does not allow {method} here. Ask for a rule that allows it; do not retry.",
        False,
        True,
    )
    PATH_NOT_ALLOWED = (
        "path_not_allowed",
        403,
        (
            "The policy does not allow this path on {host}. Ask for a rule that allows it; "
            "do not retry."
        ),
        False,
        True,
    )
    DENIED_BY_RULE = (
        "denied_by_rule",
        403,
        "A rule of the policy denies this request. Do not retry.",
        False,
        True,
    )
    TLS_REQUIRED = (
        "tls_required",
        403,
        "The policy allows {host} over https only. Use https.",
        False,
        True,
    )

    # identity
    HOST_MISMATCH = (
        "host_mismatch",
        421,
        (
            "The Host header names another host or port than the connection. "
            "Open a connection to the host that you mean."
        ),
    )
    SNI_MISMATCH = "sni_mismatch", None, "The TLS server name is not the tunnel's host."
    NESTED_TLS = "nested_tls", None, "TLS inside the tunnel's TLS is refused."
    NOT_HTTP = "not_http", None, "Only HTTP is spoken through this proxy."
    BAD_TARGET = "bad_target", 400, "The request target is malformed or names another host."
    BAD_HEADER = "bad_header", 400, "A header is malformed or ambiguous."
    BAD_METHOD = "bad_method", 400, "The method is not one that this proxy forwards."
    PATH_NOT_CANONICAL = (
        "path_not_canonical",
        400,
        (
            "Servers may read this path in more than one way. Send it in its plain form, without "
            "dot segments, backslashes, fragments or control characters."
        ),
    )
    HEADER_TOO_LARGE = "header_too_large", 431, "The request's headers are over the limit."
    BODY_TOO_LARGE = "body_too_large", 413, "The request's body is over the limit."
    ADDRESS_DENIED = (
        "address_denied",
        403,
        "{host} resolves to an address that this proxy does not connect to. Do not retry.",
    )

    # credentials
    PLACEHOLDER_WRONG_HOST = (
        "placeholder_wrong_host",
        403,
        "This credential does not belong to {host}. Send it to its own host only.",
        False,
        True,
    )
    PLACEHOLDER_MISPLACED = (
        "placeholder_misplaced",
        403,
        (
            "The credential is in a place where it is not accepted. Send it as the whole value of "
            "the header that the provider documents."
        ),
        False,
        True,
    )
    FOREIGN_CREDENTIAL = (
        "foreign_credential",
        403,
        (
            "{host} accepts only the credential that the policy binds to it. "
            "Use the one from your environment."
        ),
        False,
        True,
    )
    AMBIGUOUS_CREDENTIAL = (
        "ambiguous_credential",
        403,
        "The request carries more than one credential. Send exactly one.",
        False,
        True,
    )

    # fail closed
    SECRET_UNAVAILABLE = (
        "secret_unavailable",
        503,
        "The credential for {host} cannot be had right now. Try again later.",
        True,
    )
    POLICY_MISSING = "policy_missing", 503, "No policy is loaded. Try again later.", True
    AUDIT_UNAVAILABLE = (
        "audit_unavailable",
        503,
        "The audit log cannot be written, so nothing is forwarded. Try again later.",
        True,
    )
    INTERNAL_ERROR = (
        "internal_error",
        503,
        "The proxy failed and forwarded nothing. Report the request id.",
        True,
    )

    # gateway
    GATEWAY_ROUTE_DENIED = (
        "gateway_route_denied",
        403,
        "The gateway is not open for {method} on this path. Use the provider's model API.",
    )
    GATEWAY_OVERRIDE_DENIED = (
        "gateway_override_denied",
        403,
        (
            "The request tries to change the gateway's routing. "
            "Remove the gateway's control headers and fields."
        ),
    )

    # callers and upstreams
    PROXY_AUTH_REQUIRED = "proxy_auth_required", 407, "This proxy does not know the caller."
    UPSTREAM_FAILED = (
        "upstream_failed",
        502,
        "{host} could not be reached or did not answer properly.",
        True,
    )
    UPSTREAM_TIMEOUT = "upstream_timeout", 504, "{host} did not answer in time.", True
    CLIENT_CLOSED = "client_closed", None, "The client closed the connection."
    TIMEOUT = "timeout", None, "It took longer than the policy's limits allow."
    TOO_MANY_CONNECTIONS = "too_many_connections", None, "Too many connections are open.", True


CREDENTIAL_REASONS = frozenset(
    {
        Reason.PLACEHOLDER_WRONG_HOST,
        Reason.PLACEHOLDER_MISPLACED,
        Reason.FOREIGN_CREDENTIAL,
        Reason.AMBIGUOUS_CREDENTIAL,
    }
)
"""Refusals about the credential that a client presented: worth an alert."""
