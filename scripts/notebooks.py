"""Make the notebooks of docs/notebooks from the tutorials: `python scripts/notebooks.py`. The pages are the source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
TUTORIALS = ("start", "your_forum", "your_pairs")
# Without it jupytext takes the language of most blocks, bash, for that of the notebook.
_KERNEL = """---
jupyter:
  kernelspec: {name: python3, display_name: Python 3, language: python}
---"""


def notebook(page: str) -> Any:
    """Return the notebook of a page: its python and bash blocks are cells, and what installs textsiam is left out."""
    import jupytext

    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https?:|#)", "](../", text)
    made = jupytext.reads(f"{_KERNEL}\n{text}", fmt="md")
    made.cells = [cell for cell in made.cells if "pip install" not in cell.source]
    for number, cell in enumerate(made.cells):
        cell["id"] = f"{page}-{number}"
        # Jupytext makes a magic of a block's language; each line of a page's block is a command that must succeed.
        if cell.cell_type == "code" and cell.source.startswith("%%bash"):
            cell.source = cell.source.replace("%%bash", "%%bash -e", 1)
    return made


def main() -> None:
    """Write them all."""
    import nbformat

    for page in TUTORIALS:
        made = notebook(page)
        nbformat.validate(made)
        nbformat.write(made, NOTEBOOKS / f"{page}.ipynb")
        print(f"docs/notebooks/{page}.ipynb  {len(made.cells)} cells")


if __name__ == "__main__":
    main()
