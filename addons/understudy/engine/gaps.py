"""What mitmproxy's engine does not enforce: said at the start, and in docs/architecture.md."""

GAPS = (
    "what a client sends while its upstream is being connected is kept in memory, however much",
    "max_connections_per_upstream is not looked at",
    "head_timeout_seconds does not count part of a TLS record",
    "idle_timeout_seconds counts in whole seconds, and a changed one holds for new connections",
)
