"""Training several twins of one origin, one after the other, so that a resume opens those that were finished."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.saving import whole_folder
from textsiam.training.batches.sets import TrainingSet
from textsiam.training.checkpoints import check_identity, run_identity
from textsiam.training.distributed import process_state
from textsiam.training.losses.objective import Objective
from textsiam.training.reporting.result import TrainResult
from textsiam.training.settings import Settings


@dataclass(frozen=True)
class Member:
    """What one of several twins is trained on.

    Attributes:
        folder: Of its run; what is finished is kept in `finished/`.
        pairs: Labelled pairs to learn from.
        validation: Pairs that choose its best weights, or None.
        settings: Knobs of its training.
        more: Further sets to learn from.
    """

    folder: Path
    pairs: Pairs
    validation: Pairs | None
    settings: Settings
    more: tuple[TrainingSet, ...] = ()


def train_members(
    train: Callable[..., TrainResult],
    origin: Twin,
    objective: Objective,
    members: Iterable[Member],
    *,
    resume: bool,
    quiet: bool,
) -> tuple[list[Twin], list[TrainResult]]:
    """Train a copy of a twin for each member; all end where one is interrupted.

    Args:
        train: Trains one twin: `textsiam.training.loop.train`.
        origin: Where each member starts; it stays as it is.
        objective: What is minimised; each member gets a copy.
        members: What each is trained on.
        resume: Open members that were finished, and go on from the checkpoint of the one that was not.
        quiet: Show no progress bar.

    Returns:
        The twins that are finished, and what each training did; the last one may be interrupted, and has no twin.

    Raises:
        ResumeError: What is in the folder of a member belongs to another run.
        SaveError: A folder cannot be written.
    """
    twins, results = [], []
    for member in members:
        twin, minimised, more = copy.deepcopy((origin, objective, member.more))  # together: a head belongs to all
        finished = member.folder / "finished"
        identity = run_identity(twin, member.pairs, objective, member.settings, member.validation, member.more)
        if resume and finished.is_dir():
            check_identity(finished, identity)
            twin.load_state_dict(Twin.from_pretrained(finished / "twin", device="cpu").state_dict())
            result = TrainResult(**json.loads((finished / "result.json").read_text()))
        else:
            result = train(twin, member.pairs, minimised, output=member.folder, settings=member.settings,
                           validation=member.validation, more=more, resume=resume, quiet=quiet)  # fmt: skip
            if not result.interrupted and process_state().is_main_process:
                with whole_folder(finished) as fresh:
                    twin.save_pretrained(fresh / "twin")
                    (fresh / "run.json").write_text(json.dumps(identity, indent=2, default=str))
                    (fresh / "result.json").write_text(json.dumps(asdict(result)))
        results.append(result)
        if result.interrupted:
            break
        twins.append(twin)
    return twins, results
