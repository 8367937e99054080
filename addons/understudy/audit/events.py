"""What the audit log says: the events of schema ``understudy.audit/1`` and their fields.

Each builder gives one event as a dict; :func:`understudy.audit.line.encode` bounds and writes it.
Nothing here shows a secret or a query string.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

from understudy.reasons import CREDENTIAL_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.policy.model import Policy
    from understudy.policy.problems import Problem
    from understudy.reasons import Reason
    from understudy.stages.exchange import Exchange

type Event = dict[str, object]

SCHEMA = "understudy.audit/1"
MAX_PROBLEMS = 16

# Events
REQUEST_DECIDED = "request.decided"
REQUEST_FINISHED = "request.finished"
TUNNEL_DENIED = "tunnel.denied"
CONNECTION_REJECTED = "connection.rejected"
POLICY_LOADED = "policy.loaded"
POLICY_REJECTED = "policy.rejected"
SECRET_REFRESHED = "secret.refreshed"  # noqa: S105 - an event's name
SECRET_FAILED = "secret.failed"  # noqa: S105 - an event's name
PROXY_READY = "proxy.ready"
PROXY_STOPPED = "proxy.stopped"
EVENTS = (
    REQUEST_DECIDED,
    REQUEST_FINISHED,
    TUNNEL_DENIED,
    CONNECTION_REJECTED,
    POLICY_LOADED,
    POLICY_REJECTED,
    SECRET_REFRESHED,
    SECRET_FAILED,
    PROXY_READY,
    PROXY_STOPPED,
)

# Fields, of every event first
FIELD_SCHEMA = "schema"
FIELD_TIME = "time"
FIELD_EVENT = "event"
FIELD_REQUEST_ID = "request_id"
FIELD_VERDICT = "verdict"
FIELD_REASON = "reason"
FIELD_RULE = "rule"
FIELD_CONNECTION = "connection"
FIELD_POLICY_DIGEST = "policy_digest"
FIELD_MODE = "mode"
FIELD_DETAIL = "detail"
FIELD_CLIENT = "client"
FIELD_ADDRESS = "address"
FIELD_HTTP = "http"
FIELD_METHOD = "method"
FIELD_SCHEME = "scheme"
FIELD_HOST = "host"
FIELD_PORT = "port"
FIELD_PATH = "path"
FIELD_GATEWAY = "gateway"
FIELD_KIND = "kind"
FIELD_SWAPPED = "swapped"
FIELD_SECRET = "secret"  # noqa: S105 - a field's name
FIELD_LOCATION = "location"
FIELD_STATUS = "status"
FIELD_BYTES_SENT = "bytes_sent"
FIELD_BYTES_RECEIVED = "bytes_received"
FIELD_REFLECTED = "reflected"
FIELD_DURATION_MS = "duration_ms"
FIELD_FIRST_BYTE_MS = "first_byte_ms"
FIELD_OVERHEAD_MS = "overhead_ms"
FIELD_RULES = "rules"
FIELD_CONNECTIONS = "connections"
FIELD_PROBLEMS = "problems"
FIELD_FILE = "file"
FIELD_LINE = "line"
FIELD_FIELD = "field"
FIELD_MESSAGE = "message"
FIELD_SOURCE = "source"
FIELD_PROXY = "proxy"
FIELD_ADMIN = "admin"
FIELD_VERSION = "version"
FIELD_CA_FINGERPRINT = "ca_fingerprint"
FIELD_UPTIME_SECONDS = "uptime_seconds"

ALLOW: Literal["allow"] = "allow"
DENY: Literal["deny"] = "deny"
REPORT_MODE = "report"
UNUSED_TUNNEL = "the tunnel was not used"
"""Detail of a connection that asked for a tunnel and then nothing; clients open some in advance."""


def request_decided(exchange: Exchange) -> Event:
    """The verdict on one request; written before any byte of it goes upstream."""
    policy, verdict, refusal = exchange.policy, exchange.verdict, exchange.refusal
    event = _begin(REQUEST_DECIDED)
    event[FIELD_REQUEST_ID] = exchange.request_id
    event[FIELD_VERDICT] = ALLOW if refusal is None else DENY
    event[FIELD_REASON] = refusal or (verdict.reason if verdict else None)
    event[FIELD_RULE] = verdict.rule if verdict else None
    if event[FIELD_REASON] in CREDENTIAL_REASONS:
        event[FIELD_CONNECTION] = exchange.concerned_connection
    elif verdict is not None and verdict.connection is not None:
        event[FIELD_CONNECTION] = verdict.connection.name
    if policy is not None:
        event[FIELD_POLICY_DIGEST] = policy.digest
        if policy.mode == REPORT_MODE:
            event[FIELD_MODE] = REPORT_MODE
    event[FIELD_DETAIL] = exchange.detail
    event[FIELD_CLIENT] = {FIELD_ADDRESS: exchange.session.address}
    event[FIELD_HTTP] = _http(exchange)
    routed = exchange.routed
    if routed is not None and policy is not None and policy.gateway is not None:
        event[FIELD_GATEWAY] = {
            FIELD_KIND: policy.gateway.preset.kind,
            FIELD_SCHEME: routed.scheme,
            FIELD_HOST: routed.host,
            FIELD_PORT: routed.port,
            FIELD_PATH: _without_query(routed.target),
        }
    if exchange.swapped and refusal is None:
        event[FIELD_SWAPPED] = [
            {FIELD_SECRET: secret, FIELD_LOCATION: location}
            for secret, location in exchange.swapped
        ]
    return event


def request_finished(
    exchange: Exchange, *, status: int | None, reason: Reason | None, now: float
) -> Event:
    """How an allowed request ended; ``now`` is on the clock of ``time.perf_counter``.

    ``reason`` is None for an answer that arrived whole.
    """
    started = exchange.started
    event = _begin(REQUEST_FINISHED)
    event[FIELD_REQUEST_ID] = exchange.request_id
    event[FIELD_STATUS] = status
    event[FIELD_REASON] = reason
    event[FIELD_DETAIL] = exchange.detail
    event[FIELD_BYTES_SENT] = exchange.bytes_sent
    event[FIELD_BYTES_RECEIVED] = exchange.bytes_received
    if exchange.scrubber is not None and exchange.scrubber.found:
        event[FIELD_REFLECTED] = sum(exchange.scrubber.found.values())
    event[FIELD_DURATION_MS] = _milliseconds(now - started)
    if exchange.first_byte_at:
        event[FIELD_FIRST_BYTE_MS] = _milliseconds(exchange.first_byte_at - started)
    event[FIELD_OVERHEAD_MS] = _milliseconds(exchange.decided_at - started)
    return event


def tunnel_denied(
    *,
    reason: Reason,
    request_id: str,
    client: str,
    target: bytes,
    rule: str | None = None,
    detail: str | None = None,
    policy_digest: str | None = None,
) -> Event:
    """A CONNECT that was refused; ``target`` is what stood behind the method, as sent."""
    host, port = _split_target(target)
    return _begin(TUNNEL_DENIED) | {
        FIELD_REQUEST_ID: request_id,
        FIELD_VERDICT: DENY,
        FIELD_REASON: reason,
        FIELD_RULE: rule,
        FIELD_POLICY_DIGEST: policy_digest,
        FIELD_DETAIL: detail,
        FIELD_CLIENT: {FIELD_ADDRESS: client},
        FIELD_HTTP: {FIELD_METHOD: "CONNECT", FIELD_HOST: host, FIELD_PORT: port},
    }


def connection_rejected(
    *,
    reason: Reason,
    client: str,
    host: str | None = None,
    port: int | None = None,
    detail: str | None = None,
    request_id: str | None = None,
) -> Event:
    """A connection that was closed before it held a request; host and port are the tunnel's."""
    event = _begin(CONNECTION_REJECTED) | {
        FIELD_REQUEST_ID: request_id,
        FIELD_VERDICT: DENY,
        FIELD_REASON: reason,
        FIELD_DETAIL: detail,
        FIELD_CLIENT: {FIELD_ADDRESS: client},
    }
    if host is not None:
        event[FIELD_HTTP] = {FIELD_HOST: host, FIELD_PORT: port}
    return event


def policy_loaded(policy: Policy) -> Event:
    """A policy is in force from now on."""
    return _begin(POLICY_LOADED) | {
        FIELD_POLICY_DIGEST: policy.digest,
        FIELD_MODE: policy.mode,
        # One entry of the file may be several compiled rules of one name.
        FIELD_RULES: len({rule.name for rule in (*policy.allow, *policy.deny)}),
        FIELD_CONNECTIONS: len(policy.connections),
    }


def policy_rejected(problems: Iterable[Problem], *, kept_digest: str | None) -> Event:
    """A policy that cannot be used; ``kept_digest`` is the one that stays in force, if any.

    Only the first 16 problems are written.
    """
    return _begin(POLICY_REJECTED) | {
        FIELD_POLICY_DIGEST: kept_digest,
        FIELD_PROBLEMS: [
            {
                FIELD_FILE: problem.file,
                FIELD_LINE: problem.line,
                FIELD_FIELD: problem.field,
                FIELD_MESSAGE: problem.message,
            }
            for problem in islice(problems, MAX_PROBLEMS)
        ],
    }


def secret_refreshed(*, connection: str, secret: str | None, source: str) -> Event:
    """A secret was fetched for the first time or changed; ``secret`` is its name."""
    return _begin(SECRET_REFRESHED) | {
        FIELD_CONNECTION: connection,
        FIELD_SECRET: secret,
        FIELD_SOURCE: source,
    }


def secret_failed(
    *, connection: str, secret: str | None, source: str, detail: str | None = None
) -> Event:
    """A secret could not be had; ``detail`` says why, without the value."""
    return _begin(SECRET_FAILED) | {
        FIELD_CONNECTION: connection,
        FIELD_SECRET: secret,
        FIELD_SOURCE: source,
        FIELD_DETAIL: detail,
    }


def proxy_ready(
    *, proxy: str, admin: str | None, version: str, ca_fingerprint: str, policy_digest: str | None
) -> Event:
    """The proxy serves, on these addresses."""
    return _begin(PROXY_READY) | {
        FIELD_PROXY: proxy,
        FIELD_ADMIN: admin,
        FIELD_VERSION: version,
        FIELD_CA_FINGERPRINT: ca_fingerprint,
        FIELD_POLICY_DIGEST: policy_digest,
    }


def proxy_stopped(*, uptime_seconds: float, detail: str | None = None) -> Event:
    """The proxy stops; ``detail`` says at whose wish."""
    return _begin(PROXY_STOPPED) | {
        FIELD_UPTIME_SECONDS: round(uptime_seconds, 3),
        FIELD_DETAIL: detail,
    }


def _begin(name: str) -> Event:
    return {FIELD_SCHEMA: SCHEMA, FIELD_TIME: now(), FIELD_EVENT: name}


def now() -> str:
    """The time as the audit writes it: RFC 3339, UTC, to the millisecond."""
    return _write_time(time.time_ns() // 1_000_000)


@lru_cache(maxsize=2)
def _write_time(milliseconds: int) -> str:
    return f"{_write_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=2)
def _write_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _http(exchange: Exchange) -> Event:
    target, head = exchange.target, exchange.head
    if target is not None:
        return {
            FIELD_METHOD: target.method,
            FIELD_SCHEME: target.scheme,
            FIELD_HOST: target.host,
            FIELD_PORT: target.port,
            FIELD_PATH: target.path,
        }
    # Refused before it had a canonical form: what the client wrote, for whoever investigates.
    return {
        FIELD_METHOD: head.method,
        FIELD_HOST: head.host or head.authority or None,
        FIELD_PATH: _without_query(head.path or head.target),
    }


def _without_query(target: bytes) -> bytes:
    return target.partition(b"?")[0].partition(b"#")[0]


def _split_target(target: bytes) -> tuple[bytes, int | None]:
    host, _, port = target.rpartition(b":")
    if host and port.isdigit() and len(port) <= len("65535"):
        return host, int(port)
    return _without_query(target), None
