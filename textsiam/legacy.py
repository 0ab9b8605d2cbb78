"""What version 0.1 called otherwise or wrote in another form: the only place that knows old words and formats."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

from textsiam.yamlfile import ConfigError

_C = TypeVar("_C", bound=Callable[..., Any])

# --- keys of a config -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renamed:
    """What a config key of version 0.1 is today.

    Attributes:
        now: The dotted key.
        implied: What the new section holds where the old one says nothing else.
        below: Keys below it that changed too, old → new.
    """

    now: str
    implied: Mapping[str, Any] = field(default_factory=dict)
    below: Mapping[str, str] = field(default_factory=dict)


def _mined(mining: str) -> Renamed:
    return Renamed("loss.batch_triplet", {"mining": mining})


RENAMED: dict[str, Renamed] = {
    "loss.batch_all": _mined("all"),
    "loss.batch_hard": _mined("hard"),
    "loss.batch_semi_hard": _mined("semi_hard"),
    "loss.batch_easy": _mined("easy"),
    "loss.batch_random": _mined("random"),
    "loss.batch_distance_weighted": _mined("distance_weighted"),
    "loss.debiased_triplet": Renamed("loss.batch_triplet", {"mining": "hard", "balance": 1.0}, {"select": "mining"}),
    "training.accumulation": Renamed("training.gradient_accumulation_steps"),
    "training.average": Renamed("training.ema_decay"),
    "training.runs": Renamed("training.seeds"),
    "training.leave_out": Renamed("training.cross_fit"),
    "verifier": Renamed("reranker", {}, {"wording": "lexical_features"}),
}


def rewrite_config(tree: dict[str, Any], place: Callable[[str], str]) -> dict[str, str]:
    """Give every old key in the tree of a config its new name, with a warning; an old key that is null goes.

    Args:
        tree: Nested keys and values; changed in place.
        place: Says where a dotted key was given, for example `run.yaml:3`.

    Returns:
        new key → old key of all that changed.

    Raises:
        ConfigError: An old key stands beside the new one, or beside another old key that became the same; or it has
            no successor in the package.
    """
    _read_old_image_keys(tree, place)
    changed: dict[str, str] = {}
    for old, new in RENAMED.items():
        parent, name = _parent(tree, old)
        if parent is None or name not in parent:
            continue
        value = parent.pop(name)
        if value is None:
            continue
        says = f"'{new.now}'"
        if isinstance(value, dict):
            says += "".join(f", {k!r} in it {now!r}" for k, now in new.below.items() if k in value)
            value = {**new.implied, **{new.below.get(k, k): v for k, v in value.items()}}
            if new.implied:
                says = f"'{new.now}: {{{', '.join(f'{k}: {value[k]}' for k in new.implied)}}}'"
        home, name = _parent(tree, new.now)
        assert home is not None
        if home.get(name) is not None:
            twice = changed.get(new.now, new.now)
            raise ConfigError(f"{place(old)}: {old!r} and {twice!r} are one key today: name {new.now!r} alone")
        home[name], changed[new.now] = value, old
        warnings.warn(f"{place(old)}: {old!r} is now {says}", FutureWarning, stacklevel=3)
    return changed


def _parent(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the section that a dotted key stands in, None where there is none, and the key's own name."""
    *path, name = key.split(".")
    section: Any = tree
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else None, name


def without_epochs(epochs: int, *, lexical_features: bool) -> dict[str, Any]:
    """Return what `verifier: {epochs: 0, wording: true}` means now, and warn; nothing for other settings."""
    if epochs or not lexical_features:
        return {}
    warnings.warn("reranker.epochs: 0 is now reranker.model: lexical", FutureWarning, stacklevel=4)
    return {"epochs": 1, "model": "lexical"}


# --- drawings of digits ------------------------------------------------------------------------------

# The work on drawings of digits is a project of its own now, which registers the CNN that its twins are made of.
_DRAWINGS = "textsiam_drawing_resnet"
_EXAMPLE = "examples/unseen_digits"
_DRAWING_KEYS = {
    "model.scratch_image.drawings": "model.builder: {unseen_digits.drawing_tower: {…}}",
    "model.scratch_image.enclosures": "model.builder: {unseen_digits.drawing_tower: {enclosures: true}}",
    "training.augment.thickness": "training.augment: {unseen_digits.Pen: {thickness: …}}",
    "training.augment.stroke": "training.augment: {unseen_digits.Pen: {stroke: …}}",
    "training.augment_clusters.thickness": "training.augment: {unseen_digits.Pen: {thickness: …, clusters: true}}",
    "training.augment_clusters.stroke": "training.augment: {unseen_digits.Pen: {stroke: …, clusters: true}}",
}
_CLUSTERS = "training.augment_clusters"


def drawing_model(problem: str) -> str | None:
    """Return what to do about a tower that cannot be opened, if it is one of drawings that 0.1 saved."""
    if _DRAWINGS not in problem:
        return None
    return f"it is a CNN of drawings: import unseen_digits first, the package in {_EXAMPLE}"


def _read_old_image_keys(tree: dict[str, Any], place: Callable[[str], str]) -> None:
    """Bring the keys of 0.1 for images into today's form, in place; what was off is left out."""
    for key, successor in _DRAWING_KEYS.items():
        where = place(key)
        if _taken(tree, key):
            raise ConfigError(f"{where}: {key}: has moved to {_EXAMPLE}: {successor}")
    if shared := _taken(tree, _CLUSTERS):
        own = tree["training"].get("augment") or []
        own = own if isinstance(own, list) else [own]
        tree["training"]["augment"] = [{**shared, "clusters": True}, *own]
        warnings.warn(
            f"{_CLUSTERS} is now an item of training.augment: {tree['training']['augment']}",
            FutureWarning,
            stacklevel=3,
        )


def _taken(tree: dict[str, Any], key: str) -> Any:
    """Take a dotted key out of nested dictionaries."""
    parent, name = _parent(tree, key)
    return None if parent is None else parent.pop(name, None)


# --- decision trees as plain arrays, which scikit-learn grew ----------------------------------------

_ROWS = 4096  # that go down all trees together
_LEAF = -2  # the mark of a node without a question


class StoredTrees:
    """A random forest, or boosted trees where there is a start; one tree after another in the same arrays.

    Args:
        arrays: `roots`, where each tree begins, `(trees,)`; `feature` that a node asks about, -2 in leaves, `(nodes,)`
            as all that follow; `threshold`: a row goes to the node `left` where its feature is at most this, else to
            `right`; `share`, what a leaf says: the share of label 1; or log-odds, which add up on those of `start`,
            `(1,)`.

    Raises:
        KeyError: An array is missing.
        ValueError: The arrays do not fit together, or lead nowhere.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays, self._start = arrays, arrays.get("start")
        self._roots = roots = arrays["roots"]
        self._nodes = feature, *others = [arrays[name] for name in ("feature", "threshold", "left", "right", "share")]
        count, asking = len(feature), np.flatnonzero(feature != _LEAF)
        if {len(array) for array in others} != {count} or not len(roots) or roots.min() < 0 or roots.max() >= count:
            raise ValueError("the arrays of the forest do not fit together")
        after = np.stack([others[1][asking], others[2][asking]])
        if (after <= asking).any() or (after >= count).any():  # children stand after their parent: no way back
            raise ValueError("a node of the forest leads nowhere")

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return P(label 1) of each row of features, `(n,)`."""
        rows = np.asarray(features, np.float32 if self._start is None else np.float64)
        parts = [self._mean(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        mean = np.concatenate([np.zeros(0), *parts])
        if self._start is None:
            return mean
        return 1.0 / (1.0 + np.exp(-np.clip(self._start + len(self._roots) * mean, -30.0, 30.0)))

    def _mean(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        feature, threshold, left, right, share = self._nodes
        node, rows = np.repeat(self._roots[:, None], len(features), axis=1), np.arange(len(features))  # (trees, rows)
        while (asking := feature[node] != _LEAF).any():
            at_most = features[rows, feature[node]] <= threshold[node]
            node = np.where(asking, np.where(at_most, left[node], right[node]), node)
        return share[node].mean(0)


def stored_trees(file: Path) -> tuple[StoredTrees, ...]:
    """Return the trees of a `wording.safetensors`: a forest and boosted trees, or the one forest of older files.

    Raises:
        OSError: There is no such file.
        SafetensorError: It is damaged.
        KeyError: An array is missing.
        ValueError: The arrays do not fit together, or lead nowhere.
    """
    arrays = load_file(file)
    if "roots" in arrays:
        return (StoredTrees(arrays),)
    own = [{n[2:]: a for n, a in arrays.items() if n.startswith(f"{k}.")} for k in range(2)]
    return tuple(StoredTrees(each) for each in own if each)


# --- what a saved twin holds ----------------------------------------------------------------------------

_HEAD_KINDS = {"cohort": "score_normalization"}


def read_head(knobs: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return knobs and arrays of a saved head by the names of today."""
    kind = _HEAD_KINDS.get(knobs["kind"], knobs["kind"])
    now = {"head.floor": "head.candidate_threshold"}
    return {**knobs, "kind": kind}, {now.get(name, name): array for name, array in arrays.items()}


def head_knobs_of_0_1(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs of a head as 0.1 named its kind: fingerprints that 0.1 stored are made of these."""
    old = {now: old for old, now in _HEAD_KINDS.items()}
    return {**knobs, "kind": old.get(knobs["kind"], knobs["kind"])}


def reranker_folder(folder: Path) -> Path:
    """Return where the reranker of a saved twin is, if there is one."""
    old = folder / "verifier"
    return old if old.is_dir() else folder / "reranker"


def reranker_file(folder: Path) -> Path:
    """Return the file in the folder of a reranker that says how it is combined with a twin."""
    old = folder / "verifier.json"
    return old if old.is_file() else folder / "reranker.json"


def reranker_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what such a file says by the names of today."""
    if "wording" in facts:
        facts["lexical_features"] = facts.pop("wording")
    if "verifier" in (combination := facts["combination"] or {}):
        combination["reranker"] = combination.pop("verifier")
    return facts


# --- attributes, arguments and knobs ------------------------------------------------------------------

RENAMED_CLASSES = {
    "textsiam.search.lance.LanceIndex": "textsiam.search.index.folder.FolderIndex",
}
# Every index in a folder holds its vectors in memory now, and every search of one is exact.
IGNORED_INDEX_KNOBS = ("probes", "resident")


class OldAttribute:
    """An attribute or a method that 0.1 called otherwise: `verifier = OldAttribute("reranker")` in a class."""

    def __init__(self, now: str) -> None:
        self.now = now

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, thing: Any, owner: type | None = None) -> Any:
        if thing is None:
            return self
        warnings.warn(f".{self.old} is now .{self.now}", DeprecationWarning, stacklevel=2)
        return getattr(thing, self.now)

    def __set__(self, thing: Any, value: Any) -> None:
        warnings.warn(f".{self.old} is now .{self.now}", DeprecationWarning, stacklevel=2)
        setattr(thing, self.now, value)


def old_arguments(**now: str) -> Callable[[_C], _C]:
    """Have a function, or the constructor of a class, take arguments by their names of 0.1 too: old name → new name."""

    def wrap(call: Any) -> Any:
        if isinstance(call, type):
            call.__init__ = wrap(call.__init__)
            return call

        @wraps(call)
        def wrapped(*given: Any, **named: Any) -> Any:
            for old in named.keys() & now.keys():
                warnings.warn(f"{old}= is now {now[old]}=", DeprecationWarning, stacklevel=2)
                named[now[old]] = named.pop(old)
            return call(*given, **named)

        return wrapped

    return wrap


def warn_renamed(old: str) -> None:
    """Warn that a name of 0.1 was used, at the line that used it."""
    warnings.warn(f"{old} is deprecated: use {RENAMED_CLASSES[old]}", DeprecationWarning, stacklevel=3)


def without_ignored_knobs(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs of an index without those that mean nothing any more, with a warning if there are any."""
    if ignored := [name for name in IGNORED_INDEX_KNOBS if name in knobs]:
        text = f"{', '.join(ignored)}: ignored, an index in a folder always scans memory, exactly: leave it out"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    return {name: value for name, value in knobs.items() if name not in ignored}


# --- modules that moved ------------------------------------------------------------------------------

# Room -> the modules of 0.1 that stand there now, and their names where these changed.
_MOVED = {
    "": "models.saving",
    "config": "config:run data_config:data model_config:model loss_config:loss",
    "data": "data.reports:leakage data.cuts:graph_partition",
    "data.tables": (
        "data.readers data.lines data.columns data.tables:writers data.hub data.rows data.problems:errors "
        "models.vectors:arrays"
    ),
    "decision": "models.calibration models.thresholds models.decision models.recalibration",
    "evaluation.report": (
        "evaluation.report_examples:examples evaluation.report_pictures:pictures evaluation.report_plots:plots "
        "evaluation.svg"
    ),
    "images": "data.pictures:names data.rasters:decoding data.augment:augmentation models.pixels",
    "media": (
        "data.archives data.image_files:files data.image_sets:labelled data.image_readers:readers "
        "data.image_pairs:pairs data.image_splits:splits"
    ),
    "inference": "models.encoders models.scratch models.inputs models.tokens models.inference:batching models.cache",
    "inference.fast": (
        "models.fast_tower models.fused:fused_bert models.int8 models.ranges:activation_ranges models.runtimes "
        "models.graphs:export_graph"
    ),
    "models": "models.halves:asymmetric models.cohort:score_normalization",
    "rerank": "models.verifier:cross_encoder models.wording:lexical_features models.fast_cross_encoder",
    "search": (
        "search.check:lookup search.linkage:clusters search.copies:exact_duplicates search.feeding:ingest "
        "search.operating:operating_point search.opening:factory"
    ),
    "search.index": (
        "search.index:base search.checks:validation search.memory search.migration:durable search.journal "
        "search.resident:in_memory_scan search.held:vector_cache search.postgres search.postgres_server "
        "search.postgres_tables"
    ),
    "search.join": (
        "search.bulk:ray search.parts:job search.join:exact search.codes:int8_candidates "
        "search.products:bf16_candidates search.shards:approximate search.pair_files"
    ),
    "serving": (
        "serving.meters:telemetry serving.problems:problem_details serving.running:runner serving.settings:limits "
        "serving.memory:heap"
    ),
    "serving.page": "serving.page:routes serving.reviews serving.suspects",
    "serving.routes": "serving.embedding:embeddings serving.questions",
    "training": "training.processes:distributed training.stopping:signals training.verifier:train_reranker",
    "training.batches": "training.batches:collation training.gradient_cache training.token_store",
    "training.losses": (
        "training.objective training.batch_losses:in_batch training.terms training.memory:memory_bank training.heads"
    ),
    "training.mining": (
        "training.miners:online training.mining:offline training.candidates training.epoch_miner:each_epoch "
        "training.triplets"
    ),
    "training.reporting": "training.result training.alarm:collapse",
    "training.weights": "training.averaging training.parameters",
}
_PLACES = {
    old.partition(":")[0]: f"{room}.{old.partition(':')[2] or old.rpartition('.')[2]}".strip(".")
    for room, modules in _MOVED.items()
    for old in modules.split()
}
_PLACES |= {"data.images": "images", "loss_config": "config.loss"}
# Names that went to another file than the rest of their module.
_NAMES = {
    "loss_config.DistanceName": "config.model",
    "data.image_files.holds_images": "images.medium",
    "data.image_readers.read_images": "images.medium",
    "models.inputs.IMAGES": "images.medium",
    "serving.memory.keep_few_kernels": "inference.fast.cores",
    "search.postgres_tables.migrate_rows": "search.index.durable",
    "training.losses.check_positive": "training.losses.functional",
    "training.losses.log_one_plus_sum": "training.losses.functional",
    "training.losses.pick_target": "training.losses.functional",
    "training.losses.ranking_penalty": "training.losses.functional",
    "training.batch_losses.angular": "training.losses.ranking",
    "training.batch_losses.n_pair": "training.losses.ranking",
    "training.batches.labelled": "training.batches.sampling",
    **{
        f"models.decision.{name}": "decision.collection"
        for name in ("CollectionDecision", "Tell", "warn", "store_decisions", "restore_decisions")
    },
    "training.objective.Texts": "training.losses.terms",
    **{
        f"search.parts.{name}": "search.join.stages"
        for name in ("Encoding", "Joining", "PartedVectors", "Runner", "Stage", "perform", "run_here")
    },
    **dict.fromkeys(("search.operating.Rate", "search.operating.ratio_rate"), "decision.intervals"),
}
# Where a name is now -> what it is called now.
_RENAMED_NAMES = {
    "decision.intervals.Rate": "Estimate",
    "inference.fast.fast_tower.Paced": "DeviceRunner",
    "inference.fast.fast_tower.moved": "to_device",
    "media.labelled.LabelledImages": "LabelledFiles",
    "media.splits.split_images": "split_within_classes",
    "images.pixels.made_up_pixels": "dummy_pixels",
    "inference.tokens.made_up_tokens": "dummy_tokens",
    "models.score_normalization.Cohort": "ScoreNormalization",
    "rerank.cross_encoder.Verifier": "Reranker",
    "rerank.lexical_features.Wording": "LexicalFeatures",
    "search.exact_duplicates.Copies": "ExactDuplicates",
    "search.index.in_memory_scan.Resident": "InMemoryScan",
    "search.index.vector_cache.Held": "VectorCache",
    "search.join.bf16_candidates.products_above": "bf16_candidates",
    "search.join.int8_candidates.Codes": "Int8Block",
    "search.join.int8_candidates.codes_above": "int8_candidates",
    "search.join.stages.PartedVectors": "PartitionedVectors",
    "search.join.ray.Bulk": "JobConfig",
    "search.join.ray.PART": "PARTITION_SIZE",
    "search.lookup.candidate_floor": "least_cosine",
    "training.settings.VerifierSettings": "RerankerSettings",
    "training.train_reranker.train_verifier": "train_reranker",
}


def old_name(module: str, name: str) -> Any:
    """Return what a module of 0.1 had under a name, with a warning that says where it is now.

    Raises:
        AttributeError: It is there no more.
    """
    old = module.removeprefix("textsiam.")
    place = _NAMES.get(f"{old}.{name}") or _PLACES.get(old, old)
    now = _RENAMED_NAMES.get(f"{place}.{name}", name)
    if (place, now) == (old, name) or name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    found = getattr(import_module(f"textsiam.{place}"), now)
    warnings.warn(f"{module}.{name} is now textsiam.{place}.{now}", DeprecationWarning, stacklevel=3)
    return found


class _OldModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return old_name(self.__name__, name)


class OldModules(MetaPathFinder, Loader):
    """Finds the modules of 0.1 that have moved: each of their names is found in its new place, with a warning."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how an old module is made; None for any other."""
        known = fullname.startswith("textsiam.") and fullname.removeprefix("textsiam.") in _PLACES
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module that has every name and holds none."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are used."""
