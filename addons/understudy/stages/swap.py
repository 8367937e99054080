"""Stage 5: the placeholder becomes the secret, whole value, in an allowed carrier only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.credentials.judge import Head, apply
from understudy.credentials.resolver import SecretUnavailable
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mitmproxy import http

    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.credentials.resolver import Resolver
    from understudy.credentials.secret import Secret
    from understudy.stages.exchange import Exchange
    from understudy.wire.outline import Outline


class Swap:
    """Fetches the secret when a plan needs one, and writes it into the request."""

    name = "understudy-swap"

    def __init__(self, resolver: Resolver, placeholders: PlaceholderBook) -> None:
        self._resolver = resolver
        self._placeholders = placeholders

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Apply the plan; only a secret that is not at hand is waited for."""
        exchange = exchange_of(flow)
        plan = exchange.plan
        if exchange.refusal is not None or plan is None or plan.action == "none":
            return None
        if plan.action == "strip" or plan.connection is None:
            self._apply(exchange, None)
            return None
        secret = self._resolver.peek(plan.connection)
        if secret is None:
            return self._fetch_and_apply(exchange)
        self._apply(exchange, secret)
        return None

    async def _fetch_and_apply(self, exchange: Exchange) -> None:
        assert exchange.plan is not None
        assert exchange.plan.connection is not None
        try:
            secret = await self._resolver.resolve(exchange.plan.connection)
        except SecretUnavailable:
            exchange.refuse(Reason.SECRET_UNAVAILABLE)
            return
        self._apply(exchange, secret)

    def _apply(self, exchange: Exchange, secret: Secret | None) -> None:
        plan, outline, routed = exchange.plan, exchange.outline, exchange.routed
        assert plan is not None
        assert outline is not None
        placeholder = (
            self._placeholders.current.get(plan.connection.name) if plan.connection else None
        )
        carrier = routed.carrier if routed else None

        def write() -> tuple[Outline, tuple[tuple[str, str], ...]]:
            before = Head(outline.fields, outline.target)
            after = apply(before, plan, secret, placeholder=placeholder, gateway_carrier=carrier)
            written: tuple[tuple[str, str], ...] = ()
            if secret is not None and plan.carrier is not None:
                written = ((secret.name, (carrier or plan.carrier).label),)
            return outline.changed(after.headers, after.target), written

        basis = (plan, secret, placeholder, carrier)
        exchange.outline, exchange.swapped = outline.once("swap", basis, write)
