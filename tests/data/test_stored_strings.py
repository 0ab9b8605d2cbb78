from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.stored_strings import first_of_equal, store_strings
from textsiam.data.tables.errors import DataError
from textsiam.data.texts import read_texts


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=6)), data=st.data())
def test_stored_strings_are_a_list(tmp_path_factory, texts, data) -> None:
    stored = store_strings(tmp_path_factory.mktemp("strings") / "texts", texts)
    assert list(stored) == stored[:] == texts
    assert len(stored) == len(texts)
    some = data.draw(st.lists(st.sampled_from(range(len(texts))))) if texts else []
    part = stored.rows(np.array(some, np.int64))
    assert list(part) == [texts[i] for i in some]
    assert part[::2] == [texts[i] for i in some][::2]
    assert [part[i] for i in range(-len(some), len(some))] == 2 * [texts[i] for i in some]
    assert list(part.rows(np.arange(len(some))[::-1])) == [texts[i] for i in reversed(some)]
    with pytest.raises(IndexError):
        stored[len(texts)]


def test_far_apart_strings_are_read_one_by_one_and_half_characters_come_back(tmp_path: Path) -> None:
    texts = [f"{i} \udce9 é" for i in range(30_000)]
    stored = store_strings(tmp_path / "texts", iter(texts))
    rows = np.array([29_999, 3, 12_345])
    assert stored.rows(rows)[:] == [texts[i] for i in rows]
    assert list(stored) == texts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "ab", "é", "\ud800", "a "]), max_size=30), st.booleans())
def test_the_first_of_equal_strings(tmp_path_factory, texts, on_disk) -> None:
    folder = tmp_path_factory.mktemp("digests") if on_disk else None
    assert first_of_equal(texts, folder).tolist() == [texts.index(text) for text in texts]
    assert folder is None or not list(folder.iterdir())


TABLES = {
    "plain": "id\ttext\n7\ta\n8\tb\n9\ta\n",
    "floats": "id\ttext\n7.0\ta\n8.0\tb\n",
    "some ids": "id\ttext\n7\ta\n\tb\n",
    "no ids": "text\na\nb\n",
    "repeated": "id\ttext\n7\ta\n8\tb\n7\tc\n8\td\n9\te\n",
    "bad rows": "id\ttext\n7\ta\n8\t\n7\tc\n9\te\n",
    "pairs": "question1\tquestion2\na\tb\nb\tc\n",
}


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("names", [["plain"], ["floats"], ["some ids"], ["no ids"], ["repeated"], ["bad rows"],
                                   ["pairs"], ["plain", "repeated"], ["no ids", "some ids"]], ids="+".join)  # fmt: skip
def test_texts_read_into_files_are_those_read_into_memory(tmp_path: Path, names, on_bad_row) -> None:
    files = []
    for name in names:
        files.append(str(tmp_path / f"{name}.tsv"))
        Path(files[-1]).write_text(TABLES[name])
    (tmp_path / "store").mkdir()

    def read(store: Path | None) -> object:
        try:
            found = read_texts(files, on_bad_row=on_bad_row, store=store)
        except DataError as error:
            return str(error)
        return list(found.ids), list(found.texts), found.source, found.report, found.images

    assert read(tmp_path / "store") == read(None)
