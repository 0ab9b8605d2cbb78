"""What a source holds is asked in one place, and each medium answers the same questions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from textsiam.data.tables.columns import FILE_NAMES, NOUNS
from textsiam.inference.inputs import TEXTS
from textsiam.modality import MEDIA, medium_of, modality_of
from textsiam.sounds.decoding import wav_bytes


def write(folder, pictures, sounds):
    for at in range(pictures):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), at).save(folder / "a" / f"{at}.png")
    for at in range(sounds):
        (folder / "b").mkdir(parents=True, exist_ok=True)
        (folder / "b" / f"{at}.wav").write_bytes(wav_bytes(np.ones(100, np.float32) * 0.1, 8000))
    return folder


@pytest.mark.parametrize(("pictures", "sounds", "expected"), [(1, 3, "audio"), (3, 1, "image"), (0, 1, "audio")])
def test_a_folder_is_of_what_it_has_most_of(tmp_path, pictures, sounds, expected):
    assert modality_of(write(tmp_path / "mixed", pictures, sounds)) == expected


@pytest.mark.parametrize("source", ["sample:forum", "no such folder", ["a.tsv", "b.tsv"], None])
def test_what_holds_no_files_is_of_texts(source):
    assert medium_of(source) is None
    assert modality_of(source) == "text"


def test_the_files_of_another_medium_are_counted_and_left_out(tmp_path):
    from textsiam.sources import read_texts

    found = read_texts(str(write(tmp_path / "mixed", 1, 3)))
    assert (len(found), found.modality, found.noun) == (3, "audio", "sounds")
    assert found.report.skipped == {"no sound (.png)": 1}


@pytest.mark.parametrize("medium", MEDIA.values(), ids=list(MEDIA))
def test_each_medium_answers_and_has_its_columns(medium):
    assert FILE_NAMES[medium.modality][0] == f"{medium.modality}1"
    assert medium.nouns == NOUNS[medium.modality]
    assert medium.some.split()[0] == ("an" if medium.noun == "image" else "a")
    assert medium.missing("no such file") == f"no such file: no such {medium.noun} file"
    assert medium.augmentation().clusters is False
    assert medium.modality != TEXTS.modality
