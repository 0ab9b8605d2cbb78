"""The command line: thin commands over the library. Torch is loaded only when a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textsiam import __version__
from textsiam.terminal import (
    escaped,
    fail,
    make_console,
    print_clusters,
    print_json,
    print_verdict,
    progress_bar,
    quieten_libraries,
    rounded,
    say,
    warn,
)

if TYPE_CHECKING:
    from textsiam.models.decision import Decision
    from textsiam.models.twin import Twin

app = typer.Typer(
    help="Twin encoders that find duplicate questions, and know when a score means 'duplicate'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Look at pairs before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Model = Annotated[str, typer.Argument(help="A saved twin, any SentenceTransformer, or all-MiniLM-L6-v2.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
BadRow = Annotated[Literal["error", "skip"], typer.Option(help="Stop at a bad row, or count it and go on.")]
Column = Annotated[
    list[str] | None, typer.Option("--column", help="left=NAME, right=NAME, label=NAME: columns not recognised.")
]
Prior = Annotated[
    float | None, typer.Option(help="Share of duplicates where the twin is used; restates probability and threshold.")
]
Threshold = Annotated[float | None, typer.Option(help="Least similarity of a duplicate, instead of the learned one.")]
PrecisionOption = Annotated[
    float | None, typer.Option("--precision", help="Learn the threshold for this precision, with 95 % confidence.")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def score(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(help="Two texts.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Score every pair of this file instead.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the scored pairs here: .tsv, .csv or .jsonl.")] = None,
    column: Column = None,
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    as_json: Json = False,
) -> None:
    """Score two texts, or a file of pairs: similarity, probability, verdict."""
    if (pairs is None) == (not texts):
        raise typer.BadParameter("give two texts, or --pairs FILE")
    if texts and len(texts) != 2:
        raise typer.BadParameter(f"expected two texts, got {len(texts)}")
    from textsiam.data.pairs import Pairs, read_pairs

    if pairs is not None:
        read = read_pairs(pairs, columns=_columns(column), labelled=False)
    else:
        first, second = texts or ("", "")
        read = Pairs.from_texts([first], [second], [-1], source="command line")
    twin = _open(model)
    decision = _decision(twin, threshold, precision, prior, needed=False)
    with progress_bar("encoding") as progress:
        similarity = twin.pair_similarity(read.texts, read.left, read.right, progress=progress)
    left, right = read.left_texts, read.right_texts
    rows = [
        {"question1": a, "question2": b, "similarity": rounded(s), **verdict}
        for a, b, s, verdict in zip(
            left, right, similarity.tolist(), _verdicts(decision, similarity, threshold), strict=True
        )
    ]
    if output is not None:
        from textsiam.data.tables import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} scored pairs written to {output}")
    elif as_json:
        print_json(rows if pairs is not None else rows[0])
    else:
        for row in rows:
            print_verdict(row, with_texts=pairs is not None)


@app.command()
def evaluate(
    model: Model,
    pairs: Annotated[str, typer.Argument(help="Labelled pairs, or graded ones (a column `score`): file or Hub id.")],
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    column: Column = None,
    on_bad_row: BadRow = "error",
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    as_json: Json = False,
) -> None:
    """Measure a twin on pairs it never saw: AP, accuracy, F1, calibration, slices; Spearman for graded pairs."""
    from textsiam.data.pairs import read_pairs

    graded = _graded(pairs) if column is None else None
    read = None if graded else read_pairs(pairs, columns=_columns(column), on_bad_row=on_bad_row)
    twin = _open(model)
    if graded is not None:
        from textsiam.evaluation.retrieval import evaluate_sts

        result = evaluate_sts(twin, graded, name=model)
        print_json(result.to_dict()) if as_json else say(str(result), stream=sys.stdout)
        return
    assert read is not None
    from textsiam.evaluation.pairs import evaluate_pairs

    warn(read.report.warnings)
    evaluation = evaluate_pairs(twin, read, decision=_decision(twin, threshold, precision, prior), name=model)
    if report is not None:
        from textsiam.evaluation.report import write_report

        write_report(report, [evaluation], facts={"model": model, "data": pairs})
    if as_json:
        print_json(evaluation.to_dict())
    else:
        from textsiam.recipe import results_table

        make_console().print(results_table([evaluation]))
        if report is not None:
            say(f"report written to {report}")


@app.command()
def flag(
    model: Model,
    questions: Annotated[str, typer.Argument(help="Questions: .txt, .tsv, .csv, .jsonl, .parquet, or sample:forum.")],
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    column: Annotated[str | None, typer.Option(help="Name of the column that holds the questions.")] = None,
    on_bad_row: BadRow = "error",
    output: Annotated[Path | None, typer.Option(help="Write the flagged pairs here: .tsv, .csv or .jsonl.")] = None,
    limit: Annotated[int, typer.Option(help="Clusters to print at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Find the duplicates inside a file of questions, and the clusters that they form."""
    from textsiam.data.texts import read_texts

    read = read_texts(questions, column=column, on_bad_row=on_bad_row)
    warn(read.report.warnings)
    twin = _open(model)
    if twin.collection is not None and prior is None:
        twin.decision = twin.collection.among(len(read))  # all pairs of a file, not pairs that somebody picked
    decision = _decision(twin, threshold, precision, prior, needed=threshold is None)
    from textsiam.search.join import find_duplicates

    with progress_bar("encoding") as progress:
        found = find_duplicates(twin, read.texts, threshold=threshold, decision=decision, progress=progress)
    cluster_of = {member: c for c, members in enumerate(found.clusters) for member in members}
    pairs = [
        {
            "id1": read.ids[a],
            "id2": read.ids[b],
            "question1": read.texts[a],
            "question2": read.texts[b],
            "similarity": rounded(s),
            "probability": None if p != p else rounded(p),
            # A chain of lookalikes is no cluster: both texts of a flagged pair need not be in the same one.
            "cluster": cluster_of.get(a) if cluster_of.get(a) == cluster_of.get(b) else None,
        }
        for a, b, s, p in zip(
            found.left, found.right, found.similarity.tolist(), found.probability.tolist(), strict=True
        )
    ]
    if output is not None:
        from textsiam.data.tables import write_table

        names = ["id1", "id2", "question1", "question2", "similarity", "probability", "cluster"]
        write_table(output, names, pairs)
    if as_json:
        clusters = [[read.ids[m] for m in members] for members in found.clusters]
        print_json({"questions": len(read), "threshold": found.threshold, "pairs": pairs, "clusters": clusters})
        return
    console = make_console()
    print_clusters(console, found.clusters, pairs, read.ids, read.texts, limit=limit)
    hidden = f" ({len(found.clusters) - limit} more not shown)" if len(found.clusters) > limit else ""
    right = found.probability.sum()
    expected = (
        "" if not len(found) or right != right else f"; about {right / len(found):.0%} of them are expected to be right"
    )
    console.print(
        f"{len(read):,} questions: {len(found):,} duplicate pairs in {len(found.clusters):,} clusters{hidden}, "
        f"similarity ≥ {found.threshold:.4f}{expected}",
        highlight=False,
    )
    if output is not None:
        say(f"{len(pairs):,} pairs written to {output}")


@app.command()
def encode(
    model: Model,
    texts: Annotated[str, typer.Argument(help="Texts: .txt, .tsv, .csv, .jsonl, .parquet, or sample:forum.")],
    output: Annotated[Path, typer.Option(help="Write the vectors here: .npy, one float32 row a text, in order.")],
    column: Annotated[str | None, typer.Option(help="Name of the column that holds the texts.")] = None,
    side: Annotated[Literal["left", "right"], typer.Option(help="Which tower of a half-twin.")] = "left",
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Number format.")] = "auto",
    as_json: Json = False,
) -> None:
    """Encode the texts of a file into vectors of length 1: a .npy file that can be mapped into memory."""
    from textsiam.data.texts import read_texts

    read = read_texts(texts, column=column)
    warn(read.report.warnings)
    twin = _open(model)
    from textsiam.models.vectors import save_vectors

    with progress_bar("encoding") as progress:
        done = 0

        def counted() -> Iterator[Any]:
            nonlocal done
            for block in twin.encode_stream(read.texts, side=side, precision=precision):
                yield block
                done += len(block)
                progress(done, len(read))

        rows = save_vectors(output, counted(), dim=twin.dim)
    if as_json:
        print_json({"vectors": rows, "dim": twin.dim, "output": str(output)})
    else:
        say(f"{rows:,} vectors of {twin.dim} dimensions written to {output}")


@app.command()
def match(
    model: Model,
    queries: Annotated[str, typer.Option(help="File of queries.")],
    documents: Annotated[str, typer.Option(help="File of documents.")],
    top_k: Annotated[int, typer.Option(help="Documents for each query.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Write the matches here: .tsv, .csv or .jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Find the most similar documents of each query."""
    from textsiam.data.texts import read_texts

    asked, library = read_texts(queries), read_texts(documents)
    twin = _open(model)
    from textsiam.search.join import best_matches

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
        from textsiam.data.tables import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} matches written to {output}")
    elif as_json:
        print_json(rows)
    else:
        console = make_console()
        for row in rows:
            if row["rank"] == 1:
                console.print(f"[bold]{escaped(row['query'])}[/]  [dim]{row['query_id']}[/]", highlight=False)
            text = row["document"] if len(row["document"]) <= 100 else row["document"][:99] + "…"
            console.print(f"  {row['similarity']:.4f}  {escaped(text)}  [dim]{row['document_id']}[/]", highlight=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(help="A YAML file; without one, the defaults (the sample forum).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a twin as a config says. Any key can be set after it: --training.learning_rate 2e-5 --resume true."""
    arguments = ([config] if config and not config.startswith("-") else []) + [
        *([config] if config and config.startswith("-") else []),
        *context.args,
    ]
    run_training(arguments, as_json=as_json)


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder of the exported twin.")],
    graph_format: Annotated[Literal["onnx", "openvino"], typer.Option("--format", help="Runtime to export to.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise: faster, and checked against the original.")] = False,
    pairs: Annotated[str, typer.Option(help="Labelled pairs that the export is judged by.")] = "sample:forum",
    column: Column = None,
    as_json: Json = False,
) -> None:
    """Export a twin to a CPU runtime; refused when it loses more than 0.3 points of average precision."""
    from textsiam.data.pairs import read_pairs

    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / "textsiam.json").exists()):
        raise typer.BadParameter(f"--output {output} is there already, and is no saved twin")
    read = read_pairs(pairs, columns=_columns(column))
    twin = _open(model, device="cpu")
    from textsiam.models.export import export_twin

    report = export_twin(twin, output, read, graph_format=graph_format, int8=int8)
    if as_json:
        print_json({"pairs_from": pairs, **report.to_dict()})
        return
    say(str(report), stream=sys.stdout)
    say(f"exported twin written to {output}")


@data_app.command("report")
def data_report(
    pairs: Annotated[str, typer.Argument(help="Labelled pairs: file or Hub id.")],
    column: Column = None,
    on_bad_row: BadRow = "error",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a file of pairs holds: clusters, contradictions, and what a question-disjoint split would leak."""
    from textsiam.data.pairs import read_pairs
    from textsiam.data.splits import data_report, split_pairs

    read = read_pairs(pairs, columns=_columns(column), on_bad_row=on_bad_row)
    report, split = data_report(read), split_pairs(read, seed=seed).report
    if as_json:
        print_json({"read": read.report.to_dict(), "data": report.to_dict(), "split": split.to_dict()})
    else:
        print(report, split, sep="\n\n")


def run_training(arguments: list[str], *, as_json: bool = False) -> None:
    """Run `textsiam train` with these arguments: what scripts/train.py calls."""
    from textsiam.config import read_config

    config = read_config(arguments)
    quieten_libraries()
    from textsiam.recipe import run

    outcome = run(config, console=make_console(stderr=as_json))
    if outcome is None:
        return
    if as_json:
        print_json(outcome.to_dict())
        return
    say(f"\nmodel   {outcome.output / 'model'}\nreport  {outcome.output / 'report.html'}")
    say(f"everything is in {outcome.output}")


def main(command: Callable[[], Any] = app) -> None:
    """Run a command; errors that a user can mend are one line on stderr and exit status 1."""
    try:
        command()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            fail(str(error), 130)
        if isinstance(error, (ValueError, OSError)) and not os.environ.get("TEXTSIAM_TRACEBACK"):
            fail(f"error: {error}", 1)
        raise


def _open(model: str, *, device: str | None = None) -> Twin:
    quieten_libraries()
    from textsiam.models.twin import Twin

    return Twin.from_pretrained(model, device=device)


def _decision(
    twin: Twin, threshold: float | None, precision: float | None, prior: float | None, *, needed: bool = True
) -> Decision | None:
    if threshold is not None and precision is not None:
        raise typer.BadParameter("--threshold and --precision exclude each other")
    if twin.decision is None and not (needed or precision is not None or prior is not None):
        return None
    decision = twin.require_decision()
    if prior is not None:
        decision = decision.with_prior(prior)
    if precision is not None:
        decision = decision.at_precision(precision)
    return decision if threshold is None else decision.at_threshold(threshold)


def _verdicts(decision: Decision | None, similarity: Any, threshold: float | None) -> list[dict[str, Any]]:
    if decision is not None:
        return [
            {"probability": rounded(v.probability), "duplicate": v.duplicate, "threshold": rounded(v.threshold)}
            for v in decision.verdicts(similarity)
        ]
    if threshold is not None:
        return [{"probability": None, "duplicate": s >= threshold, "threshold": threshold} for s in similarity.tolist()]
    return [{"probability": None, "duplicate": None, "threshold": None} for _ in similarity]


def _graded(source: str) -> Any:
    """Return graded pairs when that is what a file holds, else None."""
    from textsiam.data.graded import read_graded
    from textsiam.data.problems import DataError

    if not Path(source).is_file():
        return None
    try:
        return read_graded(source)
    except DataError:
        return None


def _columns(options: list[str] | None) -> dict[str, str] | None:
    if not options:
        return None
    columns = {}
    for option in options:
        role, equals, name = option.partition("=")
        if not equals or role not in ("left", "right", "label"):
            raise typer.BadParameter(f"--column {option!r}: expected left=NAME, right=NAME or label=NAME")
        columns[role] = name
    return columns


if __name__ == "__main__":
    main()
