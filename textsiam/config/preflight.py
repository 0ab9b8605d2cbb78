"""What a config alone tells to be wrong: all of it at once, before any data is read or anything is written."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from textsiam.config.data import check_data, further_sets
from textsiam.config.model import check_model
from textsiam.config.run import Config, ConfigError, build_augment, build_head, build_objective
from textsiam.config.sets import SetConfig, build_set_objective
from textsiam.data.splits import NAMES
from textsiam.inference.encoders import ModelError, resolve
from textsiam.manifest import Manifest
from textsiam.modality import modality_of
from textsiam.training.batches.sampling import check_batches
from textsiam.training.checkpoints import ResumeError, differences, list_checkpoints
from textsiam.training.distributed import process_state, tracker_of
from textsiam.training.settings import FREE_ON_RESUME
from textsiam.training.train_reranker import check_readable
from textsiam.whole_file import locked
from textsiam.yamlfile import read_yaml

if TYPE_CHECKING:
    from textsiam.models.learned import Head
    from textsiam.training.losses.objective import Objective

RESULTS = ("model", "report.html", "summary.json")
"""What a finished run leaves."""


def faults(config: Config) -> list[ValueError]:
    """Return all that a config alone tells to be wrong, before any data is read."""
    state, settings = process_state(), config.training
    modality = modality_of(config.data.train)
    found: list[ValueError] = []

    def check(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except ValueError as error:
            found.append(error)

    if state.is_main_process:
        check(lambda: _check_folder(Path(config.output), config))
    check(lambda: check_data(config.data))
    check(lambda: check_model(config.model, modality=modality))
    check(lambda: tracker_of(settings))
    check(lambda: build_augment(settings.augment))
    if settings.augment is not None and modality == "text":
        found.append(ConfigError("training.augment changes images and sounds: these inputs are texts, leave it out"))
    if settings.trained_share is not None and config.model.from_scratch:
        found.append(ConfigError("training.trained_share averages with pretrained weights, but there are none"))
    chosen, reranker = config.model.head, config.reranker
    head = None if chosen is None else check(lambda: build_head(chosen, 4))
    objective = check(lambda: build_objective(config.loss, head))
    if objective is not None:
        check(lambda: check_batches(settings, objective, world=state.num_processes))
        check(lambda: _check_teacher(objective))
    for place, each in further_sets(config.data).items():
        check(lambda place=place, each=each: _check_loss(f"data.more.{place}", each, config, head))
    if reranker is not None:
        if state.num_processes > 1:
            many = f"reranker is trained by one process, not by {state.num_processes}"
            found.append(ConfigError(f"{many}: leave it out, or run alone"))
        check(lambda: check_readable(reranker))
    return found


def _check_loss(key: str, given: SetConfig, config: Config, head: Head | None) -> None:
    """Refuse a loss of a further set that does not go with the model."""
    try:
        _check_teacher(build_set_objective(given, config.loss, head))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _check_teacher(objective: Objective) -> None:
    """Refuse a teacher whose folder is not there."""
    try:
        if objective.teacher is not None:
            resolve(objective.teacher)
    except ModelError as error:
        raise ConfigError(f"loss.distillation.teacher: {error}") from error


def _check_folder(output: Path, config: Config) -> None:
    """Refuse an output folder that cannot be written to, or must not be; what a killed run set aside is settled."""
    if begun(output, config):
        Manifest(output).drop_aside()
    elif Manifest(output).aside:
        Manifest(output).put_back()
    _refuse_folder(output, config)
    _refuse_own_inputs(output, config)


def _refuse_folder(output: Path, config: Config) -> None:
    """Refuse an output folder with something in the way, or with a run that nobody asked to be replaced."""
    manifest = Manifest(output)
    if foreign := manifest.foreign([*input_names(config), *scratch_names(config), *RESULTS]):
        raise ConfigError(
            f"output {output}: {', '.join(foreign)} in the way, made by no run that left a manifest.json: move it, or "
            "choose another --output"
        )
    if config.overwrite and not config.resume:
        return
    if (output / "summary.json").exists():
        raise ConfigError(f"output {output} holds a finished run: choose another --output, or --overwrite true")
    if begun(output, config) and not config.resume:
        done = checkpoints_of(output, config)
        hint = f"--resume true (goes on from {done[-1].name}), " if done else ""
        raise ConfigError(f"output {output} holds an unfinished run: {hint}--overwrite true, or another --output")
    if config.resume and checkpoints_of(output, config):
        _check_same(output / "config.yaml", config)


def _refuse_own_inputs(output: Path, config: Config) -> None:
    """Refuse to read what the run itself would replace or remove: files of an earlier run in its output folder."""
    made = [(output / name).resolve() for name in Manifest(output).found]
    if not made:
        return
    for key, source in _inputs(config):
        paths = [source, *glob.glob(source, recursive=True)]
        own = [path for path in paths if any(Path(path).resolve().is_relative_to(each) for each in made)]
        if own:
            raise ConfigError(
                f"{key}: {own[0]} was made by an earlier run in {output}, and this run would remove it: choose another "
                "--output, or copy it elsewhere"
            )


def _inputs(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each source and model that a config names, with its key."""
    data, model, mine = config.data, config.model, config.training.mine
    further = further_sets(data)
    found: dict[str, Any] = {f"data.{name}": getattr(data, name) for name in NAMES}
    found |= {f"data.more.{place}": each for place, each in enumerate(data.more or ()) if isinstance(each, str)}
    found |= {f"data.more.{place}": each.source for place, each in further.items()}
    found |= {"model.left": None if model.from_scratch or model.builder else model.left, "model.right": model.right}
    found |= {"training.mine.check": mine and mine.check, "reranker.model": config.reranker and config.reranker.model}
    losses = {"loss": config.loss, **{f"data.more.{place}.loss": each.loss or {} for place, each in further.items()}}
    for key, terms in losses.items():
        found |= {f"{key}.{name}.teacher": getattr(term, "teacher", None) for name, term in terms.items()}
    for key, sources in found.items():
        yield from ((key, source) for source in (sources if isinstance(sources, list) else [sources]) if source)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Make an output folder, unless it is there, and keep other runs out of it; one that stays empty goes again.

    Raises:
        ConfigError: Another run is at work there, or the folder cannot be written.
    """
    made = [each for each in (output, *output.parents) if not each.exists()]
    with ExitStack() as held:
        try:
            output.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(output, wait=False))
        except BlockingIOError:
            raise ConfigError(f"output {output}: another run is at work there: choose another --output") from None
        except OSError as error:
            if not output.is_dir():  # else its file system knows no locks
                raise ConfigError(f"output {output}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            with suppress(OSError):  # what is in use is not empty
                for folder in made:
                    folder.rmdir()


def prepare_folder(output: Path, config: Config) -> None:
    """Make the output folder ready: what a run left that learned nothing goes, an earlier run stays until it is due."""
    if not config.resume and not config.overwrite and not begun(output, config):
        Manifest(output).clear()


def begun(output: Path, config: Config) -> bool:
    """Whether a run in a folder has learned anything yet: written a record or a checkpoint."""
    places = [output, *(output / f"run-{k}" for k in range(config.training.seeds))]
    learned = any((place / "history.jsonl").exists() for place in places) or bool(checkpoints_of(output, config))
    return learned and bool(Manifest(output).found)


def input_names(config: Config) -> tuple[str, ...]:
    """Return what is written before the training, and by it, to stay."""
    try:
        nowhere = tracker_of(config.training) == "none"
    except ValueError:  # a fault of its own
        nowhere = True
    logs = () if config.training.seeds > 1 or nowhere else ("logs",)
    return "config.yaml", "splits.json", "test.tsv", "history.jsonl", *logs


def scratch_names(config: Config) -> tuple[str, ...]:
    """Return what the training writes for itself: the model holds the weights in the end."""
    runs = config.training.seeds
    return ("best", "checkpoints", "tokens") if runs == 1 else tuple(f"run-{k}" for k in range(runs))


def checkpoints_of(output: Path, config: Config) -> list[Path]:
    """Return the checkpoints of a run, or of each of several, and those that were finished, oldest first."""
    places = [output, *(output / f"run-{k}" for k in range(config.training.seeds))]
    finished = [place / "finished" for place in places if (place / "finished").is_dir()]
    return [*finished, *(checkpoint for place in places for checkpoint in list_checkpoints(place / "checkpoints"))]


def _check_same(file: Path, config: Config) -> None:
    """Refuse to resume a run whose config differs in what it learns, and how; the checkpoint compares the rest.

    Where data lie may change: that they are the same is compared with the checkpoint.

    A saved config is compared as it is written, so that nothing that it names is imported.
    """
    saved, now = read_yaml(file), yaml.safe_load(yaml.safe_dump(config.to_dict()))
    different, free = [], {*FREE_ON_RESUME, *NAMES}
    for name in ("data", "loss", "model", "training"):
        was, value = ({k: v for k, v in (tree.get(name) or {}).items() if k not in free} for tree in (saved, now))
        different += differences(was, value, f"{name}.")
    if different:
        raise ResumeError(f"cannot resume in {config.output}: {'; '.join(different)}")
