"""Commands for a forum: make a forum folder of what it exports, and a twin for it of what it has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsiam.commands.options import BadRow, Json, Model, Quoted, open_twin, refuse_foreign
from textsiam.terminal import print_json, progress_bars, say, warn

if TYPE_CHECKING:
    from textsiam.adaptation import Adaptation
    from textsiam.decision.intervals import Estimate

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

    _check_apart(output, dump)
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

    _check_apart(output, export)
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

    _check_apart(output, file, links)
    with progress_bars(("importing", "rows")) as (rows,):
        found = import_table(file, output, text=text, links=links, on_bad_row=on_bad_row, quoted=quoted, progress=rows)
    _report(found, output, as_json)


@import_app.command()
def sample(output: Output, as_json: Json = False) -> None:
    """Import the packaged forum, to try the other commands on: 2,908 questions, a quarter of its duplicates linked."""
    from textsiam.forums.sample import import_sample

    with progress_bars(("importing", "rows")) as (rows,):
        found = import_sample(output, progress=rows)
    _report(found, output, as_json)


def _check_apart(output: Path, *inputs: str | Path | None) -> None:
    """Refuse to replace a folder by what is read in it."""
    for each in inputs:
        if each is not None and Path(each).exists() and Path(each).resolve().is_relative_to(output.resolve()):
            raise typer.BadParameter(f"{each} lies in --output {output}, which is replaced: name another folder")


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


def adapt(
    model: Model,
    forum: Annotated[Path, typer.Argument(help="A forum folder, as textsiam import writes it.")],
    output: Annotated[Path, typer.Option(help="Folder of the twin.")],
    pairs: Annotated[int, typer.Option(help="Pairs to learn from at most, the newest.", min=1)] = 2000,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-5,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Adapt a twin to a forum without labels; kept is what ranks the forum's own unseen links better."""
    from textsiam.forums.reading import is_forum

    if not is_forum(forum):
        raise typer.BadParameter(f"{forum} is no forum folder: make one with textsiam import")
    if not learning_rate > 0:
        raise typer.BadParameter(f"--learning-rate must be > 0, got {learning_rate}")
    refuse_foreign(output)
    twin = open_twin(model)
    from textsiam.adaptation import adapt as adapted
    from textsiam.models.twin import Twin

    if not isinstance(twin, Twin):
        raise typer.BadParameter(f"{model} is an ensemble: adapt a twin")
    quiet = not sys.stderr.isatty()
    knobs = {"pairs": pairs, "learning_rate": learning_rate, "seed": seed}
    found = adapted(twin, forum, **knobs, tell=say, quiet=quiet)
    found.twin.save_pretrained(output)
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    for line in _sentences(found, model):
        say(line)
    say(f"twin written to {output}")


def _sentences(found: Adaptation, model: str) -> list[str]:
    """Say what was learned, what it is worth, and which twin is kept."""
    gain, spread = found.chosen_by, found.difference
    if gain is None or spread is None or found.before is None or found.after is None:
        few = "two times ten groups of linked questions are needed to judge an adapted twin by, and the forum has fewer"
        return [f"{few}: {model} is kept as it is"]
    judged = (
        f"{found.links:,} links ({found.judged_by}) that neither trained nor chose: mean reciprocal rank "
        f"{100 * found.before:.1f} before, {100 * found.after:.1f} after ({_percent(spread)})"
    )
    chosen = f"{found.pairs:,} {found.learned_from} gained {_percent(gain)} on the links that choose"
    if not found.adapted:
        why = "which may be chance" if gain.low <= 0 else "but lost on the others"
        return [judged, f"learning from {chosen}, {why}: {model} is kept as it is"]
    if found.twin.decision is None:
        undecided = "it has no decision: textsiam label asks for answers that flag --labels makes one of"
        return [judged, f"adapted: learning from {chosen}", f"{undecided}; textsiam calibrate takes labelled pairs"]
    return [judged, f"adapted: learning from {chosen}"]


def _percent(gain: Estimate) -> str:
    return f"{100 * gain.value:+.1f}, 95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
