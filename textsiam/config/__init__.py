"""Everything that defines a run: dataclasses read from YAML and `--key value`, and what is built of them."""


def __getattr__(name: str) -> object:
    from textsiam.config import run  # `Config`, `read_config` and the `build_*` functions are at home there

    return getattr(run, name)
