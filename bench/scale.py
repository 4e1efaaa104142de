"""Simulates encoding and sharding 10 million and 1 billion samples on 1 to 1000 workers, from measured unit costs.

    python bench/scale.py [--quick] [--json FILE] [--samples N ...] [--workers N ...] [--worker-mtbf HOURS] ...

A discrete-event simulation: units of 1000 samples are handed to workers two at a time; how long one takes is drawn,
with stragglers; workers die, nodes of 8 workers die together, and what they had in flight is handed out again. A
worker is a GPU with its cores. The CPU time of a clip is that of results/encode.json (10 s, 340x256, 10 frames, on a
device of endless speed); writing parts, sharding and sizes are measured here, with triples of (10, 512) float16. How
often what dies is assumed. A node that is lost costs what it has in flight; where a run lost none, that is reckoned.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measure import machine, parser, write

from embedshard.processed import DatasetInfo, json_bytes, npy_bytes, part_name, write_info
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
from embedshard.tar import write_members

NODE, IN_FLIGHT, UNIT, SHARD = 8, 2, 1000, 10_000
DIM, FRAMES, BLOCK = 512, 10, 4096
ENCODE = Path(__file__).parent / "results/encode.json"
FINISH, DEATH, NODE_DEATH = range(3)
HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Measured: seconds of one core a sample, and bytes a sample.

    `look` and `pack` are what the workers of `shard` share, `sort` what one process does.
    """

    decode: float
    part: float
    look: float
    sort: float
    pack: float
    part_bytes: float
    shard_bytes: float
    loose_bytes: float


@dataclass(frozen=True)
class Cluster:
    """Who works, how evenly, and how often what dies; a mean time of 0 means never.

    `unit` is the mean of a unit's seconds on one worker; a straggler takes `straggle` times as long as another.
    """

    workers: int
    unit: float
    spread: float = 0.25
    stragglers: float = 0.01
    straggle: float = 5.0
    worker_mtbf: float = 0.0
    node_mtbf: float = 0.0
    restart: float = 120.0


@dataclass
class Outcome:
    """What a run took: seconds by the clock, of work that counts and of work that was lost, and who died."""

    seconds: float = 0.0
    worked: float = 0.0
    lost: float = 0.0
    units: int = 0
    handed_again: int = 0
    worker_deaths: int = 0
    node_deaths: int = 0
    lost_with_nodes: float = 0.0
    handed_again_with_nodes: int = 0


class Simulation:
    """A run of units; memory grows with the workers and the void events of the dead, not with the units."""

    def __init__(self, units: int, cluster: Cluster, seed: int = 0) -> None:
        self._left, self._cluster, self._random = units, cluster, random.Random(seed)
        self._held = [0] * cluster.workers  # units in flight
        self._begun = [0.0] * cluster.workers  # when its present unit was begun; later than now while it restarts
        self._turn = [0] * cluster.workers  # a finish of an earlier turn is void: the worker died meanwhile
        self._events: list[tuple[float, int, int, int]] = []
        self._mean = 1 + cluster.stragglers * (cluster.straggle - 1)
        self._units = units
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run all units."""
        for worker in range(self._cluster.workers):
            self._next_death(0.0, DEATH, worker, self._cluster.worker_mtbf)
            self._take(0.0, worker, 1)
        for worker in range(min(self._cluster.workers, self._left)):
            self._held[worker] += 1
        self._left = max(0, self._left - self._cluster.workers)
        for node in range(-(-self._cluster.workers // NODE)):
            self._next_death(0.0, NODE_DEATH, node, self._cluster.node_mtbf)
        while self.outcome.units < self._units:
            now, kind, who, turn = heapq.heappop(self._events)
            if kind == FINISH:
                if turn == self._turn[who]:
                    self._finish(now, who)
            elif kind == DEATH:
                self.outcome.worker_deaths += 1
                self._die(now, who)
                self._next_death(now, DEATH, who, self._cluster.worker_mtbf)
            else:
                self._node_death(now, who)
            if kind != FINISH:
                self._share(now)
        self.outcome.seconds = now
        return self.outcome

    def _finish(self, now: float, worker: int) -> None:
        self.outcome.units += 1
        self.outcome.worked += now - self._begun[worker]
        self._held[worker] -= 1
        self._take(now, worker)

    def _take(self, now: float, worker: int, hands: int = IN_FLIGHT) -> None:
        """Fill the worker's hands, and have it begin a unit if it has one."""
        more = min(hands - self._held[worker], self._left)
        self._held[worker] += more
        self._left -= more
        if self._held[worker]:
            self._turn[worker] += 1
            self._begun[worker] = now
            heapq.heappush(self._events, (now + self._duration(), FINISH, worker, self._turn[worker]))

    def _share(self, now: float) -> None:
        """Give what a death set free to workers that have nothing to do, the dead ones last."""
        idle = [worker for worker in range(self._cluster.workers) if self._left and not self._held[worker]]
        for worker in sorted(idle, key=lambda worker: max(now, self._begun[worker])):
            self._take(max(now, self._begun[worker]), worker)

    def _die(self, now: float, worker: int) -> tuple[int, float]:
        """Take what a worker has in flight from it; gives how many units, and the seconds of work lost."""
        held, lost = self._held[worker], max(0.0, now - self._begun[worker]) if self._held[worker] else 0.0
        self.outcome.handed_again += held
        self.outcome.lost += lost
        self._left += held
        self._held[worker] = 0
        self._turn[worker] += 1
        self._begun[worker] = now + self._cluster.restart
        return held, lost

    def _node_death(self, now: float, node: int) -> None:
        self.outcome.node_deaths += 1
        for worker in range(node * NODE, min((node + 1) * NODE, self._cluster.workers)):
            held, lost = self._die(now, worker)
            self.outcome.handed_again_with_nodes += held
            self.outcome.lost_with_nodes += lost
        self._next_death(now, NODE_DEATH, node, self._cluster.node_mtbf)

    def _next_death(self, now: float, kind: int, who: int, mtbf: float) -> None:
        if mtbf:
            heapq.heappush(self._events, (now + self._random.expovariate(1 / mtbf), kind, who, 0))

    def _duration(self) -> float:
        cluster = self._cluster
        spread = self._random.lognormvariate(-(cluster.spread**2) / 2, cluster.spread) if cluster.spread else 1.0
        slow = cluster.straggle if cluster.stragglers and self._random.random() < cluster.stragglers else 1.0
        return cluster.unit * spread * slow / self._mean


def triples(count: int) -> Iterator[tuple[str, npt.NDArray[np.float16], str, dict[str, Any]]]:
    """Yield made-up triples of the usual shape, with metadata as `encode` writes it."""
    rng = np.random.default_rng(0)
    encoder = {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k", "preprocess": "exact", "dtype": "float16"}
    for number in range(count):
        key, times = f"vid_{number:09d}", [float(k) for k in range(FRAMES)]
        meta: dict[str, Any] = {
            "key": key,
            "source": "bench",
            "split": "train",
            "media": f"videos/{key}.mp4",
            "media_id": key,
        }
        meta |= {"start": None, "end": None, "duration": 10.0, "frame_times": times, "encoder": {**encoder, "fps": 1.0}}
        yield key, rng.normal(size=(FRAMES, DIM)).astype(np.float16), "a person plays the guitar in a room", meta


def measure(count: int, decode: float) -> Costs:
    """Write `count` triples as parts and as shards, by the package's own code, and time both."""
    with tempfile.TemporaryDirectory() as name:
        folder, stages = Path(name), dict[str, float]()
        write_info(folder / "in", DatasetInfo({"embed_dim": DIM}, {"name": "bench"}))
        (folder / "in/train").mkdir()
        members = [
            (f"{key}.{part}", data)
            for key, array, caption, meta in triples(count)
            for part, data in (("json", json_bytes(meta)), ("npy", npy_bytes(array)), ("txt", caption.encode()))
        ]
        loose = sum(-(-len(data) // BLOCK) * BLOCK for _, data in members)
        begun, size = time.process_time(), 0
        for start in range(0, len(members), 3 * UNIT):
            with (folder / "in/train" / part_name(start)).open("wb") as part:
                size += write_members(part, members[start : start + 3 * UNIT])[0]
                os.fsync(part.fileno())
        part_seconds = time.process_time() - begun
        marks: list[tuple[str, float]] = []
        report = shard(
            folder / "in",
            folder / "out",
            ShardOptions(),
            lambda done: None,
            lambda stage, total: marks.append((stage, time.process_time())),
        )
        marks.append(("", time.process_time()))
    for (stage, at), (_, until) in pairwise(marks):
        stages[stage] = until - at
    look, sort, pack = (stages[stage] / count for stage in ("planning", "sorting", "packing"))
    return Costs(decode, part_seconds / count, look, sort, pack, size / count, report.bytes / count, loose / count)


def decode_seconds() -> float:
    """Give the CPU seconds of a clip from its file to triples where the model takes no time, as measured last."""
    found = json.loads(ENCODE.read_text())
    took = statistics.median(float(took["cpu"]) for took in found["long_rounds"]["free device"])
    return took / (4 * int(found["clips"]))


def cluster_of(arguments: argparse.Namespace, costs: Costs, workers: int) -> Cluster:
    """Give the cluster that the options describe."""
    sample = (costs.decode + costs.part) / arguments.cores
    if arguments.gpu_frames:
        sample = max(sample, FRAMES / arguments.gpu_frames)
    return Cluster(
        workers,
        UNIT * sample,
        arguments.spread,
        arguments.stragglers,
        arguments.straggle,
        arguments.worker_mtbf * HOUR,
        arguments.node_mtbf * HOUR,
        arguments.restart,
    )


def row_of(samples: int, cluster: Cluster, costs: Costs, seed: int) -> dict[str, Any]:
    """Simulate one run; gives the row of the table."""
    outcome = Simulation(-(-samples // UNIT), cluster, seed).run()
    nodes, size = outcome.node_deaths, min(cluster.workers, NODE)
    return {
        "samples": samples,
        "workers": cluster.workers,
        "hours": outcome.seconds / HOUR,
        "gpu_hours": outcome.seconds * cluster.workers / HOUR,
        "of_ideal": outcome.units * cluster.unit / cluster.workers / outcome.seconds,
        "samples_again": outcome.handed_again * UNIT,
        "node_deaths": nodes,
        "node_samples": UNIT * (outcome.handed_again_with_nodes / nodes if nodes else size * IN_FLIGHT),
        "node_gpu_minutes": (outcome.lost_with_nodes / nodes if nodes else size * cluster.unit / 2) / 60,
        "node_restart_minutes": size * cluster.restart / 60,
        "shard_hours": samples * (costs.sort + (costs.look + costs.pack) / cluster.workers) / HOUR,
        "outcome": asdict(outcome),
    }


def sizes_of(samples: int, costs: Costs) -> dict[str, Any]:
    """Give what a dataset takes on disk, loose, as parts and as shards."""
    units, shards = -(-samples // UNIT), -(-samples // SHARD)
    return {
        "samples": samples,
        "files": {"loose": 3 * samples, "parts": units, "shards": 2 * shards + 4},
        "bytes": {
            "loose": costs.loose_bytes * samples,
            "parts": costs.part_bytes * samples,
            "shards": costs.shard_bytes * samples,
        },
    }


def span(hours: float) -> str:
    """Give a time in words."""
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def show(sizes: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Print both tables as Markdown."""
    print("\n| samples | loose | parts | shards |\n| --- | --- | --- | --- |")
    for size in sizes:
        files, count = size["files"], size["bytes"]
        cells = (f"{files[form]} files, {count[form] / 1e9:.0f} GB" for form in files)
        print(f"| {millions(size['samples'])} | {' | '.join(cells)} |")
    head = "samples,workers,time,GPU-hours,of ideal,lost nodes,a lost node costs,handed out again,shard"
    print("\n| " + head.replace(",", " | ") + " |\n|" + " --- |" * len(head.split(",")))
    for row in rows:
        minutes = f"{row['node_gpu_minutes']:.1f} + {row['node_restart_minutes']:.0f} GPU-minutes"
        node = f"{row['node_samples']:.0f} samples, {minutes}"
        texts = (
            *(millions(row["samples"]), row["workers"], span(row["hours"]), f"{row['gpu_hours']:.0f}"),
            *(f"{row['of_ideal']:.1%}", row["node_deaths"], node, row["samples_again"], span(row["shard_hours"])),
        )
        print("| " + " | ".join(map(str, texts)) + " |")


def millions(samples: int) -> str:
    """Give a count in millions."""
    return f"{samples / 1e6:g} M"


def options() -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__)
    found.add_argument("--samples", type=int, nargs="+", help="how many; 10 million and 1 billion")
    found.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000], help="GPUs")
    found.add_argument("--cores", type=float, default=8, help="cores that decode for one GPU")
    found.add_argument("--decode", type=float, help="CPU seconds of a clip; as results/encode.json says")
    found.add_argument("--gpu-frames", type=float, default=0, help="frames/s of a GPU; 0: the GPU never waits")
    found.add_argument("--spread", type=float, default=0.25, help="sigma of the log of a unit's time")
    found.add_argument("--stragglers", type=float, default=0.01, help="share of units that take longer")
    found.add_argument("--straggle", type=float, default=5, help="how many times longer")
    found.add_argument("--worker-mtbf", type=float, default=500, help="hours between deaths of a worker; 0: never")
    found.add_argument("--node-mtbf", type=float, default=1000, help="hours between deaths of a node; 0: never")
    found.add_argument("--restart", type=float, default=120, help="seconds until a dead worker works again")
    found.add_argument("--seed", type=int, default=0)
    return found.parse_args()


def main() -> None:
    """Measure, simulate, print."""
    arguments = options()
    costs = measure(2000 if arguments.quick else 10_000, arguments.decode or decode_seconds())
    samples = arguments.samples or ([10_000_000] if arguments.quick else [10_000_000, 1_000_000_000])
    head, worker = machine("numpy"), cluster_of(arguments, costs, 1).unit / UNIT
    print(f"A simulation, from costs measured on {head}, per sample: {costs.decode * 1e3:.1f} ms of a core to encode,")
    print(
        f"{costs.part * 1e6:.0f} us to write to a part; to shard {costs.look * 1e6:.0f} us to look at, "
        f"{costs.sort * 1e6:.0f} to sort, {costs.pack * 1e6:.0f} to pack."
    )
    print(
        f"A worker: {arguments.cores:g} cores, {1 / worker:.0f} samples/s, {FRAMES / worker:.0f} frames/s for its GPU."
    )
    rows = [
        row_of(n, cluster_of(arguments, costs, w), costs, arguments.seed) for n in samples for w in arguments.workers
    ]
    sizes = [sizes_of(count, costs) for count in samples]
    show(sizes, rows)
    given = {name: value for name, value in vars(arguments).items() if name != "json"}
    write(arguments.json, {"machine": head, "options": given, "costs": asdict(costs), "sizes": sizes, "rows": rows})


if __name__ == "__main__":
    main()
