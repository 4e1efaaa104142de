"""embedshard: a raw video-text or image-text dataset becomes CLIP-embedding shards that a training job streams."""

from embedshard.load import load, open

__all__ = ["__version__", "load", "open"]

__version__ = "0.1.0"
