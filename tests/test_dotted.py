"""Objects of the user's own, by dotted path."""

from __future__ import annotations

import sys

import pytest

from textsiam.dotted import import_dotted
from textsiam.yamlfile import ConfigError


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_parts.py").write_text("class Loss:\n    margin = 0.25\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert import_dotted("my_own_parts.Loss", "loss").margin == 0.25
    sys.modules.pop("my_own_parts")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Loss", "'Loss' is no dotted path"),
        ("there_is_none.Loss", "no module 'there_is_none'"),
        ("math.sqroot", "module 'math' has no 'sqroot'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_key(path, message):
    with pytest.raises(ConfigError, match=message) as failure:
        import_dotted(path, "model.builder")
    assert str(failure.value).startswith("model.builder: ")


def test_an_error_inside_the_module_is_told(tmp_path, monkeypatch):
    (tmp_path / "my_broken_parts.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigError, match="importing 'my_broken_parts' failed: ZeroDivisionError"):
        import_dotted("my_broken_parts.Loss", "loss")
