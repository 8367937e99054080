"""Stage 8: what happened, once a request and in time: audit before the first byte, then metrics.

The decided event is written before any byte goes upstream; if it cannot be written, nothing goes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from understudy.audit import events
from understudy.audit.log import AuditUnavailable
from understudy.audit.request_id import new_request_id
from understudy.audit.request_lines import decided_line, finished_line
from understudy.reasons import Reason
from understudy.stages.exchange import Exchange, exchange_of, find_exchange
from understudy.stages.refusal import Denial
from understudy.wire.failures import describe_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy import http

    from understudy.admin.metrics import Metrics
    from understudy.audit.log import AuditLog
    from understudy.policy.model import Policy
    from understudy.stages.exchange import Session
    from understudy.wire.head import RequestHead

    type BodyFilter = Callable[[bytes], list[bytes]]

CLIENT_DISCONNECTED = "Client disconnected."
"""mitmproxy's text in ``flow.error`` when the agent went away."""


class Recorder:
    """Writes the audit lines and counts: exactly one verdict for every client action."""

    def __init__(self, audit: AuditLog, metrics: Metrics) -> None:
        self._audit = audit
        self._metrics = metrics

    def connections_open(self, count: int) -> None:
        """Set the number of open client connections."""
        self._metrics.set_active_connections(count)

    def reject(
        self,
        session: Session,
        reason: Reason,
        detail: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Record a connection that is refused whole; only the first refusal counts."""
        if session.refusal is not None:
            return
        if session.is_timed_out and reason is Reason.CLIENT_CLOSED:
            reason = Reason.TIMEOUT
        session.refusal = reason
        session.requests += 1
        tunnel = session.tunnel
        self._metrics.request_decided("deny", reason, None)
        self._write(
            events.connection_rejected(
                reason=reason,
                client=session.address,
                host=tunnel.host if tunnel else None,
                port=tunnel.port if tunnel else None,
                detail=detail,
                request_id=request_id,
            )
        )

    def time_out(self, session: Session) -> None:
        """Remember that time was up when the connection ends, which is told of there."""
        session.is_timed_out = True
        exchange = session.exchange
        if exchange is not None and not exchange.finished:
            exchange.refuse(Reason.TIMEOUT)

    def deny_tunnel(self, session: Session, denial: Denial, policy: Policy | None = None) -> None:
        """Record a CONNECT that was refused; ``policy`` is what it was judged by."""
        session.requests += 1
        self._metrics.request_decided("deny", denial.reason, denial.rule)
        target = session.head.target if session.head else b""
        self._write(
            events.tunnel_denied(
                reason=denial.reason,
                request_id=denial.request_id,
                rule=denial.rule,
                client=session.address,
                target=target,
                policy_digest=policy.digest if policy else None,
            )
        )

    def refuse_head(self, session: Session, head: RequestHead, policy: Policy | None) -> Denial:
        """Record a head that is refused whatever the policy says; gives its answer."""
        assert head.refusal is not None
        if head.form == "authority" and session.tunnel is None:
            denial = Denial(head.refusal, new_request_id(), method="CONNECT")
            self.deny_tunnel(session, denial)
            return denial
        exchange = Exchange(session, policy, head)
        exchange.refuse(head.refusal)
        session.requests += 1
        self.decide(exchange)
        exchange.finished = True
        return denial_of(exchange)

    def decide(self, exchange: Exchange) -> None:
        """Record the verdict; a line that cannot be written turns an allow into a refusal."""
        if exchange.decided:
            return
        # Made before anything is noted as done: where that fails, the refusal has its own line.
        line = decided_line(exchange, self._audit.redact)
        exchange.decided = True
        exchange.decided_at = time.perf_counter()
        try:
            self._audit.write_line(line)
        except AuditUnavailable:
            exchange.refuse(Reason.AUDIT_UNAVAILABLE)
        verdict, refusal = exchange.verdict, exchange.refusal
        rule = verdict.rule if verdict else None
        if refusal is not None:
            self._metrics.request_decided("deny", refusal, rule)
            self._metrics.credential_violation(exchange.concerned_connection, refusal)
            return
        exchange.forwarded = True
        reason = verdict.reason if verdict else Reason.ALLOWED
        self._metrics.request_decided("allow", reason, rule)
        self._metrics.observe_overhead(exchange.decided_at - exchange.started)
        plan = exchange.plan
        if exchange.swapped and plan is not None and plan.connection and plan.carrier:
            self._metrics.swapped(plan.connection.name, plan.carrier.label)

    def finish(self, exchange: Exchange, status: int | None, reason: Reason | None = None) -> None:
        """Record the end of an allowed request: after its last byte, or where it broke off."""
        if exchange.finished or not exchange.forwarded:
            exchange.finished = True
            return
        now = time.perf_counter()
        line = finished_line(exchange, status=status, reason=reason, now=now)
        exchange.finished = True
        self._audit.write_line_soon(line)
        rule = exchange.verdict.rule if exchange.verdict else None
        connection = exchange.verdict.connection if exchange.verdict else None
        self._metrics.finished(
            rule=rule,
            connection=connection.name if connection else None,
            status=status,
            duration_seconds=now - exchange.started,
            first_byte_seconds=(exchange.first_byte_at or now) - exchange.started,
            bytes_sent=exchange.bytes_sent,
            bytes_received=exchange.bytes_received,
        )
        if exchange.scrubber:
            for name, count in exchange.scrubber.found.items():
                self._metrics.reflected(name, count)

    def _write(self, event: dict[str, object]) -> None:
        # What it tells of is refused already.
        with suppress(AuditUnavailable):
            self._audit.write(event)


class Record:
    """Turns verdicts into audit lines, and refusals into answers; counts bodies as they stream."""

    name = "understudy-record"

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Write the verdict, unless it waits for the body; then let the body stream."""
        exchange = exchange_of(flow)
        if exchange.refusal is None and exchange.outline is not None:
            # What was judged and rewritten, and nothing else, is what goes up.
            exchange.fields = exchange.outline.fill(exchange.head.content_length)
            flow.request.headers.fields = exchange.fields
            flow.request.data.path = exchange.outline.target
        if exchange.inspects_body and exchange.refusal is None:
            return
        self._conclude(flow, exchange)
        if exchange.refusal is None:
            flow.request.stream = _count_sent(exchange)

    def request(self, flow: http.HTTPFlow) -> None:
        """Write the verdict of a request whose body was looked at."""
        exchange = exchange_of(flow)
        exchange.is_sent = True
        if exchange.inspects_body and not exchange.decided:
            exchange.bytes_sent = len(flow.request.raw_content or b"")
            self._conclude(flow, exchange)

    def _conclude(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        self._recorder.decide(exchange)
        if exchange.refusal is not None:
            flow.request.stream = False
            flow.response = denial_of(exchange).response()

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Take the first byte's time, and count the body as it comes."""
        exchange = exchange_of(flow)
        if exchange.refusal is not None or flow.response is None:
            return
        exchange.first_byte_at = time.perf_counter()
        stream = flow.response.stream
        flow.response.stream = _count_received(
            exchange, cast("BodyFilter", stream) if callable(stream) else None
        )

    def response(self, flow: http.HTTPFlow) -> None:
        """Write the finished event after the last byte."""
        exchange = exchange_of(flow)
        status = flow.response.status_code if flow.response is not None else None
        self._recorder.finish(exchange, status, exchange.refusal)

    def error(self, flow: http.HTTPFlow) -> None:
        """Write how an allowed request broke off; mitmproxy's text stays inside."""
        exchange = find_exchange(flow)
        if exchange is None:
            return
        if not exchange.decided:
            exchange.refuse(Reason.CLIENT_CLOSED)
            self._recorder.decide(exchange)
        if flow.error is not None and flow.error.msg == CLIENT_DISCONNECTED:
            exchange.refuse(Reason.CLIENT_CLOSED)
        exchange.refuse(
            Reason.UPSTREAM_FAILED, describe_failure(flow.error.msg if flow.error else "")
        )
        # An answer whose head never went on to the client is ours, whatever it said.
        answered = flow.response is not None and exchange.first_byte_at > 0
        status = flow.response.status_code if answered and flow.response else None
        self._recorder.finish(
            exchange, status or denial_of(exchange).reason.status, exchange.refusal
        )


def denial_of(exchange: Exchange) -> Denial:
    """The answer to a refused exchange."""
    assert exchange.refusal is not None
    target, verdict = exchange.target, exchange.verdict
    return Denial(
        exchange.refusal,
        exchange.request_id,
        verdict.rule if verdict and not verdict.allow else None,
        exchange.head.method,
        target.host if target else "This host",
        target.port if target else "this port",
    )


def _count_sent(exchange: Exchange) -> BodyFilter:
    scanner = exchange.scanner

    def count(data: bytes) -> list[bytes]:
        if scanner is not None and scanner.feed(data):
            # The engine ends the request here; what went up before is a body without its end.
            exchange.refuse(Reason.GATEWAY_OVERRIDE_DENIED)
        if exchange.refusal is not None:
            return []
        exchange.bytes_sent += len(data)
        # An empty chunk would be written as the end of a chunked body.
        return [data] if data else []

    return count


def _count_received(exchange: Exchange, scrub: BodyFilter | None) -> BodyFilter:
    def count(data: bytes) -> list[bytes]:
        exchange.bytes_received += len(data)
        if scrub is not None:
            return scrub(data)
        return [data] if data else []

    return count
