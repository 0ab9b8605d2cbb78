"""What a gallery says of inputs, as plain facts: the same at the terminal and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from textsiam.decision.decision import Verdict
    from textsiam.search.gallery import Gallery, Identity

_DIGITS = 6  # of a score that mean something


def verified(gallery: Gallery, name: str, probe: np.ndarray) -> dict[str, Any]:
    """Say whether an input is of an identity, and what is promised of that.

    Args:
        gallery: Calibrated.
        name: The identity that is claimed.
        probe: The vector (dim,) of the input, by the left tower.

    Raises:
        ModelError: As for `Gallery.verify`.
        KeyError: As for `Gallery.verify`.
    """
    verdict, point = gallery.judged([name], probe[None])[0], gallery.promise(name)
    known = {"name": name, "accepted": verdict.duplicate, "references": gallery.shots[name]}
    return {**known, **_figures(verdict), **point.promised()}


def identified(gallery: Gallery, similarities: np.ndarray, *, top_k: int) -> list[dict[str, Any]]:
    """Say whose inputs are, None for nobody enrolled, and which identities are most similar.

    Args:
        gallery: Calibrated.
        similarities: Of the inputs to all identities, as `Gallery.similarities` gives them.
        top_k: Identities to name of each.

    Raises:
        ModelError: As for `Gallery.identify`.
        ValueError: As for `Gallery.identify`.
    """
    return [
        {"name": one.name, **_figures(one), "candidates": _candidates(gallery, row, top_k)}
        for one, row in zip(gallery.named(similarities), similarities, strict=True)
    ]


def _figures(one: Verdict | Identity) -> dict[str, float]:
    return {name: round(getattr(one, name), _DIGITS) for name in ("probability", "similarity", "threshold")}


def _candidates(gallery: Gallery, scores: np.ndarray, top_k: int) -> list[dict[str, Any]]:
    best = (-scores).argsort(kind="stable")[:top_k]
    assert gallery.identification is not None
    odds = gallery.identification.decision.probability(scores[best])
    return [
        {"name": gallery.names[i], "similarity": round(float(scores[i]), _DIGITS), "probability": round(p, _DIGITS)}
        for i, p in zip(best.tolist(), odds.tolist(), strict=True)
    ]
