"""What a twin that version 0.1 saved holds: heads, rerankers, and towers of drawings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DRAWINGS = "textsiam_drawing_resnet"
_HEAD_KINDS = {"cohort": "score_normalization"}


def read_head(knobs: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return knobs and arrays of a saved head by the names of today."""
    kind = _HEAD_KINDS.get(knobs["kind"], knobs["kind"])
    now = {"head.floor": "head.candidate_threshold"}
    return {**knobs, "kind": kind}, {now.get(name, name): array for name, array in arrays.items()}


def head_knobs_of_0_1(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs of a head as 0.1 named its kind: fingerprints that 0.1 stored are made of these."""
    old = {now: old for old, now in _HEAD_KINDS.items()}
    return {**knobs, "kind": old.get(knobs["kind"], knobs["kind"])}


def reranker_folder(folder: Path) -> Path:
    """Return where the reranker of a saved twin is, if there is one."""
    old = folder / "verifier"
    return old if old.is_dir() else folder / "reranker"


def reranker_file(folder: Path) -> Path:
    """Return the file in the folder of a reranker that says how it is combined with a twin."""
    old = folder / "verifier.json"
    return old if old.is_file() else folder / "reranker.json"


def reranker_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what such a file says by the names of today."""
    if "wording" in facts:
        facts["lexical_features"] = facts.pop("wording")
    if "verifier" in (combination := facts["combination"] or {}):
        combination["reranker"] = combination.pop("verifier")
    return facts


def drawing_model(problem: str) -> str | None:
    """Return what to do about a tower that cannot be opened, if it is one of drawings that 0.1 saved."""
    if _DRAWINGS not in problem:
        return None
    return "it is a CNN of drawings: import unseen_digits first, the package in examples/unseen_digits"
