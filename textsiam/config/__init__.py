"""Everything that defines a run: dataclasses read from YAML and `--key value`, and what is built of them."""

from importlib import import_module


def __getattr__(name: str) -> object:
    # `Config`, `read_config` and the `build_*` functions are at home in run.py; a file of the room is found without us.
    if name.startswith("__") or name in ("augment", "data", "loss", "model", "run", "sets"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("textsiam.config.run"), name)
