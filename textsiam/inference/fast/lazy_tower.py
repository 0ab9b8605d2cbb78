"""Towers that were saved in the usual way: encoding reads their files, and the libraries open them where more is asked.

Importing sentence-transformers, and transformers with it, takes longer than scoring a file of pairs.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from textsiam.inference.fast.saved_bert import SavedBert, files_of, read_bert

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_opening = threading.RLock()


class LazyTower(nn.Module):
    """A tower that becomes a `SentenceTransformer`, the very same object, as soon as more than its facts is asked for.

    What encodes texts takes what was read of its files from `saved_bert(tower)`; whatever else is asked of it, its
    class included, is answered by the library.

    Args:
        saved: What was read of its files.
        folder: Where they are.
        opened: Opens a folder by the library, on the CPU.
    """

    training = False
    device = torch.device("cpu")

    def __init__(self, saved: SavedBert, folder: Path, opened: Callable[[Path], SentenceTransformer]) -> None:
        # Not nn.Module's: there are no modules yet, and who asks for some has the library open them.
        found = {"_saved": saved, "_folder": folder, "_stamps": _stamps(folder), "_opened": opened}
        facts = saved.facts
        object.__getattribute__(self, "__dict__").update(
            found,
            prompts=facts["prompts"],
            default_prompt_name=facts["default_prompt_name"],
            similarity_fn_name=facts["similarity_fn_name"],
            max_seq_length=saved.max_tokens,
        )

    def get_embedding_dimension(self) -> int:
        """Return how many components a vector has."""
        return object.__getattribute__(self, "_saved").dim

    def train(self, mode: bool = True) -> Any:
        """Be trained from now on, or not: it is not as long as nobody asks."""
        return become(self).train() if mode else self

    def eval(self) -> Any:
        """Be used, and not trained."""
        return self

    def __getattribute__(self, name: str) -> Any:
        if name in _KNOWN:
            return object.__getattribute__(self, name)
        return getattr(become(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(become(self), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the library's tower does."""
        return become(self)(*args, **kwargs)

    def __getitem__(self, index: Any) -> Any:
        return become(self)[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(become(self))

    def __len__(self) -> int:
        return len(become(self))


_KNOWN = {"prompts", "default_prompt_name", "similarity_fn_name", "max_seq_length", "training", "device", "__dict__",
          "get_embedding_dimension", "train", "eval"}  # fmt: skip


def lazy_tower(folder: Path, opened: Callable[[Path], SentenceTransformer], device: str | None) -> LazyTower | None:
    """Return a tower that the library opens later, if ever; None where it must do so at once.

    Args:
        folder: The folder of the tower.
        opened: Opens a folder by the library, on the CPU.
        device: Where the weights go; None lets torch choose.
    """
    if device not in (None, "cpu") or (device is None and torch.accelerator.is_available()):
        return None
    saved = read_bert(folder)
    return None if saved is None else LazyTower(saved, folder, opened)


def saved_bert(tower: Any) -> SavedBert | None:
    """Return what was read of a tower's files; None where the library has opened it."""
    return tower.__dict__.get("_saved")


def become(tower: LazyTower) -> Any:
    """Have the library open a tower, which is that tower from now on; returns it."""
    known = object.__getattribute__(tower, "__dict__")
    with _opening:
        if (saved := known.get("_saved")) is not None:
            if _stamps(known["_folder"]) == known["_stamps"]:
                full = known["_opened"](known["_folder"])
            else:  # others have changed the folder, or taken it away
                with tempfile.TemporaryDirectory() as folder:
                    _write(saved, Path(folder))
                    full = known["_opened"](Path(folder))
            known.update(full.eval().__dict__)  # and only then the class: others may be asking meanwhile
            object.__setattr__(tower, "__class__", type(full))
            for name in ("_saved", "_folder", "_stamps", "_opened", "similarity_fn_name", "max_seq_length"):
                del known[name]
            tower.model_card_data.register_model(tower)  # pyright: ignore
    return tower


def _stamps(folder: Path) -> list[Any]:
    """Return what changes when a file of a folder does."""
    stats = ((file, file.stat()) for file in files_of(folder))
    return [(str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino) for file, stat in stats]


def _write(saved: SavedBert, folder: Path) -> None:
    for name, content in saved.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, weights in saved.stored.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / name, metadata={"format": "pt"})
