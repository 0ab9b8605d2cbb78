"""Which pairs make a batch: as they come, so many of each label, or so many of each cluster (P×K)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings


class Sampler(Protocol):
    """Says which pairs make the batches of an epoch.

    Attributes:
        batch_size: Pairs of a batch, over all processes.
        steps: Batches of an epoch; an incomplete last batch is left out.
    """

    batch_size: int
    steps: int

    def blocks(self, epoch: int, rng: np.random.Generator, mined: np.ndarray | None) -> list[np.ndarray]:
        """Return the pairs of an epoch in blocks `(steps, k)`, of which each batch takes a row.

        Args:
            epoch: Which one.
            rng: Seeded for the epoch.
            mined: Negatives that were mined for each of n pairs, `(n, j)`, −1 = no more; None before any were.

        Returns:
            Indices of pairs; n + i is pair i with its negative on the right.
        """
        ...


def epoch_order(sampler: Sampler, epoch: int, *, seed: int, mined: np.ndarray | None = None) -> np.ndarray:
    """Return the pairs of each batch of an epoch, `(steps, batch_size)`; the same on every call."""
    rng = np.random.default_rng([seed, epoch])
    blocks = sampler.blocks(epoch, rng, mined)
    return blocks[0] if len(blocks) == 1 else rng.permuted(np.concatenate(blocks, axis=1), axis=1)


class Uniform:
    """Each of these pairs at most once an epoch.

    Args:
        rows: Indices of pairs.
        batch_size: Pairs of a batch.
    """

    def __init__(self, rows: np.ndarray, batch_size: int) -> None:
        self.batch_size, self.steps, self._rows = batch_size, len(rows) // batch_size, rows

    def blocks(self, epoch: int, rng: np.random.Generator, mined: np.ndarray | None) -> list[np.ndarray]:
        """Return one block: the pairs, shuffled; see `Sampler.blocks`."""
        return [rng.permutation(self._rows)[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)]


class Balanced:
    """As many pairs of each label in every batch: those of the rarer label come up more often.

    Args:
        labels: Label of each pair, 1 or 0, `(n,)`.
        duplicates: Pairs of label 1 in a batch.
        others: Pairs of label 0 in a batch.
        seed: Fixes their order.
    """

    def __init__(self, labels: np.ndarray, duplicates: int, others: int, *, seed: int) -> None:
        self.batch_size = duplicates + others
        self.steps = len(labels) // self.batch_size
        self._labels, self._counts, self._seed = labels, {1: duplicates, 0: others}, seed

    def blocks(self, epoch: int, rng: np.random.Generator, mined: np.ndarray | None) -> list[np.ndarray]:
        """Return a block for each label; see `Sampler.blocks`."""
        return [
            labelled(self._labels, label, self.steps * count, epoch, self._seed).reshape(self.steps, count)
            for label, count in self._counts.items()
        ]


class PerCluster:
    """P×K batches (Hermans et al. 2017): each of P clusters brings K inputs, as K/2 pairs of duplicates.

    A round takes one group of K/2 pairs of every cluster that has one left, in random order, and is cut into batches:
    so no cluster comes twice in a batch, and clusters with many pairs come up more often over an epoch. Where clusters
    have families, those of one follow each other, and so are hard negatives of one batch.

    Args:
        pairs: Their duplicates are used.
        batch_size: Pairs of a batch, P · K/2.
        per_cluster: Inputs that each cluster brings, K; even.

    Raises:
        ValueError: K is odd or does not divide a batch, or there are not P clusters of K/2 pairs.
    """

    def __init__(self, pairs: Pairs, batch_size: int, per_cluster: int) -> None:
        self.batch_size, self._size = batch_size, _pairs_of_a_cluster(batch_size, per_cluster)
        rows = np.flatnonzero(pairs.labels == 1)
        owner = cluster_ids(pairs)[pairs.left[rows]]
        order = np.argsort(owner, kind="stable")
        _, counts = np.unique(owner, return_counts=True)
        members = np.split(rows[order], np.cumsum(counts)[:-1]) if len(rows) else []
        self._members = [each for each in members if len(each) >= self._size]
        self._families = None if pairs.families is None else pairs.families[pairs.left]
        self._clusters = batch_size // self._size
        groups = np.array([len(each) // self._size for each in self._members], np.int64)
        rounds = [int((groups > turn).sum()) for turn in range(groups.max(initial=0))]
        self.steps = sum(count // self._clusters for count in rounds)
        if not self.steps:
            raise ValueError(
                f"{pairs.source}: a batch of {batch_size} pairs needs {self._clusters} clusters of {self._size} or "
                f"more pairs each, there are {len(self._members)}: lower batch_size, or raise per_cluster"
            )

    def blocks(self, epoch: int, rng: np.random.Generator, mined: np.ndarray | None) -> list[np.ndarray]:
        """Return one block: the groups of each round; see `Sampler.blocks`."""
        cut = [self._cut(rng.permutation(each)) for each in self._members]
        batches = []
        for turn in range(max(map(len, cut))):
            groups = np.stack([each[turn] for each in cut if len(each) > turn])
            full = len(groups) // self._clusters * self._clusters
            batches.append(self._mixed(groups, rng)[:full].reshape(-1, self.batch_size))
        return [np.concatenate(batches)]

    def _mixed(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return groups of pairs (g, K/2) in random order; those of a family stay together."""
        mixed = rng.permutation(groups)
        if self._families is None:
            return mixed
        _, first, family = np.unique(self._families[mixed[:, 0]], return_index=True, return_inverse=True)
        return mixed[np.argsort(first[family], kind="stable")]

    def _cut(self, rows: np.ndarray) -> np.ndarray:
        return rows[: len(rows) // self._size * self._size].reshape(-1, self._size)


class WithMined:
    """The pairs of another sampler, and in every batch duplicates that have their negative on the right.

    Args:
        base: What the rest of a batch is made of.
        labels: Label of each pair, `(n,)`.
        count: Pairs with a negative in a batch; those with a mined one are taken, where there are any.
    """

    def __init__(self, base: Sampler, labels: np.ndarray, count: int) -> None:
        self.batch_size, self.steps = base.batch_size + count, base.steps
        self._base, self._labels, self._count = base, labels, count

    def blocks(self, epoch: int, rng: np.random.Generator, mined: np.ndarray | None) -> list[np.ndarray]:
        """Return the blocks of the base, and one of pairs with negatives; see `Sampler.blocks`."""
        blocks, count = self._base.blocks(epoch, rng, mined), self.steps * self._count
        rows = np.flatnonzero(self._labels == 1)
        if mined is not None and (mined[rows, 0] >= 0).any():
            rows = rows[mined[rows, 0] >= 0]
        laps = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
        return [*blocks, (len(self._labels) + np.concatenate(laps)[:count]).reshape(self.steps, self._count)]


def check_batches(settings: Settings, objective: Objective, *, world: int = 1) -> None:
    """Check what can be said of the batches of a run before there are pairs; see `make_sampler`.

    Raises:
        ValueError: A batch cannot be shared or divided as the settings say, or nothing reads what is mined.
    """
    size, mine = settings.batch_size // settings.gradient_accumulation_steps, settings.mine
    if size % world:
        raise ValueError(f"batch_size {size} cannot be shared equally by {world} processes")
    if mine is not None and not (objective.needs_negatives or mine.as_pairs):
        raise ValueError("mine: no loss of this run reads negatives; set as_pairs, or name a loss of triplets")
    if settings.per_cluster is not None:
        shares = settings.duplicate_share and not objective.positives_only, mine and mine.as_pairs
        if objective.needs_negatives or any(shares):
            raise ValueError("per_cluster makes batches of duplicates: it goes without negatives and shares")
        _pairs_of_a_cluster(size, settings.per_cluster)


def _pairs_of_a_cluster(batch_size: int, per_cluster: int) -> int:
    """Return the pairs that a cluster brings into a batch: half of its inputs."""
    if per_cluster < 2 or per_cluster % 2:
        raise ValueError(f"per_cluster must be an even number >= 2, got {per_cluster}")
    if batch_size % (per_cluster // 2):
        raise ValueError(f"batch_size {batch_size} is not a multiple of {per_cluster // 2}, the pairs of a cluster")
    return per_cluster // 2


def make_sampler(pairs: Pairs, settings: Settings, objective: Objective, *, world: int = 1) -> Sampler:
    """Return the sampler that settings ask for.

    Args:
        pairs: Labelled pairs.
        settings: `batch_size`, `gradient_accumulation_steps`, `duplicate_share`, `per_cluster`, `mine` and `seed`
            are read.
        objective: Says whether its losses read pairs that are no duplicates, and negatives.
        world: Processes that share each batch equally.

    Raises:
        ValueError: No pair to train on, or a batch cannot be shared equally, or not divided as the settings say, or an
            epoch has no step.
    """
    size, source = settings.batch_size // settings.gradient_accumulation_steps, pairs.source
    rows = usable_rows(pairs, objective)
    check_batches(settings, objective, world=world)
    if (pairs.labels < 0).any():
        raise ValueError(f"{source}: training needs labelled pairs")
    if len(rows) == 0:
        raise ValueError(f"{source}: no pairs to train on")
    if len(rows) < world:
        raise ValueError(f"{source}: {len(rows)} pairs cannot be shared by {world} processes")
    if settings.per_cluster is None:
        sampler = _mixed(pairs, rows, min(size, len(rows) // world * world), settings, objective)
    else:
        sampler = PerCluster(pairs, size, settings.per_cluster)
    if sampler.steps < settings.gradient_accumulation_steps:
        raise ValueError(
            f"{source}: {len(rows)} pairs make {sampler.steps} batches of {sampler.batch_size}, fewer than "
            f"gradient_accumulation_steps {settings.gradient_accumulation_steps}: lower it"
        )
    return sampler


def _mixed(pairs: Pairs, rows: np.ndarray, size: int, settings: Settings, objective: Objective) -> Sampler:
    """Return a sampler of batches of so many pairs, of which shares are duplicates or have mined negatives."""
    mined_share = settings.mine.as_pairs if settings.mine else 0.0
    share = None if objective.positives_only else settings.duplicate_share
    if share is not None and len(np.unique(pairs.labels)) < 2:
        raise ValueError(f"{pairs.source}: duplicate_share needs pairs of both labels")
    duplicates, from_mined = round((share or 0) * size), round(mined_share * size)
    if from_mined and (objective.positives_only or not pairs.positives):
        raise ValueError(f"{pairs.source}: mined pairs need duplicates, and a loss that reads others too")
    room = size - from_mined
    if room < max(1, duplicates):
        raise ValueError(f"a batch of {size} has no room for a share of {mined_share} mined pairs")
    if share is None:
        base: Sampler = Uniform(rows, room)
    else:
        base = Balanced(pairs.labels, duplicates, room - duplicates, seed=settings.seed)
    return WithMined(base, pairs.labels, from_mined) if from_mined else base


def usable_rows(pairs: Pairs, objective: Objective) -> np.ndarray:
    """Return the pairs that the losses read: all, or the duplicates alone."""
    return np.flatnonzero(pairs.labels == 1) if objective.positives_only else np.arange(len(pairs))


def labelled(labels: np.ndarray, label: int, count: int, epoch: int, seed: int) -> np.ndarray:
    """Return the pairs of one label that an epoch of so many takes of an endless stream: all, shuffled in every lap."""
    rows, start = np.flatnonzero(labels == label), epoch * count
    laps = range(start // len(rows), (start + count) // len(rows) + 1)
    shuffled = [np.random.default_rng([seed, label, lap]).permutation(rows) for lap in laps]
    return np.concatenate(shuffled)[start % len(rows) :][:count]
