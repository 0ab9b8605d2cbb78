"""The house: no file imports another that needs it, rooms stay small, and nothing heavy is loaded by the door.

Imports inside functions and under TYPE_CHECKING are arrows too. The order of the rooms is checked by import-linter
(`lint-imports`, see pyproject.toml).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import textsiam

ROOT = Path(textsiam.__file__).parent
LARGEST_ROOM = 12  # modules of one folder


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("textsiam", exclude_type_checking_imports=False, cache_dir=None)


def test_imports_inside_functions_and_for_types_only_are_arrows(graph):
    in_a_function = {"importer": "textsiam.commands.making", "imported": "textsiam.sources"}
    for_types_only = {"importer": "textsiam.models.card", "imported": "textsiam.decision.decision"}
    assert graph.direct_import_exists(**in_a_function)
    assert graph.direct_import_exists(**for_types_only)


def test_no_file_needs_itself(graph):
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_rooms_are_small():
    sizes = Counter(path.parent for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    room, size = sizes.most_common(1)[0]
    assert size <= LARGEST_ROOM, f"{room.relative_to(ROOT)} holds {size} modules"


def test_the_door_loads_neither_torch_nor_transformers():
    code = "import sys, textsiam; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.stdout == "[]\n", said.stderr
