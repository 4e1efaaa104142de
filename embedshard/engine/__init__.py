"""Who runs units: one file per engine, each with `run(units, make_worker, slots)`. Imports nothing of ours."""
