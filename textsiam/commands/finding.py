"""Commands that look through many texts: encode them, flag duplicates among them, match queries to documents."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textsiam.commands.labelling import answered
from textsiam.commands.options import (
    TABLE_FORMATS,
    BadRow,
    IdColumn,
    Json,
    Model,
    PrecisionOption,
    Prior,
    Quoted,
    TextColumn,
    Threshold,
    check_output,
    chosen_decision,
    one_or_all,
    open_twin,
    tell_read,
    tell_unread,
)
from textsiam.commands.verdicts import Told, certified, estimated, pure_of
from textsiam.terminal import bold, dim, print_json, progress_bar, progress_bars, rounded, say

if TYPE_CHECKING:
    from textsiam.data.tables.errors import OnBadRow
    from textsiam.data.texts import Texts
    from textsiam.models.scorer import Scorer
    from textsiam.search.duplicates import Duplicates
    from textsiam.search.join.ray import JobConfig


def flag(
    model: Model,
    questions: Annotated[
        list[str],
        typer.Argument(help="Questions: .txt, .tsv, .csv, .jsonl, .parquet, sample:forum, -; or a folder of images."),
    ],
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    labels: Annotated[
        Path | None, typer.Option(help="Answers of `label` about these questions: flag what they certify.")
    ] = None,
    column: TextColumn = None,
    id_column: IdColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    output: Annotated[Path | None, typer.Option(help=f"Write the flagged pairs here: {TABLE_FORMATS}.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write an HTML report here: scores, what is promised, clusters; of images, a contact sheet."),
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Find most pairs, sooner; says which share that is.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster that does it; 'auto', or 'local' for this machine.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Encode and join in partitions kept in this folder; the same command goes on there."),
    ] = None,
    expand_exact: Annotated[
        bool, typer.Option("--expand-exact", help="Give every pair of equal questions, not each with the first alone.")
    ] = False,
    include_unread: Annotated[
        bool,
        typer.Option("--include-unread", help="Flag pairs too that differ only in unknown tokens or behind the cut."),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Clusters to print at most, 20 by default; with --json also pairs, and all by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the duplicates inside a file of questions, and the clusters that they form."""
    from textsiam.commands.flagged import Places, tell_found, with_broken
    from textsiam.sources import read_texts

    if labels is not None:
        _check_alone(threshold, prior, elsewhere=approximate or ray is not None or work is not None)
    if limit is not None and limit < 0:
        raise typer.BadParameter(f"--limit must be >= 0, got {limit}")
    apart = labels is None and not approximate and output is not None and _holds_files(questions)
    partitions = _partitions_folder(output, work, ray, approximate=approximate, apart=apart)
    check_output(output, inputs=(*questions, labels))
    check_output(report, (".html", ".htm"), inputs=(*questions, labels))
    options = {"id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
    with _texts_folder(partitions, keep=partitions == work) as store:
        read = read_texts(one_or_all(questions), column=column, store=store, **options)
        files = read.modality != "text"
        if partitions is None or not files:
            tell_read(read.report)
        twin = open_twin(model)
        unread = tell_unread(twin, read.texts, read.ids)
        if labels is not None:
            session = answered(twin, read, labels)
            decision = session.decision(precision)
            with progress_bars(("encoding", "texts")) as (progress,):
                found = session.candidates.duplicates(
                    twin,
                    read.texts,
                    decision.threshold,
                    decision,
                    expand_exact=expand_exact,
                    progress=progress,
                )
            told = Told(certificate=decision.certificate, pure_clusters=pure_of(session, found))
        else:
            decision = chosen_decision(twin, threshold, precision, prior, needed=threshold is None, texts=len(read))
            job = None if partitions is None else _job(model, partitions, ray, on_bad_row, files=files)
            given = {"threshold": threshold, "decision": decision, "expand_exact": expand_exact}
            given["unread"] = None if include_unread else unread
            found = _joined(twin, read, given, approximate=approximate, job=job)
            if job is not None and files:
                read = with_broken(read, found)
                tell_read(read.report)
            told = Told(shift=found.shift, picked=threshold is None and twin.collection is None)
            if twin.collection is None and (prior is not None or told.shift is None):
                copies = 0 if expand_exact else found.copies
                every = math.comb(len(read) - copies, 2)
                found, told.estimate = estimated(found, decision, every, prior, copies)
            told.certificate = certified(twin, read, decision, found)
        places = Places(output, report)
        tell_found(found, read, told, model, decision, places, expand_exact=expand_exact, limit=limit, unread=unread,
                   as_json=as_json)  # fmt: skip


@contextmanager
def _texts_folder(partitions: Path | None, *, keep: bool) -> Iterator[Path | None]:
    """Give a folder for the texts of a job in partitions; in the end, the whole folder of the job is kept, or none."""
    if partitions is None:
        yield None
        return
    from textsiam.search.join.job import scratch_of

    with scratch_of(partitions) as texts:
        try:
            yield texts
        except KeyboardInterrupt:
            say(f"what is done is kept in {partitions}: the same command goes on there")
            raise
    if not keep:
        shutil.rmtree(partitions)  # all that it was for is in the output


def _job(model: str, folder: Path, address: str | None, on_bad_row: OnBadRow, *, files: bool) -> JobConfig:
    from textsiam.search.join.ray import FILES_OF_PARTITION, PARTITION_SIZE, JobConfig

    size = FILES_OF_PARTITION if files else PARTITION_SIZE
    return JobConfig(model, folder, address, partition_size=size, on_bad_row=on_bad_row)


def _joined(
    twin: Scorer, read: Texts, given: dict[str, Any], *, approximate: bool, job: JobConfig | None
) -> Duplicates:
    from textsiam.search.duplicates import find_duplicates
    from textsiam.search.join.approximate import Sharding

    with progress_bars(("encoding", "texts"), ("comparing", "pairs")) as (progress, joining):
        return find_duplicates(
            twin,
            read.texts,
            **given,
            progress=progress,
            joining=joining,
            sharding=Sharding() if approximate else None,
            job=job,
        )


def _check_alone(threshold: float | None, prior: float | None, *, elsewhere: bool) -> None:
    if threshold is not None or prior is not None:
        raise typer.BadParameter("--labels excludes --threshold and --prior: the answers say both")
    if elsewhere:
        raise typer.BadParameter("--labels excludes --approximate, --ray and --work: it certifies pairs found here")


def _holds_files(sources: list[str]) -> bool:
    from textsiam.modality import medium_of

    return len(sources) == 1 and medium_of(sources[0]) is not None


def _partitions_folder(
    output: Path | None, work: Path | None, ray: str | None, *, approximate: bool, apart: bool
) -> Path | None:
    """Return the folder of a job in partitions; None where everything is done in memory.

    With `apart`, there is one in any case: a folder of files takes long, and is to go on where it was stopped.
    """
    if ray is not None and find_spec("ray") is None:
        raise typer.BadParameter("ray is not installed: pip install 'textsiam[ray]'")
    if ray is None and work is None and not apart:
        return None
    if approximate:
        raise typer.BadParameter("--approximate excludes --ray and --work, which find every pair")
    if work is not None:
        return work
    if output is None:
        raise typer.BadParameter(
            "--ray needs --output or --work: the partitions of the job are written beside it, or there"
        )
    return output.with_name(f"{output.name}.partitions")


def encode(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Texts: .txt, .tsv, .csv, .jsonl, .parquet, sample:forum, or -.")],
    output: Annotated[Path, typer.Option(help="Write the vectors here: .npy, one float32 row a text, in order.")],
    column: TextColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    side: Annotated[
        Literal["left", "right"] | None, typer.Option(help="Which side of an asymmetric twin: queries are left.")
    ] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Number format.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile: for large jobs on a GPU.")] = False,
    as_json: Json = False,
) -> None:
    """Encode the texts of a file into vectors of length 1: a .npy file that can be mapped into memory."""
    from textsiam.sources import read_texts

    check_output(output, (".npy",), inputs=texts)
    read = read_texts(one_or_all(texts), column=column, on_bad_row=on_bad_row, quoted=quoted)
    tell_read(read.report)
    twin = open_twin(model, sides=side is not None)
    tell_unread(twin, read.texts, read.ids, side=side or "left")
    from textsiam.data.tables.arrays import save_vectors

    with progress_bar("encoding") as progress:
        done = 0

        def counted() -> Iterator[Any]:
            nonlocal done
            for block in twin.encode_stream(read.texts, side=side or "left", precision=precision, compiled=compiled):
                yield block
                done += len(block)
                progress(done, len(read))

        rows = save_vectors(output, counted(), dim=twin.dim)
    if as_json:
        print_json({"vectors": rows, "dim": twin.dim, "output": str(output), "read": read.report.to_dict()})
    else:
        say(f"{rows:,} vectors of {twin.dim} dimensions written to {output}")


def match(
    model: Model,
    queries: Annotated[list[str], typer.Option(help="File of queries, or several.")],
    documents: Annotated[list[str], typer.Option(help="File of documents, or several.")],
    top_k: Annotated[int, typer.Option(help="Documents for each query.")] = 10,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    output: Annotated[Path | None, typer.Option(help=f"Write the matches here: {TABLE_FORMATS}.")] = None,
    as_json: Json = False,
) -> None:
    """Find the most similar documents of each query."""
    from textsiam.sources import read_texts

    check_output(output, inputs=(*queries, *documents))
    options = {"on_bad_row": on_bad_row, "quoted": quoted}
    asked, library = (read_texts(one_or_all(source), **options) for source in (queries, documents))
    tell_read(asked.report, library.report)
    twin = open_twin(model, sides=True)
    tell_unread(twin, asked.texts, asked.ids)
    tell_unread(twin, library.texts, library.ids, side="right")
    from textsiam.search.nearest import best_matches

    with progress_bar("encoding documents") as progress:
        vectors = twin.encode(library.texts, side="right", progress=progress)
    where, similarity = best_matches(twin, twin.encode(asked.texts, side="left"), vectors, top_k)
    rows = [
        {
            "query_id": asked.ids[q],
            "rank": rank + 1,
            "document_id": library.ids[d],
            "similarity": rounded(float(similarity[q, rank])),
            "query": asked.texts[q],
            "document": library.texts[d],
        }
        for q in range(len(asked))
        for rank, d in enumerate(where[q].tolist())
    ]
    if output is not None:
        from textsiam.data.tables.writers import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} matches written to {output}")
    if as_json:
        print_json(rows)
    elif output is None:
        for row in rows:
            if row["rank"] == 1:
                print(f"{bold(row['query'])}  {dim(row['query_id'])}")
            print(f"  {row['similarity']:.4f}  {row['document']}  {dim(row['document_id'])}")
