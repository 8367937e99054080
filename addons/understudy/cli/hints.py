"""What an operator can do about a denial: one sentence for each reason."""

from __future__ import annotations

from understudy.reasons import Reason

HINTS = {
    Reason.HOST_NOT_ALLOWED: "Add an allow rule for this host if the agent should reach it.",
    Reason.PORT_NOT_ALLOWED: "Rules mean port 443 unless they have ports.",
    Reason.METHOD_NOT_ALLOWED: "Add the method to the rule if the agent should use it.",
    Reason.PATH_NOT_ALLOWED: "Add the path to the rule's paths if the agent should use it.",
    Reason.DENIED_BY_RULE: "A deny rule always wins.",
    Reason.TLS_REQUIRED: "The rule means https; use an https URL, or write schemes: [http].",
    Reason.HOST_MISMATCH: "The program asked for one host and named another.",
    Reason.SNI_MISMATCH: "The program's TLS named another host than its tunnel.",
    Reason.NESTED_TLS: "The program spoke TLS inside TLS; the inner part cannot be judged.",
    Reason.NOT_HTTP: "Only HTTP can be judged; other protocols do not pass.",
    Reason.BAD_TARGET: "The URL is malformed, or another host's.",
    Reason.BAD_HEADER: "A header is malformed or came twice.",
    Reason.BAD_METHOD: "TRACE, nested CONNECT and made-up methods do not pass.",
    Reason.PATH_NOT_CANONICAL: "Servers may read this path in several ways; send it plainly.",
    Reason.HEADER_TOO_LARGE: "See limits.max_header_bytes and limits.max_headers.",
    Reason.BODY_TOO_LARGE: "See limits.max_request_body_bytes.",
    Reason.ADDRESS_DENIED: "The name leads to a private address; see upstream.allow_addresses.",
    Reason.PLACEHOLDER_WRONG_HOST: "The agent sent a key to a host that it does not belong to.",
    Reason.PLACEHOLDER_MISPLACED: "The key stood outside the connection's carriers.",
    Reason.FOREIGN_CREDENTIAL: "The request brought a key that is not this connection's.",
    Reason.AMBIGUOUS_CREDENTIAL: "The request brought more than one key.",
    Reason.SECRET_UNAVAILABLE: "The connection's secret cannot be read; see the audit.",
    Reason.POLICY_MISSING: "No good policy is loaded.",
    Reason.AUDIT_UNAVAILABLE: "The audit cannot be written, so nothing is forwarded.",
    Reason.INTERNAL_ERROR: "The proxy failed; its log on standard error says where.",
    Reason.GATEWAY_ROUTE_DENIED: "The gateway is open for the provider's model API only.",
    Reason.GATEWAY_OVERRIDE_DENIED: "The request tried to steer the gateway.",
    Reason.PROXY_AUTH_REQUIRED: "The program dropped the token from the proxy's URL.",
    Reason.UPSTREAM_FAILED: "The host could not be reached, or its certificate is not trusted.",
    Reason.UPSTREAM_TIMEOUT: "The host did not answer in time, or has too many connections.",
    Reason.CLIENT_CLOSED: "The program hung up; one that does not trust the CA does so.",
    Reason.TIMEOUT: "The program was too slow, or silent; see the times in limits.",
    Reason.TOO_MANY_CONNECTIONS: "See max_connections and max_connections_per_client in limits.",
}
"""Every reason but ``allowed``."""
