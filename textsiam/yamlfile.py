"""Reading YAML and `--key value` so that every key is known with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A config that cannot be used; the message names file, line, key and value."""


def together(faults: Sequence[ValueError]) -> ValueError:
    """Return several faults as one error, a line each; a single one as it is."""
    if len(faults) == 1:
        return faults[0]
    return ConfigError("\n  ".join([f"{len(faults)} faults:", *map(str, faults)]))


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file of nested keys.

    Raises:
        ConfigError: The file is missing, not UTF-8, not valid YAML, or holds no mapping.
    """
    if not file.is_file():
        near = get_close_matches(file.name, [p.name for p in file.parent.glob("*.yaml")], n=1)
        raise ConfigError(f"{file}: no such file" + (f"; did you mean {file.parent / near[0]}?" if near else ""))
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}:1: expected keys and values, got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: `2e-5` is a number, as everyone expects (YAML 1.1 reads a string); no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: dict[str, yaml.Node] = {}
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and known.setdefault(name.value, name) is not name:
                line = known[name.value].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {name.value!r} is there already, in line {line}", problem_mark=name.start_mark
                )
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def line_of(file: Path, key: str) -> int | None:
    """Return the line of a dotted key in a YAML file, or None where it is not there; names may have dots themselves."""
    node, line, rest = yaml.compose(file.read_text(encoding="utf-8")), None, f"{key}."
    while rest:
        entries = (
            [(name.value, name, value) for name, value in node.value] if isinstance(node, yaml.MappingNode) else []
        )
        if isinstance(node, yaml.SequenceNode):  # its items are named by their places
            entries = [(str(place), value, value) for place, value in enumerate(node.value)]
        found = next((entry for entry in entries if rest.startswith(f"{entry[0]}.")), None)
        if found is None:
            return None
        line, node, rest = found[1].start_mark.line + 1, found[2], rest[len(found[0]) + 1 :]
    return line


def overrides(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of `--key value`, `--key=value` and `--flag`.

    Raises:
        ConfigError: An argument is none of these.
    """
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or len(option) == 2:
            raise ConfigError(f"{option!r}: expected --key value (the config file comes first)")
        key, equals, value = option[2:].partition("=")
        if equals:
            text: str | None = value
        elif rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        else:
            text = "true"  # a bare flag
        yield key, _value(text)


def _value(text: str) -> Any:
    """Return what an argument says: a list, a mapping in braces or a quoted text as YAML has them, else one scalar.

    So a name such as "run #2" or "a: b" is itself: to a shell there are no comments, and a colon parts nothing.
    """
    if text[:1] in tuple("[{'\""):
        try:
            return yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            return text
    loader = _Loader("")
    node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
    return loader.construct_object(node) if text else text


def put(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value in nested dictionaries, by the keys that lead to it."""
    *path, last = keys
    for part in path:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value
