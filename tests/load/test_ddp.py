"""Real processes of torch.distributed (gloo), each with DataLoader workers, that train in lockstep."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .shards import write_shards

SCRIPT = """
import json, sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from embedshard import load

def main():
    folder, out, backend, uneven, resume = sys.argv[1:]
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    data = load(folder, batch_size=4, shuffle=8, uneven=uneven, backend=backend)
    if resume != "-":
        data.load_state_dict(json.loads(open(resume).read()))
    loader = DataLoader(data, batch_size=None, num_workers=2)
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    epochs = []
    for epoch in range(2 if resume == "-" else 1):
        keys = []
        for step, batch in enumerate(loader):
            loss = model(batch["embeddings"].float())[batch["mask"]].mean()
            optimizer.zero_grad()
            loss.backward()  # waits for the gradients of the other rank: hangs where one has a batch more
            optimizer.step()
            keys.append(batch["key"])
            if (epoch, step, rank, resume) == (0, 1, 0, "-"):
                open(out + ".state", "w").write(json.dumps(data.state_dict(batches=step + 1)))
        epochs.append(keys)
    open(f"{out}.{rank}", "w").write(json.dumps(epochs))
    distributed.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def run(tmp_path: Path, *words: str) -> list[list[list[list[str]]]]:
    """Run the script as torchrun does, on two ranks; gives for each rank and epoch the keys of its batches."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, tmp_path / "shards", tmp_path / "out", *words]
    ranks = [subprocess.Popen(command, env={**os.environ, **common, "RANK": str(rank)}) for rank in range(2)]
    try:
        assert [rank.wait(timeout=180) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("backend", "uneven"), [("webdataset", "pad"), ("native", "drop")])
def test_two_ranks_share_an_epoch_and_resume_in_its_middle(tmp_path, backend, uneven) -> None:
    expected = write_shards(tmp_path / "shards", tars=3, each=7)
    whole = run(tmp_path, backend, uneven, "-")
    for epoch in range(2):
        batches = [rank[epoch] for rank in whole]
        assert [list(map(len, rank)) for rank in batches[:1]] == [list(map(len, rank)) for rank in batches[1:]]
        keys = sorted(key for rank in batches for batch in rank for key in batch)
        assert set(keys) <= set(expected)
        assert len(keys) == {"pad": 22, "drop": 20}[uneven]
        assert len(set(keys)) == {"pad": 21, "drop": 20}[uneven]
    assert whole[0][0] != whole[0][1]
    resumed = run(tmp_path, backend, uneven, str(tmp_path / "out.state"))
    assert [rank[0] for rank in resumed] == [rank[0][2:] for rank in whole]
