"""The report of sounds: a browser plays what it holds, from the one file and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from textsiam.evaluation.pairs import WrongPair
from textsiam.evaluation.report.pictures import picture_pairs
from textsiam.sounds.decoding import wav_bytes
from textsiam.sounds.spectrogram import spectrogram_png

SOUND = np.sin(np.arange(4000) / 5).astype(np.float32)


def test_a_player_stands_below_each_picture_and_holds_the_sound():
    pair = WrongPair("a.wav", '"><b>.wav', 0.9, 0.5)
    html = picture_pairs(
        "Wrong", [pair], total=1, order="", thumbnail=lambda name: spectrogram_png(SOUND, 8000),
        played=lambda name: wav_bytes(SOUND, 8000) if name == "a.wav" else None,
    )  # fmt: skip
    assert html.count("<audio controls") == 1
    assert html.count("<img ") == 2
    assert "<b>.wav" not in html


def test_the_picture_shows_the_pitch():
    from io import BytesIO

    from PIL import Image

    time = np.arange(4000) / 8000
    pictures = [spectrogram_png(np.sin(2 * np.pi * pitch * time), 8000) for pitch in (300, 2500)]
    rows = [np.asarray(Image.open(BytesIO(picture))).mean(1) for picture in pictures]
    assert rows[0].argmax() > rows[1].argmax()  # lower in the picture
    assert len(rows[0]) == 72


def test_the_page_lets_sounds_of_its_own_play_and_no_others():
    page = Path(__file__).resolve().parents[3] / "textsiam" / "evaluation" / "report" / "report.html"
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:;" in page.read_text()
