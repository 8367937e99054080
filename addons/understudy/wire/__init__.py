"""HTTP/1.1 as bytes: pure checks of what a client wrote, before any parser repairs it."""
