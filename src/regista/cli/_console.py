"""Entry of the command line."""

from __future__ import annotations


def main() -> None:
    """Run the ``regista`` command."""
    raise SystemExit("regista: no command yet")
