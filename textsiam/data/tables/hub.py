"""Datasets of the Hub."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsiam.data.tables.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Loader = Callable[..., "Dataset"]
# A name alone is a file whose name was mistyped: only `owner/name`, or the old `name:config`, is asked of the Hub.
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+(@[\w./-]+)?(:[\w.-]+)?|:[\w.-]+)")


def load_hub(source: str, endings: Mapping[str, str], *, split: str, load: Loader | None) -> Dataset:
    """Load a split of the Hub dataset `owner/name[@revision][:config]`.

    Args:
        source: what was asked for; no file is there.
        endings: those of files: a name with one of them is no dataset.
        split: the split.
        load: replaces `datasets.load_dataset`.

    Raises:
        DataError: there is no such file, nor such a dataset.
    """
    path = Path(source)
    if path.is_symlink():
        raise DataError(f"{source}: is a link to {os.readlink(path)}, where no file is")
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
    close = f"; close names there: {', '.join(near)}" if near else ""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & {*endings, ".gz"} or not _HUB_ID.fullmatch(source):
        raise DataError(f"{source}: no such file{close}")
    name, _, config = source.partition(":")
    try:
        if load is None:
            from datasets import load_dataset as load
        name, _, revision = name.partition("@")
        at: dict[str, Any] = {"revision": revision} if revision else {}
        with _no_word_of_retries():
            return load(name, config or None, split=split, **at)
    except (OSError, ValueError, ImportError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise DataError(f"{source}: no such file{close}; as a Hub dataset, split {split!r}: {cause}") from error


@contextmanager
def _no_word_of_retries() -> Iterator[None]:
    """Keep the Hub's client from telling each attempt to reach the Hub; what becomes of them is told in the end."""
    log = logging.getLogger("huggingface_hub.utils._http")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _names_in(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()]
    except OSError:
        return []
