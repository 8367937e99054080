"""Below the hooks: mitmproxy's HTTP/1 connections are replaced by ours.

mitmproxy's HTTP/1 layers repair odd heads, hold headers of any size, crash on chunked trailers,
take an upstream's 1xx for the final response, and write an error page with their version and the
upstream's address. No hook runs in any of these cases, so they are handled here, in subclasses
that :func:`install` puts in their place. Each is pinned by a test against the locked version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mitmproxy.proxy.layers.http as http_layers
from mitmproxy import http

from understudy.engine.http1_client import ClientSide
from understudy.engine.http1_upstream import UpstreamSide

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.policy.model import Policy
    from understudy.stages.exchange import Sessions
    from understudy.stages.record import Recorder


def install(sessions: Sessions, recorder: Recorder, policy: Callable[[], Policy | None]) -> None:
    """Make mitmproxy's HTTP layer build these connections from now on."""

    class BoundServer(ClientSide):
        _sessions = sessions
        _recorder = recorder
        _policy = staticmethod(policy)

    class BoundClient(UpstreamSide):
        _sessions = sessions
        _policy = staticmethod(policy)

    # Checks the type of every field of every message it makes: a twelfth of a request's time.
    http.MessageData.__post_init__ = lambda _: None  # type: ignore[method-assign] # the patch itself
    http_layers.Http1Server = BoundServer  # type: ignore[misc] # the patch itself
    http_layers.Http1Client = BoundClient  # type: ignore[misc] # the patch itself
