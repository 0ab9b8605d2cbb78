"""Writers killed at any moment, full disks, several writers at once: no acknowledged write is lost, none is torn."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from textsiam.search.index import in_memory_scan as resident
from textsiam.search.index.base import IndexModel, Question, QuestionIndexError
from textsiam.search.index.folder import FolderIndex
from textsiam.search.index.postgres import PostgresIndex

DRIVER = Path(__file__).with_name("crash_driver.py")
MODEL = IndexModel("crashes", "c" * 64, 16)


@pytest.fixture(params=["folder", "postgres"])
def location(request, tmp_path):
    """Where an empty index is, and the process that keeps it alive (0: none)."""
    if request.param == "folder":
        FolderIndex.create(tmp_path / "index", MODEL).close()
        return str(tmp_path / "index")
    address = request.getfixturevalue("postgres_address")
    place = f"{address}#{request.node.originalname[:40]}"
    PostgresIndex.create(place, MODEL).close()
    return place


def driven(*arguments):
    found = subprocess.run(
        [sys.executable, DRIVER, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout)


@pytest.mark.slow
def test_a_hundred_killed_writers_lose_nothing(location):
    counts = driven("kill", location, 100)
    assert "problem" not in counts, counts["problem"]
    assert counts["kills"] >= 100
    assert counts["acknowledged"] > 100  # otherwise the writers were killed before they wrote anything
    assert sum(counts["under_way"].values()) > 50, counts
    assert all(counts["under_way"].values()), counts


def test_writers_at_once_are_safe(location):
    found = driven("race", location, 3, 10)
    assert all("refused" in line for line in found["told"]), found["told"]
    content = found["content"]
    mine = {name: text for name, text in content.items() if name.startswith("w")}
    assert mine == {
        f"w{me}-{turn}-{i}": f"writer {me}, turn {turn}, question {i}"
        for me in range(3)
        for turn in range(10)
        for i in range(5)
    }
    # Questions that are written together stay together, whoever wrote last.
    assert len({content[f"shared{i}"] for i in range(3)}) == 1
    assert len(content) == 153


@contextmanager
def files_end_at(size):
    """No file may grow beyond so many bytes: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def unit(count):
    vectors = np.random.default_rng(0).standard_normal((count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_full_disk_is_a_clear_error_and_the_index_is_intact(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "BLOCK", 64)
    vectors = unit(5000)
    questions = [Question(f"q{i}", f"question {i}") for i in range(5000)]
    index = FolderIndex.create(tmp_path / "index", MODEL)
    index.upsert(questions[:1000], vectors[:1000], model=MODEL)
    with files_end_at(400_000), pytest.raises(QuestionIndexError, match="cannot be written: the disk is full"):
        index.upsert(questions, vectors, model=MODEL)
    assert index.count() == 1000
    with files_end_at(40_000), pytest.raises(QuestionIndexError, match=r"cannot merge: .*every question is intact"):
        index.compact()
    for _ in range(2):
        assert index.count() == 1000
        (hits,) = index.search(vectors[:1], model=MODEL, threshold=-2)
        assert len(hits) == 1000
        index.close()
        index = FolderIndex(tmp_path / "index")
    assert not list((tmp_path / "index").glob("vectors-*"))  # what was half written is gone
    index.upsert(questions, vectors, model=MODEL)
    index.compact()
    assert len(index.search(vectors[:1], model=MODEL, threshold=-2)[0]) == 5000


def test_a_full_disk_of_a_server(postgres_address):
    import psycopg

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system needs root")
    disk = Path(tempfile.mkdtemp(prefix="textsiam-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        disk.rmdir()
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        with psycopg.connect(postgres_address, autocommit=True) as connection:
            data = connection.execute("SHOW data_directory").fetchone()[0]
            process = (Path(data) / "postmaster.pid").read_text().split()[0]
            owner = Path(f"/proc/{process}").stat()
            os.chown(disk, owner.st_uid, owner.st_gid)
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            separator = "&" if "?" in postgres_address else "?"
            small = f"{postgres_address}{separator}options=-c%20default_tablespace%3Dsmall#small"
            index = PostgresIndex.create(small, MODEL)
            vectors = unit(60_000)
            questions = [Question(f"q{i}", f"question {i} " + "x" * 400) for i in range(60_000)]
            index.upsert(questions[:1000], vectors[:1000], model=MODEL)
            with pytest.raises(QuestionIndexError, match="the disk of the server is full"):
                index.upsert(questions, vectors, model=MODEL)
            assert index.count() == 1000
            assert len(index.search(vectors[:1], model=MODEL, threshold=-2)[0]) == 1000
            index.close()
            connection.execute("DROP SCHEMA small CASCADE")
            connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()
