"""Commands that make a twin: look at its data, mine more, train it, export it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from textsiam.commands.labelling import keep_answers
from textsiam.commands.options import (
    BadRow,
    Column,
    Json,
    Model,
    PrecisionOption,
    Prior,
    Quoted,
    check_output,
    named_columns,
    one_or_all,
    open_twin,
    refuse_foreign,
    tell_read,
)
from textsiam.terminal import answer, loading, make_console, print_json, progress_bar, quieten_libraries, say, warn

_QUICKSTART = Path(__file__).resolve().parents[1] / "config" / "quickstart.yaml"


def train(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(help="A YAML file; without one, quickstart.yaml (the sample forum).")
    ] = None,
    column: Column = None,
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Train a twin as a config says. Any key can be set after it: --training.learning_rate 2e-5 --resume true."""
    arguments = [*([config] if config else []), *context.args]
    for key, value in (("columns", named_columns(column)), ("quoted", quoted)):
        if value is not None:
            arguments.append(f"--data.{key}={json.dumps(value, ensure_ascii=False)}")
    run_training(arguments, as_json=as_json)


def mine(
    model: Model,
    pairs: Annotated[
        list[str], typer.Argument(help="Labelled pairs: files or Hub id; all their texts are looked through.")
    ],
    output: Annotated[Path, typer.Option(help="Write anchor, positive, negative here: .tsv, .csv or .jsonl.")],
    category: Annotated[
        Literal["random", "easy", "semi-hard", "hard"], typer.Option(help="Which negatives; see docs/mining.md.")
    ] = "semi-hard",
    margin: Annotated[float, typer.Option(help="Of semi-hard and easy ones, in the unit of the distance.")] = 0.1,
    negatives: Annotated[int, typer.Option(help="How many for each pair of duplicates.")] = 1,
    rank_from: Annotated[int | None, typer.Option(help="Draw from the nearest texts, from this rank on.")] = None,
    rank_to: Annotated[int | None, typer.Option(help="The last rank.")] = None,
    positive_share: Annotated[
        float | None, typer.Option(help="Leave out texts above this share of the positive's similarity.")
    ] = None,
    max_similarity: Annotated[float | None, typer.Option(help="Leave out texts above this similarity.")] = None,
    check: Annotated[str | None, typer.Option(help="A cross-encoder that is asked about every negative.")] = None,
    check_above: Annotated[float, typer.Option(help="Drop what it calls a duplicate with more than this.")] = 0.5,
    known: Annotated[
        list[str] | None, typer.Option(help="More labelled pairs, whose duplicates are no negatives either.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    column: Column = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Mine negatives for the duplicates of a file, over all its texts and never of the same cluster."""
    from textsiam.sources import read_pairs
    from textsiam.training.settings import Mining

    check_output(output, inputs=(*pairs, *(known or ())))
    wanted = Mining(category, negatives, margin, rank_from, rank_to, positive_share, max_similarity, check_above)
    options = {"columns": named_columns(column), "on_bad_row": on_bad_row, "quoted": quoted}
    read, *others = (read_pairs(source, **options) for source in (one_or_all(pairs), *(known or ())))
    tell_read(read.report, *(each.report for each in others))
    twin = open_twin(model)
    from textsiam.training.mining import offline as mining

    asked = None if check is None else mining.cross_encoder_check(check)
    with progress_bar("mining") as progress:
        triplets = mining.mine(twin, read, wanted, known=others, check=asked, seed=seed, progress=progress)
    triplets.write(output)
    if as_json:
        print_json(triplets.summary())
        return
    dropped = "".join(f"; {count:,} dropped: {reason}" for reason, count in triplets.dropped.items() if count)
    say(f"{triplets.found:,} of {triplets.searched:,} pairs of duplicates have a {category} negative{dropped}")
    say(f"{len(triplets):,} triplets written to {output}")


def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder of the exported twin.")],
    graph_format: Annotated[
        Literal["onnx", "openvino", "torch"], typer.Option("--format", help="Runtime to export to; torch: int8 only.")
    ],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise: faster, and checked against the original.")] = False,
    pairs: Annotated[str, typer.Option(help="Labelled pairs that the export is judged by.")] = "sample:forum",
    column: Column = None,
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Export a twin to a CPU runtime; refused when it loses more than 0.3 points of average precision."""
    from textsiam.sources import read_pairs

    refuse_foreign(output)
    read = read_pairs(pairs, columns=named_columns(column), quoted=quoted)
    tell_read(read.report)
    twin = open_twin(model, device="cpu")
    from textsiam.models.twin import Twin

    if not isinstance(twin, Twin):
        raise typer.BadParameter(f"{model} is an ensemble: export its members, one by one")
    from textsiam.models.export import export_twin

    report = export_twin(twin, output, read, graph_format=graph_format, int8=int8)
    if as_json:
        print_json({"pairs_from": pairs, **report.to_dict()})
        return
    say(str(report), stream=sys.stdout)
    say(f"exported twin written to {output}")


def ensemble(
    models: Annotated[list[str], typer.Argument(help="Saved twins, or any SentenceTransformers.")],
    output: Annotated[Path, typer.Option(help="Folder of the ensemble, or of the averaged twin.")],
    average: Annotated[
        Literal["scores", "weights"],
        typer.Option(help="Scores: an ensemble that asks every twin. Weights: one twin of the cost of one."),
    ] = "scores",
    calibrate: Annotated[str | None, typer.Option(help="Labelled pairs to learn the decision from.")] = None,
    column: Column = None,
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Make one of several twins: their scores averaged, or their weights (twins of one origin, trained differently)."""
    from textsiam.sources import read_pairs

    if output.exists():
        raise typer.BadParameter(f"--output {output} is there already")
    pairs = None if calibrate is None else read_pairs(calibrate, columns=named_columns(column), quoted=quoted)
    twins = [open_twin(model) for model in models]
    from textsiam.models.ensemble import Ensemble, average_twins
    from textsiam.models.twin import Twin

    members = [twin for twin in twins if isinstance(twin, Twin)]
    if len(members) < len(twins):
        raise typer.BadParameter("a member of an ensemble must be a twin, not another ensemble")
    made = average_twins(members) if average == "weights" else Ensemble(members)
    made.provenance = {"averaged": average, "members": models}
    if pairs is not None:
        made.calibrate(pairs)
    made.save_pretrained(output)
    facts = {"output": str(output), "average": average, "members": models, "calibrated": pairs is not None}
    answer(facts, f"{'ensemble' if average == 'scores' else 'twin'} written to {output}", as_json=as_json)


def calibrate(
    model: Model,
    pairs: Annotated[
        list[str],
        typer.Argument(help="Labelled pairs that training never saw: files or Hub id; with --labels, the questions."),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the calibrated model.")],
    labels: Annotated[
        Path | None, typer.Option(help="Answers of `label` about the questions: save what they say and certify.")
    ] = None,
    rule: Annotated[Literal["f1", "accuracy"], typer.Option(help="What the threshold maximises.")] = "f1",
    precision: PrecisionOption = None,
    prior: Prior = None,
    column: Column = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Learn when a score means "duplicate", from labelled pairs, or from answers about a collection."""
    from textsiam.sources import read_pairs

    refuse_foreign(output)
    if labels is not None:
        if prior is not None or column:
            raise typer.BadParameter("--labels excludes --prior and --column")
        keep_answers(model, pairs, labels, output, precision, on_bad_row, quoted, as_json=as_json)
        return
    read = read_pairs(one_or_all(pairs), columns=named_columns(column), on_bad_row=on_bad_row, quoted=quoted)
    tell_read(read.report)
    twin = open_twin(model)
    twin.calibrate(read, rule=rule, prior=prior)
    decision = twin.require_decision()
    twin.decision = decision if precision is None else decision.at_precision(precision)
    twin.collection = None
    if twin.right is None:
        from textsiam.search.duplicates import fit_collection_decision

        try:
            twin.collection = fit_collection_decision(twin, read, rule=rule, precision=precision)
        except ValueError as error:
            warn((f"no decision for collections: {error}",))
    twin.save_pretrained(output)
    kept = twin.require_decision()
    if as_json:
        facts = {"pairs": len(read), "duplicates": int(read.labels.sum()), "collection": twin.collection is not None}
        print_json(
            {"output": str(output), "threshold": kept.threshold, "prior": kept.prior, "rule": kept.rule, **facts}
        )
        return
    say(f"duplicate from {kept.threshold:.4f} on ({kept.rule}, {len(read):,} pairs)", stream=sys.stdout)
    say(f"calibrated model written to {output}")


def push(
    model: Model,
    repo: Annotated[str, typer.Argument(help="user/repo; made if need be.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees it, if it is made now."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; made where it is not there.")] = None,
    as_json: Json = False,
) -> None:
    """Upload a model to the Hub, with its decision and a model card; HF_TOKEN holds the token."""
    url = open_twin(model, sides=True).push_to_hub(repo, private=private, revision=revision)
    if as_json:
        print_json({"repo": repo, "revision": revision or "main", "url": url})
        return
    say(f"pushed to {url}", stream=sys.stdout)


def report(
    pairs: Annotated[list[str], typer.Argument(help="Labelled pairs: files or Hub id.")],
    column: Column = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a file of pairs holds: clusters, contradictions, and what a question-disjoint split would leak."""
    from textsiam.data.splits import data_report, split_pairs
    from textsiam.sources import read_pairs

    read = read_pairs(one_or_all(pairs), columns=named_columns(column), on_bad_row=on_bad_row, quoted=quoted)
    report, split = data_report(read), split_pairs(read, seed=seed).report
    if as_json:
        print_json({"read": read.report.to_dict(), "data": report.to_dict(), "split": split.to_dict()})
    else:
        print(report, split, sep="\n\n")


def run_training(arguments: list[str], *, as_json: bool = False) -> None:
    """Run `textsiam train` with these arguments: what scripts/train.py calls. Without a file it is quickstart.yaml."""
    from textsiam.config.run import read_config

    named = arguments and not arguments[0].startswith("-")
    config = read_config(arguments if named else [str(_QUICKSTART), *arguments])
    with loading():
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
