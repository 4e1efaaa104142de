from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from embedshard.encode.parts import encode_in_parts
from embedshard.encode.run import encode
from embedshard.encode.status import status
from embedshard.encode.units import UnitFolder
from embedshard.engine.local import run as local
from embedshard.errors import InputError
from tests.encode.test_parts import ONE, model, rows  # noqa: F401
from tests.encode.test_run import OPTIONS


def test_counts_add_up_at_every_moment(tmp_path, model, rows):  # noqa: F811
    out, seen = tmp_path / "out", []

    def watched(units: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        for unit, outcome in local(units, make_worker, 1):
            seen.append(status(out))
            yield unit, outcome

    encode_in_parts(rows, {out: model}, OPTIONS, replace(ONE, engine=watched))
    for number, found in enumerate(seen[:-1]):
        assert found.done > number
        assert found.units == len(seen)
        assert found.encoded + found.failed <= found.samples == 18
    assert any(found.running and found.left is not None and found.left > 0 for found in seen[:-1])
    last = status(out)
    assert (last.done, last.running, last.abandoned, last.left) == (last.units, {}, 0, None)
    assert (last.encoded, last.failed, sum(last.reasons.values())) == (16, 2, 2)


def test_a_unit_whose_process_is_gone_is_abandoned(tmp_path, model, rows):  # noqa: F811
    out = tmp_path / "out"
    encode_in_parts(rows, {out: model}, OPTIONS, replace(ONE, part=1, of=2))
    UnitFolder(out).claim(1)
    assert status(out).running.keys() == {1}
    claim = out / "units/000001.claim"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim.write_text(json.dumps({**json.loads(claim.read_bytes()), "pid": ended.pid}))
    found = status(out)
    assert (found.running, found.abandoned, found.left) == ({}, 1, None)


def test_loose_triples_have_no_units(tmp_path, encoder, rows):  # noqa: F811
    encode(rows, tmp_path / "loose", encoder, OPTIONS)
    with pytest.raises(InputError, match="expected a dataset in parts"):
        status(tmp_path / "loose")
