"""The admin pages: ``/healthz``, ``/readyz``, ``/metrics`` and ``/status``.

They listen on an address of their own and are never reachable through the proxy. They only read:
nothing here changes the proxy.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST

from understudy.admin.listening import bind, bound_address, remove_socket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from understudy.admin.listening import Address
    from understudy.admin.metrics import Metrics
    from understudy.admin.status import Status
    from understudy.credentials.secret import Secret

OPEN_PAGES = frozenset({"/healthz", "/readyz"})
"""Probes need these, so they ask for no token and no Host, and tell little."""
SHUTDOWN_SECONDS = 1.0
MAX_LINE_BYTES = 4096


class AdminServer:
    """Serves the admin pages: make, ``await start()``, ``await close()``.

    With a ``token`` all pages but the open ones want ``Authorization: Bearer``. Without the right
    token they answer only to Hosts that are an IP address, ``localhost``, the name listened on or
    one of ``names``: a web page cannot reach them by pointing its own domain here (DNS rebinding).
    """

    def __init__(
        self,
        status: Status,
        metrics: Metrics,
        address: Address,
        *,
        token: Secret | str | None = None,
        names: Collection[str] = (),
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._address = address
        self._token = token
        self._names = {"localhost", *(name.lower() for name in names)}
        if isinstance(address, tuple):
            self._names.add(address[0].lower())
        self._runner: web.AppRunner | None = None
        self._socket_inode: int | None = None

    async def start(self) -> Address:
        """Listen, and give the address with the real port; raises ListenError."""
        listener = bind(self._address)
        self._address = bound_address(listener)
        if isinstance(self._address, Path):
            self._socket_inode = self._address.stat().st_ino
        self._runner = web.AppRunner(
            self._make_app(),
            access_log=None,
            logger=_LOGGER,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        return self._address

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if isinstance(self._address, Path):
            remove_socket(self._address, self._socket_inode)

    def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_say_less)
        # add_get answers HEAD too; every other method gets 405.
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render_metrics)
        app.router.add_get("/status", self._report)
        return app

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if request.path not in OPEN_PAGES:
            if self._token is not None:
                if not self._shows_token(request):
                    return _json({"error": "The admin token is needed."}, 401, _CHALLENGE)
            elif not self._is_own_host(request.host):
                return _json({"error": "Use the address or localhost as the Host."}, 421)
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _json({"error": error.reason}, error.status, allow)

    def _shows_token(self, request: web.Request) -> bool:
        assert self._token is not None
        token = self._token if isinstance(self._token, str) else self._token.reveal()
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(_to_bytes(shown.strip()), _to_bytes(token))
        return same and scheme.lower() == "bearer"

    def _is_own_host(self, host: str) -> bool:
        if isinstance(self._address, Path):
            return True  # no browser gets here
        name = host.lower().removesuffix(".")
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0].removesuffix(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        await self._status.look()
        reasons = list(self._status.not_ready())
        if reasons:
            return _json({"status": "not ready", "reasons": reasons}, 503)
        return _json({"status": "ready"})

    async def _render_metrics(self, _: web.Request) -> web.Response:
        await self._status.look()
        policy = self._status.report().policy
        if policy is not None:
            self._metrics.set_secret_ages(
                {one.name: one.secret_age_seconds for one in policy.connections if one.secret}
            )
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _report(self, _: web.Request) -> web.Response:
        await self._status.look()
        return _json(asdict(self._status.report()))


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Whether a record is worth reading: not where a client sent what is not HTTP."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger(__name__)
_LOGGER.addFilter(_is_our_fault)
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="understudy"'}


async def _say_less(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _json(
    content: dict[str, object], status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    text = json.dumps(content, indent=2, default=_to_json) + "\n"
    return web.json_response(text=text, status=status, headers=headers)


def _to_json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
