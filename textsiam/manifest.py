"""The list of what runs made in an output folder: nothing else there is ever removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from os.path import lexists
from pathlib import Path

from textsiam.saving import SaveError
from textsiam.whole_file import whole_file
from textsiam.yamlfile import ConfigError

_FILE = "manifest.json"
_ASIDE = ".overwritten"


class Manifest:
    """The files and folders that runs made in their output folder, by name; see `docs/configuration.md`.

    Args:
        output: The folder; it need not exist.

    Raises:
        ConfigError: There is a `manifest.json` that no run wrote.
    """

    def __init__(self, output: Path) -> None:
        self._output, self._file, self._aside, self._made = output, output / _FILE, output / _ASIDE, list[str]()
        if not self._file.exists():
            return
        try:
            self._made = json.loads(self._file.read_text(encoding="utf-8"))["made_by_textsiam"]
            own = all(name and Path(name).name == name != ".." for name in self._made)  # nothing outside of the folder
        except (OSError, ValueError, KeyError, TypeError):
            own = False
        if not own:
            raise ConfigError(f"{self._file} was written by no run: move it, or choose another --output")

    @property
    def found(self) -> list[str]:
        """What runs made and is still there."""
        return [name for name in self._made if lexists(self._output / name)]

    def foreign(self, names: Collection[str]) -> list[str]:
        """Return which of these names something has that no run made."""
        return [name for name in names if name not in self._made and lexists(self._output / name)]

    def add(self, *names: str) -> None:
        """List names before anything is made under them.

        Raises:
            SaveError: Something that no run made has such a name, or the manifest cannot be written.
        """
        if foreign := self.foreign(names):
            raise SaveError(f"cannot write {self._output / foreign[0]}: it was made by no run, and stays as it is")
        self._write(list(dict.fromkeys([*self._made, *names])))

    def remove(self, names: Collection[str]) -> None:
        """Remove those of these names that runs made, and nothing else; what cannot be removed stays listed."""
        for path in (self._output / name for name in self.found if name in names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if any(name in names for name in self._made):
            self._write([name for name in self._made if name not in names or lexists(self._output / name)])

    def clear(self) -> None:
        """Remove everything that runs made, and the manifest."""
        self.remove(self._made)
        if not self._made:
            self._file.unlink(missing_ok=True)

    @property
    def aside(self) -> bool:
        """Whether an earlier run is set aside."""
        return self._aside.is_dir()

    def set_aside(self) -> None:
        """Move everything that runs made out of the way, until it is certain that another run replaces it.

        Raises:
            OSError: The folder cannot be written.
        """
        self._aside.mkdir(exist_ok=True)
        for name in (*self.found, *([_FILE] if self._file.exists() else [])):  # last the file that lists the others
            (self._output / name).rename(self._aside / name)
        self._made = []

    def put_back(self) -> None:
        """Remove what was made since, and put back what was set aside; where nothing was, it is as `clear`."""
        if not self.aside or (self._aside / _FILE).exists():  # else not everything was set aside yet
            self.clear()
        if self.aside:
            for path in sorted(self._aside.iterdir(), key=lambda path: path.name == _FILE):
                path.rename(self._output / path.name)
            self._aside.rmdir()

    def drop_aside(self) -> None:
        """Remove what was set aside."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def _write(self, made: list[str]) -> None:
        try:
            with whole_file(self._file) as aside:
                aside.write_text(json.dumps({"made_by_textsiam": made}, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise SaveError(f"cannot write {self._file}: {error.strerror or error}") from error
        self._made = made
