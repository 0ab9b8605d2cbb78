"""Spoken words by speakers never heard, and words never heard, beside dynamic time warping over MFCCs.

    python benchmarks/sounds.py speakers                       # each speaker held out in turn, three seeds
    python benchmarks/sounds.py words                          # three words held out, another three for each seed
    python benchmarks/sounds.py speakers --how pretrained      # the tower of examples/words, whitened; words as well
    python benchmarks/sounds.py voices                         # same speaker or not, by the tower of examples/voices
    python benchmarks/sounds.py table                          # Markdown for the docs

`configs/spoken_words.yaml`, or `examples/words/words.yaml`, trains on the Free Spoken Digit Dataset
(`$TEXTSIAM_DATA/spoken_digits/SPEAKER/…`, a file is `DIGIT_TAKE.wav`). Pairs are of a held-out speaker with another, or
of two speakers saying held-out words: 2,000 of one word, 2,000 of two. Of dynamic time warping the best of its variants
on the very pairs is taken. Intervals resample what was held out, and the words of both sides. Needs librosa. Each run
adds a row to the JSON file; a row that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "sounds.json"
ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "words"
CONFIGS = {"scratch": ROOT / "configs" / "spoken_words.yaml", "pretrained": EXAMPLE / "words.yaml"}
WORDS = DATA.parent / "spoken_digits"
SPEAKERS = ("george", "jackson", "lucas", "theo")
HELD_OUT = (("0", "1", "2"), ("3", "4", "5"), ("6", "7", "8"))  # words of each seed
NEW_WORDS = {"flip": True, "speed": 0.3, "clusters": True}  # the words of training backwards, faster, slower: new ones
EACH = 2000  # pairs of one word, and of two
SEEDS = (0, 1, 2)
PARTS = Path(tempfile.gettempdir()) / "textsiam-sounds"  # scores, so that a run goes on where it ended


class Recording(NamedTuple):
    """A recording: who says what, and its file."""

    speaker: str
    word: str
    file: Path


def recordings() -> list[Recording]:
    """Return all recordings, in a fixed order."""
    files = sorted(WORDS.glob("*/*.wav"))
    return [Recording(file.parent.name, file.stem.split("_")[0], file) for file in files]


def folder_of(taken: list[Recording], folder: Path) -> Path:
    """Write recordings as a folder for each word."""
    for each in taken:
        (folder / each.word).mkdir(parents=True, exist_ok=True)
        shutil.copy(each.file, folder / each.word / f"{each.speaker}_{each.file.stem}.wav")
    return folder


def drawn(left: list[Recording], right: list[Recording], seed: int = 0) -> list[tuple[Recording, Recording]]:
    """Draw pairs of two speakers, as many of one word as of two."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a, b in product(left, right) if a.speaker != b.speaker]
    kinds = [[p for p in pairs if (p[0].word == p[1].word) is same] for same in (True, False)]
    return [kind[i] for kind in kinds for i in rng.choice(len(kind), min(EACH, len(kind)), replace=False)]


def trained(how: str, taken: list[Recording], seed: int, *first: dict):
    """Train a config on recordings, changed as it says after what stands `first`; returns the twin, and seconds."""
    from textsiam.config.run import read_config
    from textsiam.recipe import run

    with tempfile.TemporaryDirectory() as folder:
        source = folder_of(taken, Path(folder) / "words")
        data = ["--data.train", str(source), "--training.seed", str(seed), "--data.seed", str(seed)]
        data += ["--output", f"{folder}/run", "--training.tracker", "none"]
        augment = yaml.safe_load(CONFIGS[how].read_text())["training"].get("augment")
        if first and augment:
            data += ["--training.augment", json.dumps([*first, augment])]
        sys.path.insert(0, str(EXAMPLE))
        outcome = run(read_config([str(CONFIGS[how]), *data]))
        return outcome.twin, outcome.result.seconds


@cache
def mfccs(file: Path) -> np.ndarray:
    """Return 13 coefficients a window of 25 ms every 10 ms, mean and spread taken out, `(frames, 13)`."""
    import librosa

    samples, rate = librosa.load(file, sr=None)
    window = rate // 40
    found = librosa.feature.mfcc(
        y=np.pad(samples, (0, max(0, window - len(samples)))), sr=rate, n_mfcc=13, n_fft=256, win_length=window,
        hop_length=rate // 100, n_mels=40,
    )  # fmt: skip
    found = (found - found.mean(1, keepdims=True)) / (found.std(1, keepdims=True) + 1e-6)
    return found.T


def warped(pairs: list[tuple[Recording, Recording]], metric: str) -> np.ndarray:
    """Return minus the cost of the best warping of each pair, by the sum of both lengths."""
    import librosa

    scores = []
    for a, b in pairs:
        u, v = mfccs(a.file), mfccs(b.file)
        cost = librosa.sequence.dtw(u.T, v.T, metric=metric, backtrack=False)
        scores.append(-cost[-1, -1] / (len(u) + len(v)))
    return np.array(scores)


def best_warped(name: str, pairs: list[tuple[Recording, Recording]]) -> np.ndarray:
    """Return the scores of the variant of dynamic time warping that is best on these very pairs."""
    for file in PARTS.glob(f"{name} *.npz"):  # no seed changes them
        return np.load(file)["warping"]
    same = np.array([a.word == b.word for a, b in pairs])
    found = [warped(pairs, metric) for metric in ("euclidean", "cosine")]
    return min(found, key=lambda scores: eer(scores, same))


def encoded(twin, pairs: list[tuple[Recording, Recording]]) -> np.ndarray:
    """Return the similarity of each pair."""
    return twin.similarity([str(a.file) for a, _ in pairs], [str(b.file) for _, b in pairs])


def eer(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the rate at which as many of the same are refused as of others accepted."""
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    mine, others = weights[order] * same[order], weights[order] * ~same[order]
    refused, accepted = 1 - np.cumsum(mine) / mine.sum(), np.cumsum(others) / others.sum()
    at = int(np.argmin(np.abs(refused - accepted)))
    return float((refused[at] + accepted[at]) / 2)


def resampled(parts: list[dict], names: list[str], count: int = 1000) -> list[dict[str, list[float]]]:
    """Resample the parts, and the words of both sides; returns the mean EERs of each resample."""
    rng, found = np.random.default_rng(0), []
    units = sorted({unit for part in parts for side in part["units"] for unit in side})
    place = {unit: i for i, unit in enumerate(units)}
    sides = [[np.array([place[u] for u in side]) for side in part["units"]] for part in parts]
    for _ in range(count):
        drawn_units = rng.multinomial(len(units), np.full(len(units), 1 / len(units)))
        chosen = rng.integers(0, len(parts), len(parts))
        row = {name: [] for name in names}
        for part, (left, right) in ((parts[i], sides[i]) for i in chosen):
            weights = (drawn_units[left] * drawn_units[right]).astype(float)
            same = part["same"]
            if (weights * same).sum() == 0 or (weights * ~same).sum() == 0:
                continue
            for name in names:
                row[name].append(eer(part[name], same, weights))
        found.append({name: float(np.mean(values)) for name, values in row.items() if values})
    return [each for each in found if len(each) == len(names)]


def compared(what: str, how: str, parts: list[dict], ratio: float) -> dict:
    """Return the mean EERs of twin and warping, and of the twin less `ratio` times warping, with intervals."""
    names = ["twin", "warping"]
    value = {name: float(np.mean([eer(part[name], part["same"]) for part in parts])) for name in names}
    rows = resampled(parts, names)
    draws = {name: [row[name] for row in rows] for name in names}
    draws["difference"] = [row["twin"] - ratio * row["warping"] for row in rows]
    value["difference"] = value["twin"] - ratio * value["warping"]
    figures = {name: [value[name], *np.quantile(draws[name], [0.025, 0.975]).tolist()] for name in value}
    each = {part["name"]: {name: eer(part[name], part["same"]) for name in names} for part in parts}
    seconds = [part["seconds"] for part in parts]
    return {"what": what, "how": how, "ratio": ratio, "eer": figures, "parts": each, "seconds": seconds}


def part_of(
    how: str, name: str, known: list[Recording], held: Callable[[Recording], bool], seed: int, *first: dict
) -> dict:
    """Train on what is not held out, and score pairs of what is; a part that was done before is read."""
    file = PARTS / f"{name} {seed} {how}.npz"
    left = [each for each in known if held(each)]
    right = known if name in SPEAKERS else left
    pairs = drawn(left, right)
    part = {"name": f"{name}, seed {seed}", "same": np.array([a.word == b.word for a, b in pairs])}
    part["units"] = [[a.word for a, _ in pairs], [b.word for _, b in pairs]]
    if not file.exists():
        twin, seconds = trained(how, [each for each in known if not held(each)], seed, *first)
        file.parent.mkdir(exist_ok=True)
        np.savez(file, seconds=seconds, twin=encoded(twin, pairs), warping=best_warped(name, pairs))
    part |= {key: value if value.ndim else float(value) for key, value in np.load(file).items()}
    print(part["name"], {key: round(eer(part[key], part["same"]), 4) for key in ("twin", "warping")}, flush=True)
    return part


def speakers(how: str) -> list[dict]:
    """Hold out each speaker in turn."""
    known = recordings()
    parts = [part_of(how, who, known, lambda r, who=who: r.speaker == who, seed) for seed in SEEDS for who in SPEAKERS]
    return [compared("speakers", how, parts, 0.5)]


def words(how: str) -> list[dict]:
    """Hold out three words, another three for each seed."""
    known = recordings()
    parts = [
        part_of(how, "words " + " ".join(held), known, lambda r, held=held: r.word in held, seed, NEW_WORDS)
        for seed, held in zip(SEEDS, HELD_OUT, strict=True)
    ]
    return [compared("words", how, parts, 1.0)]


def voices() -> list[dict]:
    """Tell whether two recordings, of one word or of four, are of one speaker; the threshold is that of two others."""
    sys.path.insert(0, str(ROOT / "examples" / "voices"))
    from voices import voice_encoder

    from textsiam import Twin
    from textsiam.sounds import open_sound

    twin, rows = Twin(voice_encoder()), []
    for size in (1, 4):
        who, sounds = [], []
        for speaker in SPEAKERS:
            mine = sorted((r for r in recordings() if r.speaker == speaker), key=lambda r: r.file.stem.split("_")[::-1])
            for start in range(0, len(mine), size):
                parts = [open_sound(str(r.file), 16_000)[0] for r in mine[start : start + size]]
                sounds.append({"array": np.concatenate(parts), "sampling_rate": 16_000})
                who.append(speaker)
        vectors, of = twin.encode(sounds), np.array(who)
        rows.append({"what": "voices", "words": size, **measured_threshold(vectors @ vectors.T, of)})
    return rows


def measured_threshold(scores: np.ndarray, of: np.ndarray, far: float = 0.05) -> dict:
    """Return the EER of all pairs, and what a threshold of two speakers at this rate does with the other two."""
    left, right = np.triu_indices(len(of), 1)
    scores, same = scores[left, right], of[left] == of[right]
    found = []
    for pair in combinations(SPEAKERS, 2):
        mine, others = (
            np.isin(of[left], names) & np.isin(of[right], names) for names in (pair, sorted(set(SPEAKERS) - {*pair}))
        )
        threshold = float(np.quantile(scores[mine & ~same], 1 - far))
        accepted = scores[others] >= threshold
        found.append({
            "calibrated_on": list(pair), "threshold": threshold, "false_accepts": float(accepted[~same[others]].mean()),
            "false_rejects": float(1 - accepted[same[others]].mean()),
        })  # fmt: skip
    copied = {str(t): [float((scores[~same] >= t).mean()), float((scores[same] < t).mean())] for t in (0.25, 0.75)}
    return {"eer_all": eer(scores, same), "far": far, "splits": found, "copied": copied}


def table() -> None:
    """Print the rows as Markdown."""
    print(
        "| held out | EER of the twin % | of time warping % | difference to the target | training |\n|" + " --- |" * 5
    )
    for row in stored(RESULTS)["rows"]:
        if "eer" not in row:
            continue
        shown = {
            name: f"{100 * v:.1f} ({100 * low:.1f}–{100 * high:.1f})" for name, (v, low, high) in row["eer"].items()
        }
        target = "half of it" if row["ratio"] == 0.5 else "it"
        seconds = f"{np.mean(row['seconds']):.0f} s"
        held = f"{row['what']}, {row['how']}"
        difference = f"{shown['difference']} to {target}"
        print(f"| {held} | {shown['twin']} | {shown['warping']} | {difference} | {seconds} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speakers", "words", "voices", "table"])
    parser.add_argument("--how", choices=list(CONFIGS), default="scratch")
    given = parser.parse_args()
    made = {"speakers": lambda: speakers(given.how), "words": lambda: words(given.how), "voices": voices}
    asked = {"what": given.what} | ({} if given.what == "voices" else {"how": given.how})
    if given.what == "table":
        table()
    elif not any(row.items() >= asked.items() for row in stored(RESULTS)["rows"]):
        keep(RESULTS, made[given.what]())


if __name__ == "__main__":
    main()
