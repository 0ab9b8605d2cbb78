"""Commands that look through many texts: encode them, flag duplicates among them, match queries to documents."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
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
    tell_shift,
    tell_unread,
)
from textsiam.commands.verdicts import Told, certified, estimated, expected_share, pure_of
from textsiam.terminal import (
    bold,
    dim,
    print_clusters,
    print_json,
    progress_bar,
    progress_bars,
    rounded,
    say,
)

if TYPE_CHECKING:
    from textsiam.data.texts import Texts
    from textsiam.decision.domain import DomainShift
    from textsiam.inference.unread import Unread
    from textsiam.models.scorer import Scorer
    from textsiam.search.duplicates import Duplicates

# The columns of a flagged pair; of a forum also those of its metadata, such as url1, url2.
_PAIR: dict[str, type] = {
    **dict.fromkeys(("id1", "id2", "question1", "question2"), str),
    **dict.fromkeys(("similarity", "probability"), float),
    "cluster": int,
}


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
    limit: Annotated[int, typer.Option(help="Clusters to print at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Find the duplicates inside a file of questions, and the clusters that they form."""
    from textsiam.sources import read_texts

    if labels is not None:
        _check_alone(threshold, prior, elsewhere=approximate or ray is not None or work is not None)
    partitions = _partitions_folder(output, work, ray, approximate=approximate)
    check_output(output)
    options = {"id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
    read = read_texts(one_or_all(questions), column=column, **options)
    tell_read(read.report)
    twin = open_twin(model)
    unread = tell_unread(twin, read.texts, read.ids)
    every, copies = _pairs_and_copies(read, expand_exact=expand_exact)
    if labels is not None:
        session = answered(twin, read, labels)
        decision = session.decision(precision)
        found = session.candidates.duplicates(twin, decision, expand_exact=expand_exact)
        told = Told(certificate=decision.certificate, pure_clusters=pure_of(session, found))
    else:
        decision = chosen_decision(twin, threshold, precision, prior, needed=threshold is None, texts=len(read))
        told = Told(shift=_shift(twin, read), picked=threshold is None and twin.collection is None)
        job = None if partitions is None else (model, partitions, ray)
        given = {"threshold": threshold, "decision": decision, "expand_exact": expand_exact}
        given["unread"] = None if include_unread else unread
        found = _joined(twin, read, given, approximate=approximate, job=job)
        if twin.collection is None and (prior is not None or told.shift is None):
            found, told.estimate = estimated(found, decision, every, prior)
        told.certificate = certified(twin, read, decision, found)
    _write_pairs(output, found, read)
    if output is not None and partitions is not None and partitions != work:
        shutil.rmtree(partitions)  # all that it was for is in the output
    shift = tell_shift(told.shift)
    if as_json:
        learned = None if decision is None else decision.learned_from
        facts = {**_facts(found, read), "exact_copies": copies, **_unread_facts(unread, found), **told.facts()}
        print_json({**facts, "decision": learned, "domain_shift": shift})
        return
    _print_found(found, read, expected_share(found, told.shift, told.estimate), limit)
    if output is not None:
        say(f"{len(found):,} pairs written to {output}")
    for sentence in [*_left_out(found, read, 0 if expand_exact else copies), *told.sentences()]:
        say(sentence)


def _joined(
    twin: Scorer,
    read: Texts,
    given: dict[str, Any],
    *,
    approximate: bool,
    job: tuple[str, Path, str | None] | None,
) -> Duplicates:
    from textsiam.search.duplicates import find_duplicates
    from textsiam.search.join.approximate import Sharding
    from textsiam.search.join.ray import JobConfig

    with progress_bars(("encoding", "texts"), ("comparing", "pairs")) as (progress, joining):
        return find_duplicates(
            twin,
            read.texts,
            **given,
            progress=progress,
            joining=joining,
            sharding=Sharding() if approximate else None,
            job=None if job is None else JobConfig(*job),
        )


def _left_out(found: Duplicates, read: Texts, copies: int) -> Iterator[str]:
    """Say which pairs are not among the flagged ones."""
    if found.unread:
        yield f"{found.unread:,} pairs differ in nothing that is read, and are not flagged; --include-unread does"
    if copies:
        yield f"{copies:,} {read.noun} are copies, each a pair with the first like it; --expand-exact gives all pairs"
    if found.recall is not None:
        yield f"approximate: {found.recall} of all pairs are expected to be found"


def _unread_facts(unread: Unread | None, found: Duplicates) -> dict[str, Any]:
    if unread is None:
        return {}
    return {"unread": {"unknown": int(unread.nothing.sum()), "cut": int(unread.cut.sum()), "pairs": found.unread}}


def _pairs_and_copies(read: Texts, *, expand_exact: bool) -> tuple[int, int]:
    """Return how many pairs are looked at, and how many texts are copies of others."""
    distinct = len(set(read.texts))
    copies = len(read) - distinct
    return (math.comb(len(read), 2) if expand_exact else math.comb(distinct, 2) + copies), copies


def _shift(twin: Scorer, read: Texts) -> DomainShift | None:
    from textsiam.models.domain import collection_shift

    return collection_shift(twin, read.texts, words=not read.images)


def _facts(found: Duplicates, read: Texts) -> dict[str, Any]:
    recall = {} if found.recall is None else {"recall": found.recall.to_dict()}
    facts = {"questions": len(read), "threshold": found.threshold, "read": read.report.to_dict(), **recall}
    clusters = [[read.ids[m] for m in members] for members in found.clusters]
    return {**facts, "pairs": list(_flagged_rows(found, read)), "clusters": clusters}


def _check_alone(threshold: float | None, prior: float | None, *, elsewhere: bool) -> None:
    if threshold is not None or prior is not None:
        raise typer.BadParameter("--labels excludes --threshold and --prior: the answers say both")
    if elsewhere:
        raise typer.BadParameter("--labels excludes --approximate, --ray and --work: it certifies pairs found here")


def _write_pairs(output: Path | None, found: Duplicates, read: Texts) -> None:
    if output is not None:
        from textsiam.data.tables.writers import write_table

        also = {f"{name}{side}": str for name in read.metadata for side in (1, 2)}
        write_table(output, _PAIR | also, _flagged_rows(found, read))


def _partitions_folder(output: Path | None, work: Path | None, ray: str | None, *, approximate: bool) -> Path | None:
    """Return the folder of a job in partitions; None where everything is done in memory."""
    if ray is None and work is None:
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


def _print_found(found: Duplicates, read: Texts, expected: str, limit: int) -> None:
    print_clusters(found.clusters, _flagged_rows(found, read), read.ids, read.texts, limit=limit)
    hidden = f" ({len(found.clusters) - limit} more not shown)" if len(found.clusters) > limit else ""
    print(
        f"{len(read):,} {read.noun}: {len(found):,} duplicate pairs in {len(found.clusters):,} clusters{hidden}, "
        f"similarity ≥ {found.threshold:.4f}{expected}"
    )


def _flagged_rows(found: Duplicates, read: Texts) -> Iterator[dict[str, Any]]:
    """Yield a row for each flagged pair, best first."""
    cluster_of = {member: c for c, members in enumerate(found.clusters) for member in members}
    for a, b, s, p in zip(found.left, found.right, found.similarity, found.probability, strict=True):
        yield {
            "id1": read.ids[a],
            "id2": read.ids[b],
            "question1": read.texts[a],
            "question2": read.texts[b],
            "similarity": rounded(float(s)),
            "probability": None if p != p else rounded(float(p)),
            # A chain of lookalikes is no cluster: both texts of a flagged pair need not be in the same one.
            "cluster": cluster_of.get(a) if cluster_of.get(a) == cluster_of.get(b) else None,
            **{f"{name}{side}": values[at] for name, values in read.metadata.items() for side, at in ((1, a), (2, b))},
        }


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

    check_output(output, (".npy",))
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

    check_output(output)
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
