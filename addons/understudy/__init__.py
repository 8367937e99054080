"""Understudy: a forward proxy that keeps real keys out of AI agents' hands."""

VERSION = "0.1.0"
