"""What a run leaves in its folder: its inputs, the twin, the report, the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from textsiam.config.data import DataConfig
from textsiam.config.preflight import RESULTS, checkpoints_of, input_names, scratch_names
from textsiam.config.run import Config
from textsiam.data.pairs import Pairs
from textsiam.data.splits import Splits
from textsiam.data.tables.writers import write_table
from textsiam.evaluation.pairs import ComparisonRow, PairEvaluation, comparison_table
from textsiam.evaluation.raw_pixels import RAW_PIXELS
from textsiam.evaluation.report import write_report
from textsiam.evaluation.report.pictures import EmbeddingMap
from textsiam.manifest import Manifest
from textsiam.media.files import class_folders
from textsiam.modality import shown_by
from textsiam.models.twin import Twin
from textsiam.saving import SaveError
from textsiam.training.reporting.result import TrainResult

if TYPE_CHECKING:
    from textsiam.config.sets import ReadSet

_ON_MAP = 300  # inputs on the map of the report


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        output: The folder.
        twin: The trained twin, with its decision.
        evaluations: Zero-shot (of images raw pixels too) and trained, on the test pairs.
        result: What the training loop did.
        splits: The pairs that were used.
        reranker_seconds: How long the reranker was trained; None where there is none.
    """

    output: Path
    twin: Twin
    evaluations: list[PairEvaluation]
    result: TrainResult
    splits: Splits
    reranker_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return {
            "output": str(self.output),
            "model": str(self.output / "model"),
            "report": str(self.output / "report.html"),
            "evaluations": [e.to_dict() for e in self.evaluations],
            "steps": self.result.steps,
            "best_step": self.result.best_step,
            "stopped_early": self.result.stopped_early,
            "training_seconds": self.result.seconds,
            "reranker_seconds": self.reranker_seconds,
            "warning": self.warning,
        }

    @property
    def warning(self) -> str | None:
        """What speaks against the trained twin: one score for all pairs, or what did without training is better."""
        named = {e.name: e for e in self.evaluations}
        before, after = named["zero-shot"], named["trained"]
        aps = [100 * e.report.average_precision.value for e in (before, after)]
        cure = "the learning rate is too high: lower training.learning_rate"
        if not after.tells_pairs_apart:
            return f"training has diverged: the twin gives every pair the same probability; {cure}"
        if aps[1] < aps[0]:
            fell = f"has made the twin worse: its AP fell from {aps[0]:.1f} % to {aps[1]:.1f} %"
            if not self.result.steps:
                return f"the run {fell}; as no step was trained, try it without whitening, or without a reranker"
            return f"training {fell}; perhaps {cure}"
        pixels = named.get(RAW_PIXELS)
        if pixels is not None and (best := 100 * pixels.report.average_precision.value) > aps[1]:
            return f"raw pixels are better than the trained twin: an AP of {best:.1f} % against {aps[1]:.1f} %"
        return None


def write_inputs(config: Config, splits: Splits, more: Sequence[ReadSet]) -> None:
    """Write what the run is made of: only now that it can start, so that a mistake leaves nothing behind.

    An earlier run that is to be replaced is set aside first. What goes on from a checkpoint has its inputs already.

    Raises:
        SaveError: The folder cannot be written.
    """
    output = Path(config.output)
    manifest = Manifest(output)
    try:
        if config.overwrite and not config.resume:
            manifest.set_aside()
        manifest.add(*input_names(config), *scratch_names(config))
        if not (config.resume and checkpoints_of(output, config)):
            _write_inputs(config, splits, more)
    except OSError as error:
        if manifest.aside:
            manifest.put_back()
        if isinstance(error, SaveError):
            raise
        raise SaveError(f"cannot write into {output}: {error.strerror or error}") from error


def _write_inputs(config: Config, splits: Splits, more: Sequence[ReadSet]) -> None:
    output, settled = Path(config.output), replace(config, resume=False, overwrite=False)
    text = yaml.safe_dump(settled.to_dict(), sort_keys=False, allow_unicode=True)
    (output / "config.yaml").write_text(text, encoding="utf-8")
    sets = {"more": [each.facts(config.loss) for each in more]} if more else {}
    _write_json(output / "splits.json", {**splits.report.to_dict(), **sets})
    _write_pairs(output / "test.tsv", splits.test)


def write_results(outcome: Outcome, config: Config, more: Sequence[ReadSet]) -> None:
    """Write the twin, with where it comes from, the report and the summary; what only the training needed goes."""
    twin, splits, output, model = outcome.twin, outcome.splits, outcome.output, config.model
    further = [each.pairs for each in more]
    used = {**splits.named(), **{f"more.{place}": pairs for place, pairs in enumerate(further)}}
    facts: Mapping[str, str] = {
        "model": str(model.builder or ("from scratch" if model.from_scratch else model.left)),
        "losses": ", ".join(n for n, v in config.to_dict()["loss"].items() if v is not None),
        "training pairs": ", ".join(f"{len(each):,} from {each.source}" for each in (splits.train, *further)),
        "training time": f"{outcome.result.seconds:.0f} s for {outcome.result.steps} steps"
        + (f", {outcome.reranker_seconds:.0f} s for the reranker" if outcome.reranker_seconds is not None else ""),
        "versions": ", ".join(
            f"{n} {version(n)}" for n in ("textsiam", "sentence-transformers", "transformers", "torch")
        ),
        "data fingerprint": splits.train.fingerprint[:16],
    }
    twin.provenance = {
        "measured": [_measured(row) for row in comparison_table(outcome.evaluations)],
        "tested on": _tested_on(config.data, splits.test),
        "fingerprints": {name: pairs.fingerprint for name, pairs in used.items()},
        "seed": config.training.seed,
        "identities": class_folders(n for p in (splits.train, *further) if p.modality != "text" for n in p.texts),
        **facts,
        "config": config.to_dict(),
    }  # fmt: skip
    manifest = Manifest(output)
    manifest.add(*RESULTS)
    if config.resume:  # it may have changed what is not learned, such as the test
        _write_inputs(config, splits, more)
    twin.save_pretrained(output / "model")
    write_report(
        output / "report.html",
        outcome.evaluations,
        history=outcome.result.history,
        facts={**facts, "decision": twin.require_decision().learned_from},
        **shown_by(splits.test.modality),
        embedding=_map(twin, splits.test),
    )
    _write_json(output / "summary.json", outcome.to_dict())
    manifest.remove(scratch_names(config))


def _measured(row: ComparisonRow) -> dict[str, Any]:
    """Return a row of the model card: values, and the intervals of those that have one."""
    found = {
        "AP": row.average_precision,
        "accuracy": row.accuracy,
        "F1": row.f1,
        "calibration error": row.calibration_error,
    }
    known = {name: each for name, each in found.items() if each is not None}
    bounds = {name: [each.low, each.high] for name, each in known.items() if np.isfinite([each.low, each.high]).all()}
    return {"twin": row.name, **{name: each and each.value for name, each in found.items()}, "intervals": bounds}


def _tested_on(config: DataConfig, test: Pairs) -> dict[str, Any]:
    """Return what the model card says of the test: its source without folders, how it was cut, and how large it is."""
    source = config.train if config.test is None else config.test
    names = [Path(each).name for each in ([source] if isinstance(source, str) else source)]
    cut = {"share": config.test_share, "cut": config.split, "seed": config.seed} if config.test is None else {}
    size = {"pairs": len(test), "duplicates": int(test.labels.sum()), "fingerprint": test.fingerprint[:16]}
    return {"name": ", ".join(names), "args": {**size, **cut}}


def _map(twin: Twin, pairs: Pairs) -> EmbeddingMap | None:
    """Return a map of some of the inputs, by their groups; None where no picture would show what a point is."""
    if pairs.modality == "text":
        return None
    some = np.sort(np.random.default_rng(0).permutation(len(pairs.texts))[:_ON_MAP])
    inputs = [pairs.texts[i] for i in some]
    classes = None if pairs.groups is None else [str(group) for group in pairs.groups[some].tolist()]
    return EmbeddingMap(inputs, twin.encode(inputs), classes)


def _write_pairs(path: Path, pairs: Pairs) -> None:
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    names = (*pairs.columns, "is_duplicate")
    write_table(path, names, [dict(zip(names, row, strict=True)) for row in rows])


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
