"""What the site shows beside docs/: pages and files of the project that the docs link to, such as the change log.

MkDocs calls these functions: a link `../examples/x/README.md` leads to that file on GitHub, and to a copy on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top level, and every file that a page of docs/ links to outside it."""
    named = set(_PAGES)
    for page in sorted(ROOT.glob("docs/*.md")):
        named |= {match[1] for match in _OUTSIDE.finditer(page.read_text(encoding="utf-8"))}
    for name in sorted(named):
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Bring links that leave docs/, and those of the top level into it, to the site's paths."""
    if page.file.src_uri in _PAGES or page.file.src_uri.startswith("examples/"):
        return re.sub(r"\]\(((?:\.\./)*)docs/([^)]+)\)", r"](\1\2)", markdown)
    return _OUTSIDE.sub(r"](\1\2)", markdown) if "/" not in page.file.src_uri else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Make the empty corner of a table a cell like any other: it heads nothing."""
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", html)
