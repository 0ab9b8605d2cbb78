"""Commands for an index that grows: make it, fill it, ask it, keep it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsiam.commands.options import (
    BadRow,
    IdColumn,
    Json,
    Model,
    PrecisionOption,
    Prior,
    Quoted,
    Threshold,
    chosen_decision,
    one_or_all,
    open_twin,
    tell_read,
    tell_shift,
    tell_unread,
)
from textsiam.commands.options import TextColumn as Column
from textsiam.terminal import answer, bold, dim, print_json, progress_bar, rounded, warn

if TYPE_CHECKING:
    from textsiam.search.index.base import Hit, Question, QuestionIndex, Scalar
    from textsiam.search.lookup import Checked, Found

index_app = typer.Typer(
    help="Keep questions where new ones are looked up: a folder, or postgresql://user@host/database#name.",
    no_args_is_help=True,
)

_CHECKED = 256  # questions checked between two steps of the progress bar

Index = Annotated[str, typer.Argument(help="A folder, or postgresql://user@host/database#name (PGPASSWORD is read).")]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="KEY=VALUE: only questions with this; repeat it for several keys.")
]


@index_app.command()
def create(model: Model, index: Index, as_json: Json = False) -> None:
    """Make an empty index for the vectors of a model."""
    from textsiam.search.factory import create_index

    twin = open_twin(model)
    from textsiam.search.ingest import index_model

    made = create_index(index, index_model(twin, name=_name(model)))
    answer(made.stats().facts(), f"{made.location}: an index for vectors of {made.model}", as_json=as_json)
    made.close()


@index_app.command()
def add(
    model: Model,
    index: Index,
    questions: Annotated[
        list[str], typer.Argument(help="Questions: .txt, .tsv, .csv, .jsonl, .parquet, sample:forum, -.")
    ],
    column: Column = None,
    id_column: IdColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, kept with every question; repeat it for several.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put this before every id, so that two files do not share ids.")] = "",
    compact: Annotated[bool, typer.Option(help="Merge at the end.")] = True,
    as_json: Json = False,
) -> None:
    """Add the questions of a file; one with an id that is there already is replaced where it differs.

    Of a file without ids, whose lines are numbered, none is replaced: give it a --prefix.
    """
    from textsiam.data.tables.errors import DataError
    from textsiam.data.tables.labels import shown
    from textsiam.search.index.base import Question
    from textsiam.sources import read_texts

    options = {"id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
    read = read_texts(one_or_all(questions), column=column, **options)
    tell_read(read.report)
    facts = _facts(metadata, "--metadata")
    rows = [
        Question(prefix + name, text, {**read.facts(place), **facts})
        for place, (name, text) in enumerate(zip(read.ids, read.texts, strict=True))
    ]
    rows, refused = _kept(rows, read.source, on_bad_row)
    opened = _opened(index)
    from textsiam.search.ingest import add_questions, first_replaced, index_model

    if read.numbered and not prefix and (both := first_replaced(opened, rows)):
        new, old = both
        raise DataError(
            f"{read.source}: has no ids, and {new.id!r}, the number of {shown(new.text)}, is the id of "
            f"{shown(old.text)} in {opened.location}: --prefix keeps two files apart, --id-column names a column of ids"
        )
    twin = open_twin(model)
    tell_unread(twin, read.texts, read.ids, side="right")
    with progress_bar("adding") as progress:
        named = index_model(twin, name=_name(model))
        added = add_questions(twin, opened, rows, model=named, progress=progress)
    if compact:
        opened.compact()
    total = opened.count()
    opened.close()
    line = f"{added.new:,} new, {added.replaced:,} replaced, {added.unchanged:,} unchanged; {total:,} questions"
    facts = {**asdict(added), "refused": refused, "questions": total, "read": read.report.to_dict()}
    answer(facts, line, as_json=as_json)


def _kept(rows: list[Question], source: str, on_bad_row: str) -> tuple[list[Question], int]:
    """Return the questions that an index can hold, and how many it cannot; the first of these ends it, unless skipped.

    Raises:
        DataError: An index cannot hold one, and it is not to be skipped.
    """
    from textsiam.data.tables.errors import DataError
    from textsiam.search.index.base import QuestionIndexError
    from textsiam.search.index.validation import check_question

    kept, told = [], list[str]()
    for row in rows:
        try:
            check_question(row)
        except QuestionIndexError as error:
            told.append(str(error))
            if on_bad_row == "error":
                raise DataError(f"{source}: {error}") from None
        else:
            kept.append(row)
    if told:
        warn((f"{source}: {len(told):,} questions that no index can hold are left out, the first one: {told[0]}",))
    return kept, len(told)


@index_app.command()
def search(
    model: Model,
    index: Index,
    questions: Annotated[list[str], typer.Argument(help="What to look for.")],
    top_k: Annotated[int | None, typer.Option(help="Hits at most; all, where only a threshold is given.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Least cosine: every such question is found.")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Find the questions nearest by cosine; `textsiam check` says which are duplicates."""
    if top_k is None and threshold is None:
        top_k = 10
    opened = _opened(index)
    twin = open_twin(model)
    from textsiam.search.ingest import index_model, search_texts

    chosen = {"k": top_k, "threshold": threshold, "where": _facts(where, "--where")}
    found = search_texts(twin, opened, questions, **chosen, model=index_model(twin, name=_name(model)))
    opened.close()
    if as_json:
        print_json([
            {"question": text, "hits": [_row(hit) for hit in hits]} for text, hits in zip(questions, found, strict=True)
        ])  # fmt: skip
        return
    for text, hits in zip(questions, found, strict=True):
        print(bold(text))
        for hit in hits:
            print(f"  {hit.similarity:.4f}  {hit.question.text}  {dim(hit.question.id)}")


@index_app.command()
def delete(
    index: Index,
    ids: Annotated[list[str], typer.Argument(help="Ids of the questions to forget.")],
    as_json: Json = False,
) -> None:
    """Forget questions by id."""
    with_index = _opened(index)
    gone = with_index.delete(ids)
    total = with_index.count()
    with_index.close()
    answer({"deleted": gone, "questions": total}, f"{gone:,} deleted; {total:,} questions", as_json=as_json)


@index_app.command()
def stats(index: Index, as_json: Json = False) -> None:
    """Say what an index holds."""
    opened = _opened(index)
    _print_stats(opened, as_json)


@index_app.command()
def compact(
    index: Index,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the search structure again.")] = False,
    as_json: Json = False,
) -> None:
    """Merge the latest changes into the search structure, and give back the space of what was deleted."""
    opened = _opened(index)
    if rebuild:
        opened.rebuild()
    else:
        opened.compact()
    _print_stats(opened, as_json)


@index_app.command()
def migrate(model: Model, index: Index, as_json: Json = False) -> None:
    """Encode every question with another model while the index serves, then switch; interrupted, it goes on later."""
    opened = _opened(index)
    twin = open_twin(model)
    from textsiam.search.ingest import migrate_index

    with progress_bar("migrating") as progress:
        migrate_index(twin, opened, name=_name(model), progress=progress)
    _print_stats(opened, as_json)


@index_app.command()
def snapshot(
    index: Index,
    target: Annotated[str, typer.Argument(help="A new folder; on a server, the name of a new index.")],
    as_json: Json = False,
) -> None:
    """Copy an index, as it is at one moment, to a new one of its own."""
    opened = _opened(index)
    copy = opened.snapshot(target)
    opened.close()
    answer({"snapshot": copy}, f"copied to {copy}", as_json=as_json)


def check(
    model: Model,
    index: Index,
    questions: Annotated[list[str] | None, typer.Argument(help="New questions.")] = None,
    file: Annotated[str | None, typer.Option("--file", help="Check the questions of a file.")] = None,
    column: Column = None,
    id_column: IdColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(help="Duplicates of a question to print at most.")] = 10,
    as_json: Json = False,
) -> None:
    """Say whether questions are in an index already: their duplicates, with probabilities, and the canonical one."""
    if bool(questions) == (file is not None):
        raise typer.BadParameter("name questions, or a --file of them")
    if limit < 0:
        raise typer.BadParameter(f"--limit must be >= 0, got {limit}")
    opened = _opened(index)
    texts, ids = list(questions or ()), [str(place + 1) for place in range(len(questions or ()))]
    if file is not None:
        from textsiam.sources import read_texts

        options = {"id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
        read = read_texts(file, column=column, **options)
        tell_read(read.report)
        texts, ids = read.texts, read.ids
    twin = open_twin(model)
    tell_unread(twin, texts, ids)
    texts_now = opened.count() + 1  # any question of the index, not a picked one
    decision = chosen_decision(twin, threshold, precision, prior, needed=threshold is None, texts=texts_now)
    from textsiam.models.domain import collection_shift
    from textsiam.search.ingest import index_model, index_shift
    from textsiam.search.lookup import check as checked_texts

    shift = tell_shift(collection_shift(twin, texts) or index_shift(twin, opened))
    settled = {
        "threshold": threshold, "decision": decision, "where": _facts(where, "--where"),
        "model": index_model(twin, name=_name(model)),
    }  # fmt: skip
    found: list[Checked] = []
    with progress_bar("checking") as progress:
        for start in range(0, len(texts), _CHECKED):
            found += checked_texts(twin, opened, texts[start : start + _CHECKED], **settled)
            progress(len(found), len(texts))
    opened.close()
    if as_json:
        told = {"domain_shift": None if shift is None else shift["message"]}
        print_json([_verdict(name, one) | told for name, one in zip(ids, found, strict=True)])
        return
    for one in found:
        print(bold(one.text))
        if one.canonical is None:
            print(f"   new: nothing reaches {one.threshold:.4f}")
            continue
        for duplicate in one.duplicates[:limit]:
            print(_duplicate_line(duplicate, canonical=duplicate is one.canonical))
        if len(one.duplicates) > limit:
            print(f"   … and {len(one.duplicates) - limit:,} more")


def _duplicate_line(duplicate: Found, *, canonical: bool) -> str:
    odds = "" if duplicate.probability is None else f", probability {duplicate.probability:.2f}"
    note = f"{duplicate.similarity:.4f}{odds}{', canonical' if canonical else ''}"
    return f"   = {duplicate.question.text}  {dim(f'{duplicate.question.id} ({note})')}"


def _verdict(name: str, one: Checked) -> dict[str, Any]:
    return {
        "id": name,
        "question": one.text,
        "duplicate": one.is_duplicate,
        "threshold": one.threshold,
        "canonical": None if one.canonical is None else _row(one.canonical),
        "duplicates": [_row(duplicate) for duplicate in one.duplicates],
    }


def _row(hit: Hit | Found) -> dict[str, Any]:
    question: Question = hit.question
    row = {"id": question.id, "text": question.text, "similarity": rounded(hit.similarity)}
    if hasattr(hit, "probability"):
        odds = getattr(hit, "probability")  # noqa: B009 (a hit of a search has none)
        row["probability"] = None if odds is None else rounded(odds)
    return row | {"metadata": dict(question.metadata)}


def _opened(index: str) -> QuestionIndex:
    from textsiam.search.factory import open_index

    return open_index(index)


def _print_stats(opened: QuestionIndex, as_json: bool) -> None:
    found = opened.stats()
    opened.close()
    if as_json:
        print_json(found.facts())
        return
    waiting = f", {found.unmerged:,} changes not merged yet" if found.unmerged else ""
    print(f"{found.location}: {found.questions:,} questions, {found.size / 2**20:,.1f} MiB{waiting}")
    print(f"vectors of {found.model}")
    if found.migrating_to is not None:
        print(f"a migration to {found.migrating_to} is not finished: run it again")


def _name(model: str) -> str:
    return Path(model).name if Path(model).exists() else model


def _facts(options: list[str] | None, option: str) -> dict[str, Scalar]:
    """Return the facts given as KEY=VALUE; numbers, true and false are what they look like, "quoted" is a string."""
    import json

    facts: dict[str, Scalar] = {}
    for given in options or ():
        key, equals, text = given.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{option} {given!r}: expected KEY=VALUE")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if key in facts:
            raise typer.BadParameter(f"{option} {given!r}: {key!r} stands before already, with {facts[key]!r}")
        facts[key] = value if isinstance(value, (str, int, float, bool)) else text
    return facts
