"""What operators look at: health, readiness, metrics and status, on an address of its own."""
