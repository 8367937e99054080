"""Placeholders, secrets, and the judgement of which may stand where."""
