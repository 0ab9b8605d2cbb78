"""Attributes, arguments, classes and modules by their names of version 0.1, each with a warning that says the new."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

_C = TypeVar("_C", bound=Callable[..., Any])

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


def old_names(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module of 0.1 that has moved, or of what stands in its place now."""
    return partial(_old_name, module)


def _old_name(module: str, name: str) -> Any:
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
    warnings.warn(f"{module}.{name} is now textsiam.{place}.{now}", DeprecationWarning, stacklevel=2)
    return found


class OldModules(MetaPathFinder, Loader):
    """Finds the modules of 0.1 that have moved: each of their names is found in its new place, with a warning."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how an old module is made; None for any other."""
        known = fullname.startswith("textsiam.") and fullname.removeprefix("textsiam.") in _PLACES
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module that has every name and holds none."""
        module = ModuleType(spec.name)
        setattr(module, "__getattr__", old_names(spec.name))  # noqa: B010 (as a module defines it)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are used."""
