"""Commands that make a forum folder of what a forum exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textsiam.commands.options import BadRow, Json, Quoted
from textsiam.terminal import print_json, progress_bars, say, warn

import_app = typer.Typer(
    help="Make a forum folder (questions and duplicate links) of an export; commands take it where they take a file.",
    no_args_is_help=True,
)

Output = Annotated[Path, typer.Option(help="The forum folder; one that is there is replaced.")]
Text = Annotated[str, typer.Option(help="The text of a question, over id, title, body, tags, created, url, score.")]
Site = Annotated[str | None, typer.Option(help="Host of the forum, such as askubuntu.com: gives questions their url.")]


@import_app.command()
def stackexchange(
    dump: Annotated[Path, typer.Argument(help="The folder that holds Posts.xml and PostLinks.xml.")],
    output: Output,
    text: Text = "{title}",
    site: Site = None,
    on_bad_row: BadRow = "skip",
    as_json: Json = False,
) -> None:
    """Import a dump of Stack Exchange: its questions, and the links "duplicate" and "related" between them."""
    from textsiam.forums.stackexchange import import_stackexchange

    with progress_bars(("importing", "MB")) as (megabytes,):
        found = import_stackexchange(
            dump, output, text=text, site=site, on_bad_row=on_bad_row,
            progress=lambda done, total: megabytes(done // 1_000_000, max(total // 1_000_000, 1)),
        )  # fmt: skip
    _report(found, output, as_json)


@import_app.command()
def discourse(
    export: Annotated[Path, typer.Argument(help="A .json, .jsonl or .csv file, or a folder of them.")],
    output: Output,
    text: Text = "{title}",
    site: Site = None,
    on_bad_row: BadRow = "skip",
    as_json: Json = False,
) -> None:
    """Import topics of Discourse, as its API or its data explorer gives them."""
    from textsiam.forums.discourse import import_discourse

    with progress_bars(("importing", "kB")) as (kilobytes,):
        found = import_discourse(
            export, output, text=text, site=site, on_bad_row=on_bad_row,
            progress=lambda done, total: kilobytes(done // 1000, max(total // 1000, 1)),
        )  # fmt: skip
    _report(found, output, as_json)


@import_app.command()
def table(
    file: Annotated[str, typer.Argument(help="A table: .tsv, .csv, .jsonl or .parquet, plain or .gz; or a Hub id.")],
    output: Output,
    text: Annotated[
        str | None, typer.Option(help="The text of a question, over the columns: '{title}. {body}'.")
    ] = None,
    links: Annotated[
        Path | None, typer.Option(help="Table of links: id1, id2, and kind (duplicate or related) if they differ.")
    ] = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Import any table, a question a row."""
    from textsiam.forums.table import import_table

    with progress_bars(("importing", "rows")) as (rows,):
        found = import_table(file, output, text=text, links=links, on_bad_row=on_bad_row, quoted=quoted, progress=rows)
    _report(found, output, as_json)


def _report(found: dict[str, Any], output: Path, as_json: bool) -> None:
    warn(tuple(found["examples"]))
    for head in ("left_out", "changed"):
        if found[head]:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in found[head].items())
            say(f"{head.replace('_', ' ')}: {counts}")
    if as_json:
        print_json(found)
        return
    links = found["links"]
    say(f"{found['questions']:,} questions, {links['duplicate']:,} duplicate and {links['related']:,} related links "
        f"written to {output}")  # fmt: skip
    if "site" in found["source"] and found["source"]["site"] is None:
        say("no urls: --site HOST gives them")
