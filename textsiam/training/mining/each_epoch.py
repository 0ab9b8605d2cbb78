"""Mining as training goes on: the mined negatives of an epoch, kept with the checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.training.distributed import broadcast
from textsiam.training.mining.offline import cross_encoder_check, mine
from textsiam.training.mining.triplets import check_apart
from textsiam.training.settings import EpochMining


class EpochMiner:
    """Mines negatives for training pairs, and remembers them.

    A run that resumes amid an epoch needs the negatives that its first weights gave; hence they are part of every
    checkpoint.

    Args:
        mining: Which negatives, and how often.
        pairs: n labelled pairs.
        seed: Fixes, with the epoch, whatever is drawn.

    Attributes:
        epoch: For which epoch the negatives were mined; −1 before the first.
        negatives: Negatives of each pair, `(n, k)` int64; −1 = no more.

    Raises:
        ValueError: No pair of duplicates, or all texts are of one cluster.
    """

    def __init__(self, mining: EpochMining, pairs: Pairs, seed: int) -> None:
        check_apart(pairs, cluster_ids(pairs))
        if not pairs.positives:
            raise ValueError(f"{pairs.source}: no pair of duplicates to mine negatives for")
        self.mining, self.pairs, self.seed = mining, pairs, seed
        self.epoch = -1
        self.negatives = torch.full((len(pairs), mining.negatives), -1)
        self._check = None

    @property
    def found(self) -> float:
        """Share of the duplicates for which there is a negative."""
        return float((self.negatives[self.pairs.labels == 1, 0] >= 0).double().mean())

    def due(self, epoch: int) -> bool:
        """Say whether negatives are to be mined before this epoch goes on."""
        return self.epoch != epoch - epoch % self.mining.every

    def mine(self, twin: Twin, epoch: int) -> None:
        """Mine negatives with the weights that the twin has at the beginning of an epoch."""
        if self.mining.check is not None and self._check is None:
            with torch.random.fork_rng():  # a run that resumes opens it at another step, and must draw the same
                self._check = cross_encoder_check(self.mining.check, device=str(twin.left.device))
        triplets = mine(twin, self.pairs, self.mining, check=self._check, seed=[self.seed, epoch])
        self.negatives = torch.from_numpy(triplets.by_pair(self.mining.negatives).astype(np.int64))

    def share(self, accelerator: Accelerator, epoch: int) -> None:
        """Give every process what the main process has mined."""
        self.negatives = broadcast(accelerator, self.negatives).cpu()
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"epoch": self.epoch, "negatives": self.negatives}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epoch, self.negatives = state["epoch"], state["negatives"]
