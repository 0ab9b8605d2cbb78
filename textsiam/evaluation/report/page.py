"""The page of a report: one self-contained HTML file; its tables can be sorted, and its data taken out of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from textsiam.whole_file import whole_file

_UNPRINTABLE = dict.fromkeys({*range(32), 127} - {9, 10, 13}, "\N{REPLACEMENT CHARACTER}")


def write_page(
    path: str | os.PathLike[str],
    sections: Sequence[tuple[str, str, str]],
    *,
    title: str,
    kicker: str,
    facts: Mapping[str, str],
) -> Path:
    """Write a page, whole or not at all: no request, light, dark and printable; equal input gives equal bytes.

    Its only script is the package's own, named by its hash in the policy of the page: it sorts tables.

    Args:
        path: The file to write; missing folders are made.
        sections: Id, heading and HTML of each.
        title: The heading.
        kicker: What kind of report it is.
        facts: Name → value, shown under the heading.

    Raises:
        OSError: The file cannot be written; what stood there before is untouched.
    """
    here = files("textsiam.evaluation.report")
    template, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.html", "sorting.js"))
    page = Template(template).substitute(
        title=escape(title),
        kicker=escape(kicker),
        facts=_facts(facts),
        contents="".join(f'<a href="#{ident}">{name}</a>' for ident, name, _ in sections),
        sections="".join(f'<section id="{ident}"><h2>{name}</h2>{body}</section>' for ident, name, body in sections),
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:  # a reader never meets half a page
        aside.write_text(page.translate(_UNPRINTABLE), encoding="utf-8", errors="replace", newline="\n")
    return path


def download(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a link that saves a table which the page holds, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    data = base64.b64encode(text.getvalue().encode("utf-8", "replace")).decode()
    return f'<p class="download"><a download="{name}" href="data:text/csv;base64,{data}">Download {name}</a></p>'


def _facts(facts: Mapping[str, str]) -> str:
    entries = (f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(entries)}</dl>" if facts else ""
