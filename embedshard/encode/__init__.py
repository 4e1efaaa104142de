"""Manifest to triples. May import `frames`, `manifest`, `processed`, `store`, `sample`; only `clip` imports open_clip.

`run.encode` drives it: decode workers (`worker`) send shrunk frames (`preprocess`), batches of fixed shape are filled
across media (`batch`) and go through the model (`clip`); the rows come back per clip and are written as triples.
"""
