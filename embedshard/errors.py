"""What a user can mend: bad input, a wrong option, a missing file. Imports nothing of ours; every room may."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Says what was expected, what was found and what to type next; the command line shows it without a trace."""
