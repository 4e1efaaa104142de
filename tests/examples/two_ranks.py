"""What `test_train.py` starts on two ranks by torchrun: `two_ranks.py OUT FOLDER`, OUT being what its fixture made.

Checks run on each rank; the gradients that rank 0 leaves in FOLDER are compared with those of one process there.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/train"))

import ranks
import train
from data import Reading, Texts, batches, read_texts
from loss import contrastive_loss
from model import VideoText
from torch.nn.parallel import DistributedDataParallel

OPTIONS = train.TrainOptions(epochs=3, batch_size=22, seq_len=8, log_every=1, save_every=1)


def gradients(texts: Texts, folder: Path) -> dict[str, torch.Tensor]:
    """Give loss and gradients of the global batch that lies in `folder`: 12 samples, 5 of them rank 0's, 7 rank 1's."""
    batch = torch.load(folder / "batch.pt", weights_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoText("attention", 8, texts.frame_mean, texts.text_mean)
    wrapped = DistributedDataParallel(model) if ranks.count() > 1 else model
    sizes = [5, 7] if ranks.count() > 1 else [12]
    mine = slice(sum(sizes[: ranks.rank()]), sum(sizes[: ranks.rank() + 1]))
    features = wrapped(batch["frames"][mine], batch["mask"][mine], batch["texts"][mine])
    loss = contrastive_loss(features, batch["ids"][mine], sizes)
    loss.backward()
    found = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
    return {"loss": torch.tensor(ranks.mean(loss)), **found}


def check_every_sample_once(out: Path, texts: Texts) -> None:
    reading = Reading(str(out / "shards"), batch_size=22, seq_len=8)
    epochs = []
    for epoch in (0, 1, 0):
        mine = [clip for batch in batches(reading, texts, "train", epoch) for clip in batch.clips]
        shares = ranks.gather_objects(mine)
        assert all(shares), "a rank read nothing"
        numbers = [-(-len(share) // reading.batch_size) for share in shares]
        assert numbers == [5, 4], "expected another number of batches on each rank, which is the hard case"
        assert set(Counter(shares[0] + shares[1]).values()) == {1}
        assert len(shares[0] + shares[1]) == texts.counts["train"]
        epochs.append(shares)
    assert epochs[0] == epochs[2] != epochs[1]


class Stopped(Exception):
    pass


def train_with_a_stop(out: Path, texts: Texts, run: Path, steps: int) -> train.Run:
    """Train, fail within a step after `steps` others, and train again."""
    whole, done = train.contrastive_loss, 0

    def failing(*given):
        nonlocal done
        done += 1
        if done > steps:
            raise Stopped
        return whole(*given)

    train.contrastive_loss = failing
    try:
        train.train(str(out / "shards"), texts, run, OPTIONS, torch.device("cpu"))
        raise AssertionError("it was to be stopped")
    except Stopped:
        pass
    finally:
        train.contrastive_loss = whole
    dist.barrier()  # rank 0 has written its checkpoint
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["batch"] > 0, "expected a stop within an epoch"
    return train.train(str(out / "shards"), texts, run, OPTIONS, torch.device("cpu"))


def check_training(out: Path, texts: Texts, folder: Path) -> None:
    straight = train.train(str(out / "shards"), texts, folder / "straight", OPTIONS, torch.device("cpu"))
    assert straight.samples == OPTIONS.epochs * texts.counts["train"]
    stopped = train_with_a_stop(out, texts, folder / "stopped", steps=6)
    assert stopped.history == straight.history
    weights = [{name: value.tolist() for name, value in run.model.state_dict().items()} for run in (straight, stopped)]
    assert weights[0] == weights[1]
    on_ranks = ranks.gather_objects(weights[0])
    assert on_ranks[0] == on_ranks[1]
    losses = [record["loss"] for record in straight.history if "loss" in record]
    assert losses[-1] < losses[0]


def main() -> None:
    out, folder = map(Path, sys.argv[1:])
    texts = read_texts(out / "texts.npz")
    with ranks.started("cpu"):
        assert ranks.count() == 2
        check_every_sample_once(out, texts)
        check_training(out, texts, folder)
        found = gradients(texts, folder)
        if ranks.rank() == 0:
            torch.save(found, folder / "gradients.pt")


if __name__ == "__main__":
    main()
