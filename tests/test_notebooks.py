"""The notebooks are those of the tutorials, and run."""

import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")
import nbformat
import notebooks as made

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", made.TUTORIALS)
def test_a_notebook_is_its_page(page):
    stored = nbformat.read(made.NOTEBOOKS / f"{page}.ipynb", as_version=4)
    nbformat.validate(stored)
    now = made.notebook(page)
    assert [(c.cell_type, c.source) for c in stored.cells] == [(c.cell_type, c.source) for c in now.cells], (
        "python scripts/notebooks.py"
    )
    for cell in stored.cells:  # commands are told from Python
        if cell.cell_type == "code" and not cell.source.startswith("%%bash -e\n"):
            compile(cell.source, page, "exec")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("page", ["your_pairs", "start", "your_forum"])
def test_a_notebook_runs(page, minilm, tmp_path, monkeypatch):
    if page != "your_pairs" and os.environ.get("TEXTSIAM_RELEASE") != "all":
        pytest.skip("minutes long: make test-release runs it")
    from nbclient import NotebookClient

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(made.NOTEBOOKS / f"{page}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert printed
