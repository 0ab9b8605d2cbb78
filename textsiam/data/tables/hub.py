"""Datasets of the Hub, and the rows of any `datasets.Dataset`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsiam.data.tables.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Loader = Callable[..., "Dataset"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def load_hub(source: str, endings: Mapping[str, str], *, split: str, load: Loader | None) -> Dataset:
    """Load a split of the Hub dataset `owner/name[:config]`.

    Args:
        source: what was asked for; no file is there.
        endings: those of files: a name with one of them is no dataset.
        split: the split.
        load: replaces `datasets.load_dataset`.

    Raises:
        DataError: there is no such file, nor such a dataset.
    """
    path = Path(source)
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
    close = f"; close names there: {', '.join(near)}" if near else ""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & {*endings, ".gz"} or not _HUB_ID.fullmatch(source):
        raise DataError(f"{source}: no such file{close}")
    name, _, config = source.partition(":")
    try:
        if load is None:
            from datasets import load_dataset as load
        return load(name, config or None, split=split)
    except (OSError, ValueError, ImportError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise DataError(f"{source}: no such file{close}; as a Hub dataset, split {split!r}: {cause}") from error


class HubRows:
    """The rows of a dataset, numbered from 1; images as the dict of their bytes and path, undecoded."""

    def __init__(self, dataset: Dataset) -> None:
        """Look at the features."""
        features = dataset.features
        self.columns = tuple(dataset.column_names)
        self.class_names: dict[str, Sequence[str]] = {
            key: kind.names for key, kind in features.items() if hasattr(kind, "names")
        }
        self.image_columns = tuple(key for key, kind in features.items() if type(kind).__name__ == "Image")
        if self.image_columns:
            from datasets import Image

            for key in self.image_columns:
                dataset = dataset.cast_column(key, Image(decode=False))
        self._dataset = dataset

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Give (number, values in the order of `columns`)."""
        batches: Any = self._dataset.iter(batch_size=256 if self.image_columns else 8192)
        return enumerate(chain.from_iterable(zip(*batch.values(), strict=True) for batch in batches), 1)


def _names_in(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()]
    except OSError:
        return []
