"""Objects of the user's own, named by a dotted path in a config: a loss, a tower, an augmentation."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from textsiam.yamlfile import ConfigError


def import_dotted(path: str, key: str) -> Any:
    """Import what a dotted path names; modules in the current directory are found too.

    Only call this with a path that the user wrote: importing runs code. A saved model or checkpoint is no such place.

    Args:
        path: For example `my_module.MyLoss`.
        key: The config key that it stands at, for the message of an error.

    Raises:
        ConfigError: There is no such module, it cannot be imported, or it has no such name.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"{key}: {path!r} is no dotted path: expected module.name")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}: {path!r}: no module {error.name!r} (looked in {here} too)") from error
    except AttributeError as error:
        raise ConfigError(f"{key}: {path!r}: module {module!r} has no {name!r}") from error
    except Exception as error:
        raise ConfigError(f"{key}: {path!r}: importing {module!r} failed: {type(error).__name__}: {error}") from error


def dotted(given: Any, key: str) -> tuple[str, dict[str, Any]]:
    """Return path and knobs of `module.name` or `{module.name: {knob: value}}`; nothing is imported.

    Raises:
        ConfigError: The value has another form.
    """
    named = {given: None} if isinstance(given, str) else given
    if isinstance(named, dict) and len(named) == 1:
        ((path, knobs),) = named.items()
        if isinstance(path, str) and (knobs is None or isinstance(knobs, dict)):
            return path, dict(knobs or {})
    raise ConfigError(f"{key} is {given!r}, expected module.name or {{module.name: {{knob: value}}}}")


def made(given: Any, key: str) -> Any:
    """Import what a config names, and call it with its knobs.

    Raises:
        ConfigError: It cannot be imported or called, a knob is unknown or missing, or a value is refused.
    """
    path, knobs = dotted(given, key)
    named = import_dotted(path, key)
    try:
        inspect.signature(named).bind(**knobs)
    except TypeError as error:
        raise ConfigError(f"{key}: {path}: {error}") from error
    try:
        return named(**knobs)
    except ValueError as error:
        raise ConfigError(f"{key}: {path}: {error}") from error
