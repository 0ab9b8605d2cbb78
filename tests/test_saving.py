from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from textsiam.models.twin import Twin
from textsiam.saving import SaveError, recover, whole_folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder that was saved before; it holds one file, `kept`."""
    folder = tmp_path / "model"
    with whole_folder(folder) as fresh:
        (fresh / "kept").write_text("old")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def crash_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die at the `number`th rename, as a killed process does: nothing after it is run."""
    calls: list[Path] = []
    real = Path.rename

    def rename(self: Path, new: Path) -> Path:
        calls.append(self)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(self, new)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "down" / "model"
    with whole_folder(target) as fresh:
        assert not target.exists()
        assert fresh.parent == target.parent  # on the same disk, or renaming would copy
        (fresh / "a").write_text("1")
        (fresh / "sub").mkdir()
        (fresh / "sub" / "b").write_text("2")
    assert (target / "a").read_text() == "1"
    assert (target / "sub" / "b").read_text() == "2"
    assert os.listdir(target.parent) == ["model"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_old_folder_is_replaced_not_merged(target: Path) -> None:
    with whole_folder(target) as fresh:
        assert content(target) == {"kept": "old"}
        (fresh / "new").write_text("new")
    assert content(target) == {"new": "new"}
    assert os.listdir(target.parent) == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_error_inside_leaves_the_old_folder(target: Path, error: BaseException) -> None:
    def write() -> None:
        with whole_folder(target) as fresh:
            (fresh / "half").write_text("...")
            raise error

    with pytest.raises(type(error)):
        write()
    assert content(target) == {"kept": "old"}
    assert os.listdir(target.parent) == ["model"]


def test_error_inside_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    def write() -> None:
        with whole_folder(tmp_path / "model"):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write()
    assert os.listdir(tmp_path) == []


def test_crash_before_the_renames_keeps_the_old_folder(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_at_rename(patch, 1)
        with pytest.raises(KeyboardInterrupt), whole_folder(target) as fresh:
            (fresh / "new").write_text("new")
    assert content(target) == {"kept": "old"}


def test_crash_between_the_renames_is_recovered(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_at_rename(patch, 2)
        with pytest.raises(KeyboardInterrupt), whole_folder(target) as fresh:
            (fresh / "new").write_text("new")
    assert not target.exists()
    recover(target)
    assert content(target) == {"kept": "old"}
    recover(target)  # again changes nothing
    assert content(target) == {"kept": "old"}


def test_saving_after_a_crash_between_the_renames(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_at_rename(patch, 2)
        with pytest.raises(KeyboardInterrupt), whole_folder(target):
            pass

    def fail() -> None:
        with whole_folder(target):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert content(target) == {"kept": "old"}  # the crash and then a failure: the old folder is still there
    with whole_folder(target) as fresh:
        (fresh / "new").write_text("new")
    assert content(target) == {"new": "new"}


def test_crash_right_after_the_renames_does_not_block_the_next_save(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with whole_folder(target) as fresh:
            (fresh / "second").write_text("")
    assert len(os.listdir(target.parent)) == 2  # the old one stands aside
    with whole_folder(target) as fresh:
        (fresh / "third").write_text("")
    assert list(content(target)) == ["third"]
    assert os.listdir(target.parent) == ["model"]


def test_copies_that_the_user_made_are_safe(target: Path) -> None:
    shutil.copytree(target, target.with_name("model.old"))
    shutil.rmtree(target)
    with whole_folder(target) as fresh:
        (fresh / "new").write_text("new")
    assert content(target) == {"new": "new"}
    assert content(target.with_name("model.old")) == {"kept": "old"}


def test_link_to_a_folder_stays_a_link(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target)
    with whole_folder(link) as fresh:
        (fresh / "new").write_text("new")
    assert link.is_symlink()
    assert content(target) == {"new": "new"}


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with whole_folder("model") as fresh:
        (fresh / "new").write_text("new")
    assert content(tmp_path / "model") == {"new": "new"}


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with (
        pytest.raises(SaveError, match=r"cannot write .*/model: a file is in the way"),
        whole_folder(tmp_path / "model"),
    ):
        pass
    assert (tmp_path / "model").read_text() == "precious"


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SaveError, match=r"cannot write .*/file/model: "),
        whole_folder(tmp_path / "file" / "model"),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_message_of_an_unwritable_place(target: Path, number: int, reason: str) -> None:
    def write(folder: Path) -> None:
        with whole_folder(folder):
            raise OSError(number, os.strerror(number))

    with pytest.raises(SaveError) as caught:
        write(target)
    assert str(caught.value) == f"cannot write {target}: {reason}; {target} is as it was before"
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(SaveError) as caught:
        write(target.with_name("other"))
    assert str(caught.value) == f"cannot write {target.with_name('other')}: {reason}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(target: Path) -> None:
    target.parent.chmod(0o500)
    try:
        with (
            pytest.raises(SaveError, match=r"permission denied; .* is as it was before"),
            whole_folder(target),
        ):
            pass
    finally:
        target.parent.chmod(0o700)
    assert content(target) == {"kept": "old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is there on Linux only")
def test_full_device(target: Path) -> None:
    def write() -> None:
        with whole_folder(target) as fresh:
            (fresh / "file").symlink_to("/dev/full")
            (fresh / "file").write_text("more than fits")

    with pytest.raises(SaveError, match="the disk is full"):
        write()
    assert content(target) == {"kept": "old"}


def test_full_disk_seen_by_safetensors(small_disk: Path) -> None:
    with pytest.raises(SaveError, match="the disk is full"), whole_folder(small_disk / "model") as fresh:
        save_file({"x": np.zeros(1_000_000)}, fresh / "x.safetensors")
    assert os.listdir(small_disk) == []


def test_twin_on_a_full_disk_keeps_the_last_one(small_disk: Path, twin: Twin) -> None:
    with whole_folder(small_disk / "model") as fresh:
        (fresh / "modules.json").write_text("old")
    with pytest.raises(SaveError) as caught:
        twin.save_pretrained(small_disk / "model")
    assert "the disk is full" in str(caught.value)
    assert content(small_disk / "model") == {"modules.json": "old"}
    assert os.listdir(small_disk) == ["model"]


def test_other_errors_pass_through(target: Path) -> None:
    def write() -> None:
        with whole_folder(target):
            raise ValueError("not about disks")

    with pytest.raises(ValueError, match="not about disks"):
        write()


@pytest.mark.parametrize("name", ["labels.tsv", "notes"])
def test_what_others_put_there_is_not_lost(twin: Twin, tmp_path: Path, name: str) -> None:
    saved = twin.save_pretrained(tmp_path / "saved")
    twin.save_pretrained(saved)  # its own files are replaced
    (saved / name).write_text("mine")
    with pytest.raises(SaveError, match=f"holds '{name}', which would be lost"):
        twin.save_pretrained(saved)
    assert (saved / name).read_text() == "mine"
    assert Twin.from_pretrained(saved).dim == twin.dim


def test_a_project_is_no_place_for_a_twin(twin: Twin, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "main.py").write_text("print()")
    with pytest.raises(SaveError, match=r"project: holds 'main.py', which would be lost"):
        twin.save_pretrained(tmp_path / "project")
    assert (tmp_path / "project" / "main.py").read_text() == "print()"


def test_a_twin_whose_files_were_not_named_and_a_plain_tower_are_replaced(twin: Twin, tmp_path: Path) -> None:
    saved = twin.save_pretrained(tmp_path / "saved")
    facts = json.loads((saved / "textsiam.json").read_text())
    (saved / "textsiam.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "files"}))
    twin.save_pretrained(saved)
    (saved / "textsiam.json").unlink()
    twin.save_pretrained(saved)
    assert sorted(json.loads((saved / "textsiam.json").read_text())["files"]) == sorted(p.name for p in saved.iterdir())


def test_a_twin_is_saved_after_a_crash_between_the_renames(
    twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = twin.save_pretrained(tmp_path / "saved")
    with monkeypatch.context() as patch:
        crash_at_rename(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            twin.save_pretrained(saved)
    assert not saved.exists()
    twin.save_pretrained(saved)
    assert Twin.from_pretrained(saved).dim == twin.dim
