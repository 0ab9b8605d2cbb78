from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from textsiam.saving import SaveError
from textsiam.training.checkpoints import (
    ResumeError,
    RunState,
    check_identity,
    list_checkpoints,
    save_checkpoint,
)


class Writer:
    """Stands in for an accelerator: one process that writes one file, or fails to."""

    num_processes = 1
    is_main_process = True

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def save_state(self, folder: str) -> None:
        (Path(folder) / "weights").write_text("half")
        if self.error is not None:
            raise self.error


def save(folder: Path, step: int, *, keep: int = 2, error: Exception | None = None) -> None:
    state = RunState()
    state.step = step
    save_checkpoint(Writer(error), folder, state, {"seed": 0}, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoints_stay(tmp_path):
    for step in (5, 90, 1000, 20_000_000):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00001000", "step-20000000"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00001000", "step-20000000"]
    save(tmp_path, 20_000_001, keep=1)
    assert names(tmp_path) == ["step-20000001"]


def test_only_whole_checkpoints_count(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "step-00000004").mkdir()  # without run.json: not ours, or not whole
    (tmp_path / ".step-00000005.abc.tmp").mkdir()
    (tmp_path / "step-00000006.old").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]
    assert list_checkpoints(tmp_path / "missing") == []


def test_what_a_killed_process_was_writing_goes_with_the_next_checkpoint(tmp_path):
    (tmp_path / ".step-00000001.abc.tmp").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, 2)
    assert names(tmp_path) == ["notes.txt", "step-00000002"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 42816 vs 42708"), "the disk is full"),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk is full"),
    ],
)  # fmt: skip
def test_a_failed_write_names_the_reason_and_leaves_the_last_checkpoint(tmp_path, error, reason):
    save(tmp_path, 1)
    with pytest.raises(SaveError, match=f"cannot write .*step-00000002: {reason}"):
        save(tmp_path, 2, error=error)
    assert names(tmp_path) == ["step-00000001"]
    assert (tmp_path / "step-00000001" / "weights").read_text() == "half"


def test_an_error_of_the_program_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        save(tmp_path, 2, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*file/step-00000001: (Not a directory|File exists)"):
        save(tmp_path / "file", 1)


def test_what_differs_is_named_with_both_values(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"seed": 0, "batch_size": 8, "losses": {"triplet": 1.0}}))
    check_identity(tmp_path, {"seed": 0, "batch_size": 8, "losses": {"triplet": 1.0}})
    with pytest.raises(ResumeError) as caught:
        check_identity(tmp_path, {"seed": 1, "losses": {"triplet": 1.0}, "processes": 2})
    assert str(caught.value) == (
        f"cannot resume from {tmp_path}: batch_size was 8 and is now None; processes was None and is now 2; "
        "seed was 0 and is now 1"
    )


def test_the_state_goes_through_json_unchanged():
    state, again = RunState(), RunState()
    state.step, state.best, state.best_step, state.stale = 7, 0.1 + 0.2, 5, 1
    state.history = [{"step": 5, "validation_ap": 1 / 3}]
    state.window = [[0.1], [0.2]]
    again.load_state_dict(SimpleNamespace(**state.state_dict()).__dict__)
    assert vars(again) == vars(state)
