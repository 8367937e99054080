"""The audit log: one valid, bounded, ASCII-escaped JSON line for each thing that happened."""
