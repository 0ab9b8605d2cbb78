"""Commands that judge pairs: score them, measure a twin on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textsiam.commands.options import (
    BadRow,
    Column,
    Json,
    Model,
    PrecisionOption,
    Prior,
    Threshold,
    chosen_decision,
    named_columns,
    open_twin,
    tell_shift,
)
from textsiam.terminal import make_console, print_json, print_verdict, progress_bar, rounded, say, warn

if TYPE_CHECKING:
    from textsiam.decision.decision import Decision


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
    from textsiam.data.pairs import Pairs
    from textsiam.sources import read_pairs

    if pairs is not None:
        read = read_pairs(pairs, columns=named_columns(column), labelled=False)
    else:
        first, second = texts or ("", "")
        read = Pairs.from_texts([first], [second], [-1], source="command line")
    twin = open_twin(model, sides=True)
    decision = chosen_decision(twin, threshold, precision, prior, needed=False)
    with progress_bar("encoding") as progress:
        similarity = twin.pair_similarity(read.texts, read.left, read.right, progress=progress)
    from textsiam.models.domain import pairs_shift

    shift = tell_shift(pairs_shift(twin, decision, read, similarity))
    left, right = read.left_texts, read.right_texts
    rows = [
        {"question1": a, "question2": b, "similarity": rounded(s), **verdict}
        for a, b, s, verdict in zip(
            left, right, similarity.tolist(), _verdicts(decision, similarity, threshold), strict=True
        )
    ]
    if output is not None:
        from textsiam.data.tables.writers import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} scored pairs written to {output}")
    elif as_json:
        told = [row | {"domain_shift": None if shift is None else shift["message"]} for row in rows]
        print_json(told if pairs is not None else told[0])
    else:
        for row in rows:
            print_verdict(row, with_texts=pairs is not None)


def evaluate(
    model: Model,
    pairs: Annotated[
        str,
        typer.Argument(help="Labelled pairs, or graded ones (a column `score`): file or Hub id; or labelled images."),
    ],
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    column: Column = None,
    on_bad_row: BadRow = "error",
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    verification: Annotated[
        bool, typer.Option("--verification", help="Measure verification too: EER, TAR at FAR 1 % and 0.1 %.")
    ] = False,
    way: Annotated[
        int | None, typer.Option(help="Play few-shot episodes with labelled images: so many classes in each.")
    ] = None,
    shot: Annotated[int, typer.Option(help="Known images of each class of an episode.")] = 1,
    episodes: Annotated[int, typer.Option(help="How many episodes.")] = 1000,
    as_json: Json = False,
) -> None:
    """Measure a twin on pairs it never saw: AP, accuracy, F1, calibration, slices; Spearman for graded pairs.

    With --way, measure it on labelled images instead: can it tell so many classes from one image of each?
    """
    if way is not None:
        _few_shot(model, pairs, way=way, shot=shot, episodes=episodes, on_bad_row=on_bad_row, as_json=as_json)
        return
    from textsiam.sources import read_pairs

    graded = _graded(pairs) if column is None else None
    read = None if graded else read_pairs(pairs, columns=named_columns(column), on_bad_row=on_bad_row)
    twin = open_twin(model, sides=graded is None)
    if graded is not None:
        from textsiam.evaluation.retrieval import evaluate_sts

        result = evaluate_sts(twin, graded, name=model)
        print_json(result.to_dict()) if as_json else say(str(result), stream=sys.stdout)
        return
    assert read is not None
    from textsiam.evaluation.pairs import evaluate_pairs

    warn(read.report.warnings)
    from textsiam.models.domain import pairs_shift

    decision = chosen_decision(twin, threshold, precision, prior)
    evaluation = evaluate_pairs(twin, read, decision=decision, name=model)
    shift = tell_shift(pairs_shift(twin, decision, read, evaluation.similarities))
    if report is not None:
        from textsiam.evaluation.report import write_report
        from textsiam.images.pairs import thumbnail_of

        facts = {"model": model, "data": pairs}
        write_report(report, [evaluation], facts=facts, thumbnail=thumbnail_of(read))
    verified = None
    if verification:
        from textsiam.evaluation.verification import verification_report

        verified = verification_report(
            evaluation.similarities, evaluation.labels, threshold=evaluation.threshold, units=evaluation.units
        )
    if as_json:
        extra = {} if verified is None else {"verification": verified.to_dict()}
        print_json({**evaluation.to_dict(), **extra, "domain_shift": shift})
    else:
        from textsiam.recipe import results_table

        make_console().print(results_table([evaluation]))
        if verified is not None:
            say(str(verified), stream=sys.stdout)
        if report is not None:
            say(f"report written to {report}")


def _few_shot(
    model: str, source: str, *, way: int, shot: int, episodes: int, on_bad_row: Literal["error", "skip"], as_json: bool
) -> None:
    from textsiam.images import read_images

    images = read_images(source, on_bad_row=on_bad_row)
    warn(images.report.warnings)
    twin = open_twin(model)
    from textsiam.evaluation.few_shot import evaluate_few_shot, nearest_neighbour_baseline

    play = {"way": way, "shot": shot, "episodes": episodes}
    with progress_bar("episodes") as progress:
        accuracy = evaluate_few_shot(twin, images, **play)
        progress(1, 1)
    pixels = nearest_neighbour_baseline(images, **play)
    if as_json:
        print_json({**play, "accuracy": accuracy.to_dict(), "pixels": pixels.to_dict()})
        return
    say(f"{way}-way {shot}-shot, {episodes:,} episodes over {len(images.present)} classes", stream=sys.stdout)
    for name, found in (("twin", accuracy), ("nearest neighbour of pixels", pixels)):
        say(f"{name:28}{found.percent():>6} %", stream=sys.stdout)


def _verdicts(decision: Decision | None, similarity: Any, threshold: float | None) -> list[dict[str, Any]]:
    if decision is not None:
        return [
            {"probability": rounded(v.probability), "duplicate": v.duplicate, "threshold": rounded(v.threshold)}
            for v in decision.verdicts(similarity)
        ]
    flagged = [None if threshold is None else s >= threshold for s in similarity.tolist()]
    return [{"probability": None, "duplicate": one, "threshold": threshold} for one in flagged]


def _graded(source: str) -> Any:
    """Return graded pairs when that is what a file holds, else None."""
    from textsiam.data.graded import read_graded
    from textsiam.data.tables.errors import DataError

    if not Path(source).is_file():
        return None
    try:
        return read_graded(source)
    except DataError:
        return None
