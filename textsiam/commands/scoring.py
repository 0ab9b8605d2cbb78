"""Commands that judge pairs: score them, measure a twin on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textsiam.commands.options import (
    TABLE_FORMATS,
    BadRow,
    Column,
    Json,
    Model,
    PrecisionOption,
    Prior,
    Quoted,
    Threshold,
    check_output,
    chosen_decision,
    named_columns,
    one_or_all,
    open_twin,
    refuse_given,
    tell_read,
    tell_shift,
    tell_unread_pairs,
)
from textsiam.terminal import make_console, print_json, print_verdict, progress_bar, results_table, rounded, say

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.decision.decision import Decision
    from textsiam.evaluation.pairs import PairEvaluation


_COMPARED = 6  # models of a report: as many as its lines can be told apart
_OF_LABELS = ("report", "threshold", "precision", "prior", "verification")  # options that need labels


def score(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(help="Two texts.")] = None,
    pairs: Annotated[list[str] | None, typer.Option(help="Score every pair of this file, or of several.")] = None,
    output: Annotated[Path | None, typer.Option(help=f"Write the scored pairs here: {TABLE_FORMATS}.")] = None,
    column: Column = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    as_json: Json = False,
) -> None:
    """Score two texts, or a file of pairs: similarity, probability, verdict."""
    if bool(pairs) == bool(texts):
        raise typer.BadParameter("give two texts, or --pairs FILE")
    if texts and len(texts) != 2:
        raise typer.BadParameter(f"expected two texts, got {len(texts)}")
    check_output(output, inputs=pairs or ())
    from textsiam.data.pairs import Pairs
    from textsiam.sources import read_pairs

    if pairs:
        options = {"on_bad_row": on_bad_row, "quoted": quoted}
        read = read_pairs(one_or_all(pairs), columns=named_columns(column), labelled=False, **options)
        tell_read(read.report)
    else:
        first, second = texts or ("", "")
        read = Pairs.from_texts([first], [second], [-1], source="command line")
    twin = open_twin(model, sides=True)
    unread = tell_unread_pairs(twin, read)
    decision = chosen_decision(twin, threshold, precision, prior, needed=False)
    with progress_bar("encoding") as progress:
        similarity = twin.pair_similarity(read.texts, read.left, read.right, progress=progress)
    from textsiam.models.domain import pairs_shift

    shift = tell_shift(pairs_shift(twin, decision, read, similarity))
    left, right = read.left_texts, read.right_texts
    rows = [
        {"question1": a, "question2": b, "similarity": rounded(s), **verdict, "unread": hidden}
        for a, b, s, verdict, hidden in zip(
            left,
            right,
            similarity.tolist(),
            _verdicts(decision, similarity, threshold),
            [None] * len(read) if unread is None else unread.tolist(),
            strict=True,
        )
    ]
    if output is not None:
        from textsiam.data.tables.writers import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} scored pairs written to {output}")
    if as_json:
        told = [row | {"domain_shift": None if shift is None else shift["message"]} for row in rows]
        print_json(told if pairs else told[0])
    elif output is None:
        for row in rows:
            print_verdict(row, with_texts=bool(pairs))


def evaluate(
    context: typer.Context,
    model: Model,
    pairs: Annotated[
        list[str],
        typer.Argument(help="Labelled pairs, or graded ones (a column `score`): files or Hub id; or labelled images."),
    ],
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="left=NAME, right=NAME, label=NAME or score=NAME: columns not recognised."),
    ] = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    verification: Annotated[
        bool, typer.Option("--verification", help="Measure verification too: EER, TAR at FAR 1 % and 0.1 %.")
    ] = False,
    way: Annotated[
        int | None, typer.Option(help="Play few-shot episodes with labelled images or sounds: so many classes in each.")
    ] = None,
    shot: Annotated[int, typer.Option(help="Known images of each class of an episode.")] = 1,
    episodes: Annotated[int, typer.Option(help="How many episodes.")] = 1000,
    as_json: Json = False,
) -> None:
    """Measure a twin on pairs it never saw: AP, accuracy, F1, calibration, slices; Spearman for graded pairs.

    A model without a decision is measured at the --threshold, or by its ranking alone.

    With --way, measure it on labelled images instead: can it tell so many classes from one image of each?
    """
    if way is not None:
        refuse_given(context, (*_OF_LABELS, "column", "quoted"), "does not apply to --way")
        if len(pairs) > 1:
            raise typer.BadParameter(f"--way plays with the images of one source, got {len(pairs)}")
        _few_shot(model, pairs[0], way=way, shot=shot, episodes=episodes, on_bad_row=on_bad_row, as_json=as_json)
        return
    refuse_given(context, ("shot", "episodes"), "applies to --way only")
    check_output(report, (".html", ".htm"))
    from textsiam.data.graded import GradedPairs
    from textsiam.sources import read_judged

    columns = named_columns(column, ("left", "right", "label", "score"))
    read = read_judged(one_or_all(pairs), columns=columns, on_bad_row=on_bad_row, quoted=quoted)
    tell_read(read.report)
    if isinstance(read, GradedPairs):
        why = f"applies to labels, and {read.source} holds scores; --column label=NAME reads a column as labels"
        refuse_given(context, _OF_LABELS, why)
        from textsiam.evaluation.retrieval import evaluate_sts

        result = evaluate_sts(open_twin(model), read, name=model)
        facts = {**result.to_dict(), "read": read.report.to_dict()}
        print_json(facts) if as_json else say(str(result), stream=sys.stdout)
        return
    twin = open_twin(model, sides=True)
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.models.domain import pairs_shift

    decision = chosen_decision(twin, threshold, precision, prior, needed=False)
    if decision is None and threshold is None:
        refuse_given(context, ("report", "verification"), f"needs a --threshold: {model} has no decision")
        say("note: this model has no decision, so its ranking alone is measured; --threshold measures verdicts too")
    evaluation = evaluate_pairs(twin, read, decision=decision, threshold=threshold, name=model)
    shift = tell_shift(pairs_shift(twin, decision, read, evaluation.similarities))
    shown = [*_raw_pixels(read), evaluation]
    if report is not None:
        from textsiam.evaluation.report import write_report
        from textsiam.modality import shown_by

        facts = {"model": model, "data": read.source} | (
            {} if decision is None else {"decision": decision.learned_from}
        )
        write_report(report, shown, facts=facts, **shown_by(read.modality))
    verified = None
    if verification:
        from textsiam.evaluation.verification import verification_report

        verified = verification_report(
            evaluation.similarities, evaluation.labels, threshold=evaluation.threshold, units=evaluation.units
        )
    if as_json:
        extra = {"raw_pixels": shown[0].to_dict()} if read.images else {}
        extra |= {} if verified is None else {"verification": verified.to_dict()}
        learned = None if decision is None else decision.learned_from
        print_json(
            {**evaluation.to_dict(), **extra, "decision": learned, "domain_shift": shift, "read": read.report.to_dict()}
        )
    else:
        make_console().print(results_table(shown))
        if verified is not None:
            say(str(verified), stream=sys.stdout)
        if report is not None:
            say(f"report written to {report}")


def report(
    models: Annotated[
        list[str],
        typer.Argument(help="Models, up to six; the last is compared with the others, and its mistakes shown."),
    ],
    pairs: Annotated[str, typer.Argument(help="Labelled pairs that none of them has seen: a file, Hub id, or images.")],
    output: Annotated[Path, typer.Option(help="Write the HTML report here.")],
    name: Annotated[
        list[str] | None, typer.Option(help="What a model is called; once for each, in order. Its path otherwise.")
    ] = None,
    column: Column = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    threshold: Threshold = None,
    precision: PrecisionOption = None,
    prior: Prior = None,
    as_json: Json = False,
) -> None:
    """Measure several models on the same labelled pairs, and write one report of them side by side."""
    names = name or models
    if len(models) > _COMPARED:
        raise typer.BadParameter(f"a report compares up to {_COMPARED} models, got {len(models)}")
    if len(names) != len(models) or len(set(names)) < len(names):
        raise typer.BadParameter(f"expected a name of its own for each of {len(models)} models, got {', '.join(names)}")
    check_output(output, (".html", ".htm"))
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.evaluation.report import write_report
    from textsiam.modality import shown_by
    from textsiam.sources import read_pairs

    read = read_pairs(pairs, columns=named_columns(column), on_bad_row=on_bad_row, quoted=quoted)
    tell_read(read.report)
    facts, found = {"data": read.source, "pairs": f"{len(read):,}"}, []
    for model, called in zip(models, names, strict=True):
        twin = open_twin(model, sides=True)
        decision = chosen_decision(twin, threshold, precision, prior, needed=threshold is None)
        with progress_bar(f"measuring {called}") as progress:
            found.append(evaluate_pairs(twin, read, decision=decision, threshold=threshold, name=called))
            progress(1, 1)
        learned = "" if decision is None else f"; decision {decision.learned_from}"
        facts[called] = f"{model}{learned}"
    title = "Which twin finds duplicates best?" if len(found) > 1 else "How well does the twin find duplicates?"
    write_report(output, found, facts=facts, title=title, **shown_by(read.modality))
    if as_json:
        evaluations = [evaluation.to_dict() for evaluation in found]
        print_json({"output": str(output), "read": read.report.to_dict(), "evaluations": evaluations})
        return
    make_console().print(results_table(found))
    say(f"report written to {output}")


def _raw_pixels(pairs: Pairs) -> list[PairEvaluation]:
    """Return the ranking of pairs of images by their raw pixels; nothing for texts."""
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.evaluation.raw_pixels import RAW_PIXELS, RawPixels

    return [evaluate_pairs(RawPixels(), pairs, name=RAW_PIXELS)] if pairs.images else []


def _few_shot(
    model: str, source: str, *, way: int, shot: int, episodes: int, on_bad_row: Literal["error", "skip"], as_json: bool
) -> None:
    from textsiam.images.medium import IMAGES
    from textsiam.media.readers import read_labelled
    from textsiam.modality import medium_of

    medium = medium_of(source) or IMAGES
    files = read_labelled(source, medium, on_bad_row=on_bad_row)
    tell_read(files.report)
    twin = open_twin(model)
    from textsiam.evaluation.few_shot import evaluate_few_shot, nearest_neighbour_baseline

    play = {"way": way, "shot": shot, "episodes": episodes}
    with progress_bar("episodes") as progress:
        accuracy = evaluate_few_shot(twin, files, **play)
        progress(1, 1)
    rows = {"accuracy": ("twin", accuracy)}
    if medium is IMAGES:
        rows["pixels"] = ("nearest neighbour of pixels", nearest_neighbour_baseline(files, **play))
    if as_json:
        print_json({**play, **{key: found.to_dict() for key, (_, found) in rows.items()}})
        return
    say(f"{way}-way {shot}-shot, {episodes:,} episodes over {len(files.present)} classes", stream=sys.stdout)
    for name, found in rows.values():
        say(f"{name:28}{found.percent():>6} %", stream=sys.stdout)


def _verdicts(decision: Decision | None, similarity: Any, threshold: float | None) -> list[dict[str, Any]]:
    if decision is not None:
        return [
            {"probability": rounded(v.probability), "duplicate": v.duplicate, "threshold": rounded(v.threshold)}
            for v in decision.verdicts(similarity)
        ]
    flagged = [None if threshold is None else s >= threshold for s in similarity.tolist()]
    return [{"probability": None, "duplicate": one, "threshold": threshold} for one in flagged]
