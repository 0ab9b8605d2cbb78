from __future__ import annotations

import pytest

from textsiam.whole_file import whole_file


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
