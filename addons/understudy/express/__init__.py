"""The default engine: HTTP/1.1 through CONNECT and TLS, and nothing else, driving the same stages.

mitmproxy's own core is general, and pays for it on every byte. This engine reads what agents
speak, builds the same flows and calls the same hooks; no stage knows which engine runs it.
"""
