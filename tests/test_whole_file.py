from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import textsiam
from textsiam.whole_file import locked, said_by_system, whole_file


def fail(path) -> None:
    with whole_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError("boom")


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="boom"):
        fail(path)
    with whole_file(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"  # that of the outer block, which ends last
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_is_no_folder_is_the_callers_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), whole_file(tmp_path / "file" / "a") as aside:  # noqa: PT011 - which one depends on the system
        aside.write_text("x")


# A process without fcntl, as on Windows: its locks are those of a stand-in for msvcrt, on bytes of the file.
WITHOUT_FCNTL = """
import builtins, subprocess, sys, types
import fcntl as real

msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = 2, 0


def locking(descriptor, mode, count):
    import os
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    real.lockf(descriptor, real.LOCK_UN if mode == 0 else real.LOCK_EX | real.LOCK_NB, count, start)


msvcrt.locking = locking
sys.modules["msvcrt"] = msvcrt
imported = builtins.__import__


def without(name, globals=None, *rest):
    if name == "fcntl" and (globals or {}).get("__name__", "").startswith("textsiam"):
        raise ImportError("no fcntl here")
    return imported(name, globals, *rest)


builtins.__import__ = without
"""
HOLD = """
import sys
from pathlib import Path
from textsiam.whole_file import said_by_system, locked

place = Path(sys.argv[1])
with (locked(place, shared=sys.argv[2] == "shared") if place.is_dir() else locked(place.open("a+b"))):
    print("locked", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from textsiam.whole_file import said_by_system, locked

place = Path(sys.argv[1])
try:
    with locked(place if place.is_dir() else place.open("a+b"), shared=sys.argv[2] == "shared", wait=False):
        print("free")
except BlockingIOError:
    print("busy")
"""


def start(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def attempt(code, *arguments):
    with start(code, *arguments) as process:
        return process.communicate(timeout=300)[0].strip()


@pytest.mark.parametrize("before", ["", WITHOUT_FCNTL], ids=["fcntl", "windows"])
def test_one_process_at_a_time(tmp_path, before):
    file = tmp_path / "labels.tsv"
    file.write_bytes(b"one\n")
    with start(before + HOLD, file, "alone") as holder:
        assert holder.stdout.readline() == "locked\n"
        assert attempt(before + TRY, file, "alone") == "busy"
        assert file.read_bytes() == b"one\n"  # whoever only reads is not kept from it
        holder.communicate("", timeout=300)
    assert attempt(before + TRY, file, "alone") == "free"


def test_readers_of_a_folder_share_it(tmp_path):
    with start(HOLD, tmp_path, "shared") as holder:
        assert holder.stdout.readline() == "locked\n"
        assert attempt(TRY, tmp_path, "shared") == "free"
        assert attempt(TRY, tmp_path, "alone") == "busy"
        holder.communicate("", timeout=300)


def test_a_lock_ends_with_its_block(tmp_path):
    with (tmp_path / "labels.tsv").open("a+b") as one, (tmp_path / "labels.tsv").open("a+b") as other:
        with locked(one), pytest.raises(BlockingIOError), locked(other, wait=False):
            pass
        with locked(other, wait=False):
            other.write(b"two\n")
    assert os.listdir(tmp_path) == ["labels.tsv"]


def test_the_package_imports_without_fcntl():
    lockers = "textsiam.cli, textsiam.labelling.labels, textsiam.search.gallery, textsiam.search.index.folder"
    assert attempt(WITHOUT_FCNTL + f"import {lockers}, textsiam.search.join.job; print('imported')") == "imported"


def test_no_module_needs_what_windows_lacks():
    found = []
    for file in Path(textsiam.__file__).parent.rglob("*.py"):
        for line in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [name.name for name in line.names] if isinstance(line, ast.Import) else []
            names += [line.module or ""] if isinstance(line, ast.ImportFrom) else []
            found += [
                f"{file}: {n}" for n in names if n in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
            ]
    assert found == []


def test_what_the_system_says_is_said_in_its_words():
    """pyarrow puts "Failed to open local file …" in the place of "No space left on device"."""
    assert said_by_system(OSError(errno.ENOSPC, "Error writing bytes to file")) == "No space left on device"
    assert said_by_system(OSError("no number")) == "no number"
