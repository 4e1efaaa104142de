"""Shards to batches."""


def load() -> None:
    """Replaced by the load room."""
