"""Puts `tests/` on the path, so that tests of any package can build synthetic records."""
