"""The dataset card `README.md` beside the tars, as a hub shows it; made from `index.json`. Imports nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["card"]

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER = "10M<n<100M"

_LOADING = """\
## Load

```python
from embedshard import load

for batch in load("{folder}", split="{split}", batch_size=64):
    batch["embeddings"], batch["mask"], batch["text"]
```

Or with plain webdataset; `splits.csv` says which tars belong to which split:

```python
import webdataset as wds

samples = wds.WebDataset("{tar}", shardshuffle=False).decode().to_tuple("npy", "txt", "json")
```
"""


def card(index: Mapping[str, Any]) -> str:
    """Give the card of a folder of shards.

    Args:
        index: The value of its `index.json`.
    """
    provenance = index["provenance"] or {"encoder": {}, "source": {}}
    source, encoder = provenance["source"], provenance["encoder"]
    title = source.get("title") or source.get("name") or "Embedding shards"
    totals, first = index["totals"], index["tars"][0]
    parts = [
        _front_matter(index, title),
        f"# {title}: CLIP embeddings\n",
        f"{totals['samples']} samples, {totals['frames']} frames; arrays (frame_count, {index['embed_dim']}) in "
        f"{index['dtype']}, each with its caption and metadata, in {totals['tars']} tars.\n",
        _table(("split", "tars", "samples", "frames", "bytes"), [_row(*item) for item in totals["splits"].items()]),
        _LOADING.format(folder="path/to/this/folder", split=first["split"], tar=first["name"]),
        "## Encoder\n\n" + _table(("setting", "value"), encoder.items()) if encoder else "",
        "## Source\n\n" + _table(("", ""), [row for row in source.items() if row[1]]) if source else "",
        _left_out(index["left_out"]),
        _failed(index["failed"]),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(index: Mapping[str, Any], title: str) -> str:
    """Give the YAML block; JSON texts are YAML texts, whatever they hold."""
    samples = index["totals"]["samples"]
    size = next((name for limit, name in _SIZES if samples < limit), _LARGER)
    lines = ["---", f"pretty_name: {_quoted(title)}", "size_categories:", f"- {size}", "tags:", "- webdataset"]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in dict.fromkeys(tar["split"] for tar in index["tars"]):
        lines += [f"  - split: {split}", "    path:"]
        lines += [f"    - {tar['name']}" for tar in index["tars"] if tar["split"] == split]
    return "\n".join([*lines, "---", ""])


def _row(split: str, totals: Mapping[str, int]) -> tuple[Any, ...]:
    return split, totals["tars"], totals["samples"], totals["frames"], totals["bytes"]


def _left_out(left_out: Mapping[str, Any]) -> str:
    if not left_out["total"]:
        return ""
    return f"## Left out\n\n{left_out['total']} triples; see `left_out.jsonl`.\n\n" + _table(
        ("reason", "triples"), left_out["reasons"].items()
    )


def _failed(failed: Mapping[str, Any]) -> str:
    if not failed["total"]:
        return ""
    return f"## Failed to encode\n\n{failed['total']} samples of the dataset are not in the tars.\n\n" + _table(
        ("reason", "samples"), failed["reasons"].items()
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.replace("|", "\\|").split())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
