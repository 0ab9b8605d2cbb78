"""Training runs in processes of their own, which can be killed.

Each job (a line of JSON on stdin) is forked from here, so that torch is imported once for all of them. It names what
to train and, if it is to die, when: `die` has its process kill itself at a place in the code, `watch` has this one
send it a signal.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from textsiam.data.pairs import Pairs
from textsiam.inference.lora import LoraConfig
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models.asymmetric import sides
from textsiam.models.learned import PairHead
from textsiam.models.twin import Twin
from textsiam.training.batches.sets import TrainingSet
from textsiam.training.loop import train
from textsiam.training.losses import LOSSES, BatchTripletLoss, ContrastiveLoss, HeadLoss, InfoNCELoss
from textsiam.training.losses.memory_bank import Memory
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded, Term
from textsiam.training.settings import EpochMining, Settings

TOPICS = [
    "bread",
    "cactus",
    "tyre",
    "dog",
    "mountain",
    "swim",
    "sky",
    "sleep",
    "visa",
    "wine",
    "guitar",
    "egg",
]
NOISE = ["how", "why", "please", "best", "way", "today", "old", "new", "good", "cheap", "fast", "again"]


def keyword_pairs(count: int = 48, *, seed: int = 0) -> Pairs:
    """Questions of a topic word among noise words; the same topic word makes a duplicate."""
    rng = random.Random(seed)
    left, right, labels = [], [], []
    for row in range(count):
        topics = rng.sample(TOPICS, 2)
        same = row % 2 == 0
        for side, topic in ((left, topics[0]), (right, topics[0] if same else topics[1])):
            words = [topic, *rng.sample(NOISE, rng.randint(2, 4))]
            rng.shuffle(words)
            side.append(" ".join(words))
        labels.append(int(same))
    return Pairs.from_texts(left, right, labels, source=f"keywords-{seed}")


def small_twin(*, dropout: float = 0.1, half: bool = False, share: Any = None) -> Twin:
    """A random twin of 16 dimensions; `share` gives it a right tower with another prompt and these shared layers."""
    if share is not None:
        return Twin(*sides(_tower(dropout, 0), right_prompt="best ", shared_layers=share)).eval()
    twin = Twin(*(_tower(dropout, seed) for seed in range(2 if half else 1)))
    return twin.eval()


def _tower(dropout: float, seed: int) -> Any:
    tower = scratch_text_encoder(
        [*TOPICS, *NOISE],
        vocabulary=200,
        hidden=16,
        layers=1,
        heads=2,
        max_tokens=16,
        seed=seed,
        device="cpu",
    )
    for module in tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return tower


class Head(nn.Module):
    """A loss with weights of its own: a classifier over `u·v` and `|u - v|`."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.classify = nn.Linear(2 * dim, 1)

    def forward(self, batch: Embedded) -> torch.Tensor:
        features = torch.cat([batch.u * batch.v, (batch.u - batch.v).abs()], 1)
        logits = self.classify(features)[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.float())


@dataclass(frozen=True)
class Classified(Term):
    """`Head` as a term."""

    def build(self, dim: int) -> Head:
        return Head(dim)

    def __call__(self, batch: Embedded, head: Head) -> torch.Tensor:
        return head(batch)


@dataclass(frozen=True)
class Called(Term):
    """Any function of a batch as a term."""

    loss: object = None

    def __call__(self, batch: Embedded) -> torch.Tensor:
        return self.loss(batch)


def pair_head(*, dropout: float = 0.1) -> PairHead:
    """A small head for the twin, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return PairHead(16, hidden=8, dropout=dropout)


TERMS: dict[str, Term] = {
    **{name: term() for name, term in LOSSES.items() if name != "head"},
    **{f"batch_{m}": BatchTripletLoss(mining=m) for m in ("all", "hard", "semi_hard", "easy", "random")},
    "batch_distance_weighted": BatchTripletLoss(mining="distance_weighted"),
    "debiased_triplet": BatchTripletLoss(balance=1.0),
    "squared": ContrastiveLoss(form="squared_margin", margin=0.9),
    "info_nce_hard": InfoNCELoss(hard_negatives=True),
    "head": Classified(),
    "pair_head": HeadLoss(),
}


def build_objective(names: list[str], head: PairHead | None = None) -> Objective:
    """An objective of the named terms, of different weights; "memory" and "matryoshka" are no terms."""
    places = enumerate(name for name in names if name not in ("memory", "matryoshka"))
    return Objective(
        {name: replace(TERMS[name], weight=1.0 / (1 + place)) for place, name in places},
        head=(head or pair_head()) if "pair_head" in names else None,
        memory=Memory(12) if "memory" in names else None,
        widths={16: 1.0, 8: 0.5} if "matryoshka" in names else None,
    )


def further_set(
    losses: list[str], *, weight: float = 1.0, graded: bool = False, count: int = 20, seed: int = 200, head: Any = None
) -> TrainingSet:
    """A set beside the first, labelled or graded."""
    pairs = keyword_pairs(count, seed=seed)
    grades = np.random.default_rng(seed).random(count) if graded else None
    return TrainingSet(pairs, build_objective(losses, head), weight, grades)


def make_settings(*, mine: dict[str, Any] | None = None, **knobs: Any) -> Settings:
    """Settings without a tracker, in fp32; `mine` as plain values."""
    mining = None if mine is None else EpochMining(**mine)
    return Settings(**{"tracker": "none", "precision": "fp32", "mine": mining, **knobs})


def run_job(job: dict[str, Any]) -> None:
    """Train as the job says, and save what came of it."""
    gradients: list[list[torch.Tensor]] = []
    if job.get("gradients"):
        record_gradients(gradients)
    if job.get("fsdp"):
        shard_on_cpu()
    if "file_limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], resource.RLIM_INFINITY))
    if "die" in job:
        global loop_output
        loop_output = job["output"]
        arm(**job["die"])
    scored = count_validations()
    left_over = wrappers_at_the_end()
    twin = small_twin(dropout=job.get("dropout", 0.1), half=job.get("half", False), share=job.get("share"))
    if "lora" in job:
        twin.lora = LoraConfig(**job["lora"])
    if "pair_head" in job["losses"]:
        twin.head = pair_head(dropout=job.get("dropout", 0.1))
    objective = build_objective(job["losses"], twin.head)
    result = train(
        twin,
        keyword_pairs(job.get("pairs", 48), seed=job.get("data_seed", 0)),
        objective,
        output=job["output"],
        settings=make_settings(**job["settings"]),
        validation=keyword_pairs(24, seed=100) if job.get("validate", True) else None,
        resume=job.get("resume", False),
        more=[further_set(**each, seed=200 + place, head=twin.head) for place, each in enumerate(job.get("more", []))],
        quiet=True,
    )
    rank = int(os.environ.get("RANK", "0"))
    facts = {
        "steps": result.steps, "best_step": result.best_step, "interrupted": result.interrupted, "scored": len(scored),
        "left_over": left_over,
    }  # fmt: skip
    torch.save(
        {
            "twin": twin.state_dict(),
            "objective": {k: v.clone() for k, v in objective.state_dict().items()},
            "gradients": gradients,
            "history": result.history,
            "facts": facts,
        },
        f"{job['save']}.{rank}",
    )
    if result.interrupted:
        os._exit(130)


def shard_on_cpu() -> None:
    """Have Accelerate shard the model (FSDP2) on CPUs, which it would do on accelerators only; torch itself can."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }  # fmt: skip
    start = PartialState.__init__

    def pretending(self: PartialState, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_XPU

    PartialState.__init__ = pretending


def record_gradients(into: list[list[torch.Tensor]]) -> None:
    """Note every gradient that the optimizer is given, step by step."""
    step = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        into.append([p.grad.clone() for g in self.param_groups for p in g["params"] if p.grad is not None])
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = noting


def wrappers_at_the_end() -> list[str]:
    """Note which distributed wrappers are still alive when the process group is destroyed."""
    import gc

    from torch.nn.parallel import DistributedDataParallel

    seen: list[str] = []
    destroy = torch.distributed.destroy_process_group

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.extend(type(o).__name__ for o in gc.get_objects() if isinstance(o, DistributedDataParallel))
        return destroy(*args, **kwargs)

    torch.distributed.destroy_process_group = noting
    return seen


def count_validations() -> list[int]:
    """Note every time that this process scores the validation pairs."""
    from textsiam.training import run

    seen: list[int] = []
    score = run.average_precision_score

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return score(*args, **kwargs)

    run.average_precision_score = noting
    return seen


def arm(*, place: str, count: int, fill: bool = False) -> None:
    """Have this process kill itself the `count`th time that it comes to a place (or fill the disk there)."""
    from accelerate import Accelerator

    from textsiam.training import run

    owner, name, after = {
        "after step": (run.Run, "count", True),
        "during validation": (run, "average_precision_score", False),
        "inside checkpoint": (torch, "save", False),  # some files are written, others not
        "before rename": (Accelerator, "save_state", True),  # all are written, the folder has not its name yet
        "between renames": (Path, "rename", False),  # the old best twin is set aside, the new one is still hidden
    }[place]
    original = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        done = original(*args, **kwargs) if after else None
        counts = place != "between renames" or args[0].name.startswith(".best.")
        count -= counts
        if counts and count == 0:
            fill_disk(Path(loop_output)) if fill else os.kill(os.getpid(), signal.SIGKILL)
        return done if after else original(*args, **kwargs)

    setattr(owner, name, deadly)


loop_output = "."


def fill_disk(folder: Path) -> None:
    """Write until nothing more fits."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 9, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def start(job: dict[str, Any]) -> list[int]:
    """Fork the process(es) of a job."""
    world = job.get("world", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        pid = os.fork()
        if pid:
            children.append(pid)
            continue
        status = 1
        try:
            if world > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                    "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                    "ACCELERATE_USE_CPU": "true",
                }  # fmt: skip
            run_job(job)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if os.environ.get("TEXTSIAM_TRACEBACK"):
                import traceback

                traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return children


def watch(children: list[int], job: dict[str, Any], *, patience: float = 120) -> list[int]:
    """Wait for the processes; send them `watch["signal"]` once `watch["path"]` (a pattern) exists."""
    wanted = job.get("watch")
    statuses: dict[int, int] = {}
    end = time.monotonic() + patience
    while len(statuses) < len(children):
        if wanted and any(Path(job["output"]).glob(wanted["path"])):
            for child in children:
                os.kill(child, wanted["signal"])
            wanted = None
        for child in children:
            if child not in statuses:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    statuses[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for child in children:
                if child not in statuses:
                    os.kill(child, signal.SIGKILL)
            wanted, end = None, time.monotonic() + 10
        time.sleep(0.002)
    return [statuses[child] for child in children]


def main() -> None:
    """Run jobs that come as lines of JSON, one after the other, and answer each with its exit statuses."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(watch(start(job), job)), flush=True)


if __name__ == "__main__":
    main()
