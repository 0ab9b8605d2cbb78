"""Which modalities there are beside text; whatever differs between them is asked of the medium."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import Modality
from textsiam.data.tables.errors import OnBadRow
from textsiam.data.tables.rows import Cell
from textsiam.images.medium import IMAGES
from textsiam.media.files import medium_within
from textsiam.media.medium import Medium
from textsiam.sounds.medium import SOUNDS

MEDIA: dict[Modality, Medium] = {each.modality: each for each in (IMAGES, SOUNDS)}
"""The medium of each modality; text has none."""


def medium_of(source: Any) -> Medium | None:
    """Return what the files of a folder, .zip or idx file are; None where a source holds no such files."""
    return medium_within(source, [*MEDIA.values()]) if isinstance(source, str | Path) else None


def modality_of(source: Any) -> Modality:
    """Return what a source holds by itself; a table is one of texts here, whatever its columns name."""
    medium = medium_of(source)
    return "text" if medium is None else medium.modality


def file_cells(modality: Modality, folder: Path | None, on_bad_row: OnBadRow = "error") -> Cell:
    """Return what reads the cells of a table that name files; see `Medium.cells`."""
    return MEDIA[modality].cells(folder, on_bad_row)


def described(augment: Any) -> Any:
    """Return plain values that say which augmentation it is, or which several: as a config names them."""
    if isinstance(augment, (list, tuple)):
        return [described(each) for each in augment]
    if not is_dataclass(augment) or isinstance(augment, type):
        return augment
    kind = type(augment)
    ours = any(kind is medium.augmentation for medium in MEDIA.values())
    return asdict(augment) if ours else {f"{kind.__module__}.{kind.__qualname__}": asdict(augment)}


def shown_by(modality: Modality) -> dict[str, Any]:
    """Return how a report shows inputs: its arguments `thumbnail` and `played`, none where inputs are to be read."""
    medium = MEDIA.get(modality)
    return {} if medium is None else {"thumbnail": medium.thumbnail, "played": medium.played}
