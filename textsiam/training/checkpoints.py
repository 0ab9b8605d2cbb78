"""Checkpoints that are whole or absent, and the state that makes a resumed run equal an uninterrupted one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from textsiam.data.pairs import Pairs
from textsiam.inference.cache import weights_digest
from textsiam.models.twin import Twin
from textsiam.saving import SaveError, whole_folder, write_failure
from textsiam.training.batches.sets import TrainingSet
from textsiam.training.batches.teacher import teacher_weights
from textsiam.training.distributed import process_state
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings

_NAME = re.compile(r"step-(\d{8})")


class ResumeError(ValueError):
    """A checkpoint that does not belong to this run; the message names what differs."""


class RunState:
    """Where a run stands; saved in every checkpoint.

    Attributes:
        step: Optimizer steps done.
        best: Best validation average precision so far, or None.
        best_step: Step it was measured at.
        stale: Validations since then.
        history: One record for each log line and each validation.
        window: Losses and cosines since the last log line, so that the next one does not depend on a resume.
    """

    def __init__(self) -> None:
        self.step = 0
        self.best: float | None = None
        self.best_step = 0
        self.stale = 0
        self.history: list[dict[str, float]] = []
        self.window: list[list[float]] = [[], []]

    def state_dict(self) -> dict[str, Any]:
        """Return everything as one JSON text, so that no pickle holds it."""
        return {"json": json.dumps(vars(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(json.loads(state["json"]))


def save_checkpoint(
    accelerator: Accelerator, folder: Path, state: RunState, identity: dict[str, Any], *, keep: int
) -> None:
    """Write a checkpoint of everything that was prepared or registered; older ones go once it is whole.

    Args:
        accelerator: Knows the model, the optimizer and the registered objects.
        folder: Where checkpoints are kept.
        state: Names the step.
        identity: What a run must share with this one to resume from here; see `check_identity`.
        keep: How many checkpoints stay.

    Raises:
        SaveError: The folder cannot be written; the checkpoints before it are intact.
    """
    target = folder / f"step-{state.step:08d}"
    if accelerator.num_processes == 1:
        with whole_folder(target) as fresh:
            accelerator.save_state(str(fresh))
            (fresh / "run.json").write_text(json.dumps(identity, indent=2, default=str))
    else:
        _save_together(accelerator, target, identity)
    if accelerator.is_main_process:
        # What a killed process was writing goes too.
        for old in (*list_checkpoints(folder)[:-keep], *folder.glob(".step-*.tmp")):
            shutil.rmtree(old, ignore_errors=True)


def _save_together(accelerator: Accelerator, target: Path, identity: dict[str, Any]) -> None:
    # Every process writes its own random state (and its shard) into one folder, so all must know its name.
    shared = target.with_name(f".{target.name}.tmp")
    if accelerator.is_main_process:
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(shared))
    except Exception as error:
        reason = write_failure(error) or (isinstance(error, OSError) and (error.strerror or str(error)))
        if reason:
            raise SaveError(f"cannot write {target}: {reason}; earlier checkpoints are intact") from error
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with whole_folder(target) as fresh:
            for path in shared.iterdir():
                path.rename(fresh / path.name)
            (fresh / "run.json").write_text(json.dumps(identity, indent=2, default=str))
        shutil.rmtree(shared, ignore_errors=True)
    accelerator.wait_for_everyone()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and (p / "run.json").exists())


def run_identity(
    twin: Twin,
    pairs: Pairs,
    objective: Objective,
    settings: Settings,
    validation: Pairs | None,
    more: Sequence[TrainingSet] = (),
) -> dict[str, Any]:
    """Return what makes a run what it is, before its first step, as `check_identity` compares it."""
    teaching = [each for each in (objective, *(each.objective for each in more)) if each.reads_teacher]
    further = {"more": {str(place): each.identity() for place, each in enumerate(more)}} if more else {}
    return {
        **further,
        "data": pairs.fingerprint,
        "validation": None if validation is None else validation.fingerprint,
        **objective.identity(),
        "parameters": sum(p.numel() for p in twin.parameters()),
        "processes": process_state().num_processes,
        "lora": None if twin.lora is None else asdict(twin.lora),
        **settings.identity(),
        **({} if settings.trained_share is None else {"start": [weights_digest(tower) for tower in twin.towers]}),
        **({"teachers": [teacher_weights(each.teacher, twin) for each in teaching]} if teaching else {}),
    }


def check_identity(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Refuse to resume a run whose data, model or settings differ from those of the checkpoint.

    Raises:
        ResumeError: Names each thing that differs, with both values.
    """
    saved = json.loads((checkpoint / "run.json").read_text())
    now = json.loads(json.dumps(identity, default=str))
    if different := differences(saved, now):
        raise ResumeError(f"cannot resume from {checkpoint}: {'; '.join(different)}")


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """Return what differs between nested settings, each by its dotted name with both values, in order of name."""
    found = []
    for key in sorted({*saved, *now}):
        was, value = saved.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(value, dict):
            found += differences(was, value, f"{within}{key}.")
        elif was != value:
            found.append(f"{within}{key} was {was!r} and is now {value!r}")
    return found
