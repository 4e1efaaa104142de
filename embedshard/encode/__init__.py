"""Manifest to triples. May import `frames`, `manifest`, `processed`, `store`, `sample`; only `clip` imports open_clip.

`run.encode` keeps a `ledger` of each processed dataset: what it lacks becomes works (`work`), media by media. A
`pipeline` turns works into outcomes: decode processes (`worker`) send frames through shared memory (`slots`), shrunk
(`preprocess`) or whole, to be shrunk on the device (`resize`); batches of fixed shape are filled across media
(`batch`) and go through the model (`clip`); the rows come back per clip and are written. `devices` runs a pipeline on
each of several GPUs, `estimate` one for some seconds; `profile` tells where the time goes, `text` compares captions.
"""
