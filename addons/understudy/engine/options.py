"""mitmproxy's options: fixed here, asserted at boot, none of them a user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mitmproxy.options import Options

FIXED: dict[str, object] = {
    "add_upstream_certs_to_client_chain": False,
    "allow_hosts": [],
    "body_size_limit": None,
    # eager would dial at CONNECT, before any decision
    "connection_strategy": "lazy",
    "http2": False,
    "http2_ping_keepalive": 0,
    "http3": False,
    "ignore_hosts": [],
    "normalize_outbound_headers": True,
    # anything that is not HTTP would become a raw tunnel
    "rawtcp": False,
    "ssl_insecure": False,
    "store_streamed_bodies": False,
    # with a size here the `request` hook would run after the headers left
    "stream_large_bodies": None,
    "tcp_hosts": [],
    "udp_hosts": [],
    "upstream_cert": False,
    "validate_inbound_headers": True,
    "websocket": False,
}


def fix_options(options: Options, *, listen_host: str, listen_port: int, confdir: Path) -> None:
    """Set every option that matters; call it after the addons have registered theirs."""
    options.update(
        **FIXED,
        mode=[f"regular@{_bracket(listen_host)}:{listen_port}"],
        confdir=str(confdir),
    )
    assert_options(options)


def assert_options(options: Options) -> None:
    """Refuse to run where an option is not what the code relies on; RuntimeError names it."""
    for name, value in FIXED.items():
        found = getattr(options, name)
        if found != value:
            raise RuntimeError(f"mitmproxy option {name} is {found!r}, expected {value!r}")
    if len(options.mode) != 1 or not options.mode[0].startswith("regular@"):
        raise RuntimeError(f"mitmproxy option mode is {options.mode!r}, expected one regular mode")


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
