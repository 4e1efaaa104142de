"""Triples to tar shards. May import `processed`, `sample`, `store`, `distinct`, `engine`, `tar`, `errors`."""
