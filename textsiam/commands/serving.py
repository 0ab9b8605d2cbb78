"""Commands of a model in use: serve it, and learn from what moderators decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsiam.commands.labelling import Confidence, Labels, Noise, Seed, checked_aim, open_session
from textsiam.commands.options import (
    BadRow,
    Column,
    IdColumn,
    Json,
    Model,
    Prior,
    Quoted,
    TextColumn,
    as_typed,
    chosen_decision,
    named_columns,
    open_twin,
    refuse_given,
    tell_read,
    tell_shift,
)
from textsiam.terminal import print_json, say

if TYPE_CHECKING:
    from textsiam.decision.recalibration import Recalibration
    from textsiam.labelling.aim import Aim
    from textsiam.models.scorer import Scorer
    from textsiam.search.index.base import QuestionIndex
    from textsiam.serving.page.labelling import Labelling
    from textsiam.serving.page.pairs import Suspect

_EXTRA = ("fastapi", "limits", "orjson", "uvicorn", "prometheus_client", "sqlalchemy")
_OF_LABEL = ("confidence", "labels", "noise", "seed", "column", "id_column", "on_bad_row", "quoted")


def serve(
    context: typer.Context,
    model: Model,
    questions: Annotated[
        str | None, typer.Argument(help="With --label: the questions, a forum folder or a file as for flag.")
    ] = None,
    index: Annotated[str | None, typer.Option(help="Questions to look through: a folder, or postgresql://…")] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(help="Identities that /verify and /identify look through: what `textsiam gallery` made."),
    ] = None,
    reviews: Annotated[
        str | None,
        typer.Option(help="Where decisions are kept: an SQLite file, or postgresql://…; without it, beside the index."),
    ] = None,
    suspects: Annotated[
        str | None, typer.Option(help="Queue the pairs of this file for moderators: what `textsiam flag` wrote.")
    ] = None,
    moderators: Annotated[
        Path | None,
        typer.Option(
            help="Who decides at the page: lines of a name and a token; without it, those of TEXTSIAM_MODERATORS."
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="Tell this address of accepted pairs, signed with the secret in TEXTSIAM_WEBHOOK_SECRET."),
    ] = None,
    label: Annotated[
        Path | None,
        typer.Option(help="Ask about the pairs that prove most, at /ui/label; answers go to this file, as of label."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; any but a loopback one needs TEXTSIAM_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8080,
    precision: Annotated[
        float | None,
        typer.Option(
            help="Learn the threshold for this precision, with 95 % confidence; with --label, what the answers are to "
            "prove, 0.95 by default."
        ),
    ] = None,
    prior: Prior = None,
    confidence: Confidence = 0.95,
    labels: Labels = 150,
    noise: Noise = 0.0,
    seed: Seed = 0,
    column: TextColumn = None,
    id_column: IdColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Tokens that may wait; what comes on top gets 429.")] = 262_144,
    max_batch: Annotated[int, typer.Option(min=1, help="Inputs of a request at most.")] = 10_000,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests a minute of one client at most.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut long inputs instead of refusing them.")] = False,
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TEXTSIAM_HOST_NAMES", help="What clients may call the server, beside its address and the loopback."
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A site, as https://forum.example, whose pages may embed the page and call the server."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a twin over HTTP: vectors, scores, verdicts about new questions, and the moderators' pages at /ui."""
    from importlib.util import find_spec

    if missing := [module for module in _EXTRA if find_spec(module) is None]:
        raise typer.BadParameter(f"{missing[0]} is not installed: pip install 'textsiam[serve]'")
    wished = 0.95 if precision is None else precision
    asked = _asked(context, questions, label, wished, confidence, labels, noise, seed)
    if asked is not None:
        precision = None  # it says what the answers are to prove, and nothing of the decision that is there
    from textsiam.serving.admission.moderators import read_moderators
    from textsiam.serving.limits import ServerSettings, token_for
    from textsiam.serving.page.reviews import Reviews, ReviewsError
    from textsiam.serving.page.webhook import Webhook, webhook_secret

    settings = ServerSettings(
        max_queue=max_queue, max_batch=max_batch, requests_per_minute=rate, truncate=truncate, token=token_for(host),
        host_names=tuple(host_name or ()), origins=tuple(origin or ()), moderators=read_moderators(moderators),
    )  # fmt: skip
    place = reviews or _beside(index)
    if place is None and (suspects or webhook):
        what = "--suspects are queued" if suspects else "what --webhook sends is kept"
        raise ReviewsError(f"{what} in a store of decisions: name one with --reviews")
    secret = None if webhook is None else webhook_secret(webhook)
    opened = None if index is None else _open_index(index)
    store = None if place is None else Reviews(place, announce=webhook is not None)
    twin = open_twin(model)
    _check_gallery(gallery, twin)
    reading = {"column": column, "id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
    labelling = None if asked is None else _labelling(twin, model, *asked, **reading)
    if precision is not None or prior is not None:
        twin.decision = chosen_decision(twin, None, precision, prior)
    from textsiam.search.ingest import index_shift

    shift = None if opened is None else index_shift(twin, opened)
    told = tell_shift(shift)
    from textsiam.serving.app import create_app
    from textsiam.serving.page.suspects import read_suspects
    from textsiam.serving.runner import run_server

    shown: set[str] = set()
    queued = 0 if store is None or suspects is None else store.add(_noted(read_suspects(suspects), twin, shown))
    app = create_app(
        twin, opened, reviews=store, labelling=labelling, gallery=gallery, settings=settings, name=Path(model).name,
        shift=shift, shown=shown,
    )  # fmt: skip

    sender = Webhook(store, webhook, secret) if store and webhook and secret else None

    def ready(address: str) -> None:
        facts: dict[str, Any] = {"address": address, "page": None, "reviews": None, "queued": queued}
        facts |= {"label_page": None, "labels": None, "domain_shift": told, "moderators": list(settings.moderators)}
        if label is not None:
            facts |= {"label_page": f"{address}/ui/label", "labels": str(label)}
        if store is not None:
            facts |= {"page": f"{address}/ui", "reviews": store.location}
        print_json(facts) if as_json else say("\n".join(_ready(model, facts)))

    try:
        run_server(app, host=host, port=port, ready=ready, grace=settings.grace, patience=settings.patience)
    finally:
        for one in (sender, opened, store):
            if one is not None:
                one.close()


def _noted(suspects: Iterator[Suspect], twin: Scorer, names: set[str]) -> Iterator[Suspect]:
    """Yield suspects, and note which images or sounds they name: the page may show these."""
    from textsiam.serving.page.media import shown_medium

    medium = shown_medium(twin)
    for suspect in suspects:
        if medium is not None:
            names.update(filter(medium.has_ending, (suspect.text1, suspect.text2)))
        yield suspect


def _ready(model: str, facts: dict[str, Any]) -> list[str]:
    """Return what is said once requests are taken."""
    lines = [f"serving {model} at {facts['address']}"]
    if facts["labels"] is not None:
        lines.append(f"pairs to label at {facts['label_page']}; answers are kept in {facts['labels']}")
    if facts["page"] is not None:
        kept = f"{facts['queued']:,} new suspects; decisions are kept in {facts['reviews']}"
        lines.append(f"moderator's page at {facts['page']}, {kept}")
    if facts["moderators"]:
        lines.append(f"decisions are made by {', '.join(facts['moderators'])}, each by a token of their own")
    return lines


def _check_gallery(gallery: Path | None, twin: Scorer) -> None:
    """Refuse another model's gallery now, and not by every request; where there is none, the first PUT makes it."""
    if gallery is not None:
        from textsiam.search.gallery import Gallery

        Gallery.load(gallery, twin, new=True)


def _open_index(index: str) -> QuestionIndex:
    """Open an index; what a first search has to read is read before anybody waits for it."""
    import numpy as np

    from textsiam.search.factory import open_index

    opened = open_index(index)
    opened.search(np.zeros((0, opened.model.dim), np.float32), model=opened.model, k=1)
    return opened


def _asked(
    context: typer.Context, questions: str | None, label: Path | None, *wished: Any
) -> tuple[str, Path, Aim] | None:
    """Return what people are to be asked about, where their answers go and what is wished; None without --label."""
    if label is not None and questions is not None:
        return questions, label, checked_aim("--label", label, *wished)
    if label is not None or questions is not None:
        raise typer.BadParameter("QUESTIONS and --label FILE go together: the file is for answers about them")
    refuse_given(context, _OF_LABEL, "goes with --label")
    return None


def _labelling(twin: Scorer, model: str, source: str, path: Path, aim: Aim, **reading: Any) -> Labelling:
    """Find what people may be asked about, and open the file of their answers."""
    from textsiam.serving.page.labelling import Labelling
    from textsiam.serving.page.media import shown_medium
    from textsiam.sources import read_texts

    read = read_texts(source, **reading)
    tell_read(read.report)
    command = as_typed("flag", model, source, labels=path, **reading)
    session = open_session(twin, read, path, aim)
    session.candidates.save(path)
    return Labelling(session, read, command=command, medium=shown_medium(twin))


def recalibrate(
    model: Model,
    feedback: Annotated[str, typer.Option(help="Decided pairs: what the page or GET /ui/api/export gave.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the corrected model; without it, MODEL itself is corrected.")
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(
            min=2, help="Size of the collection whose suspects these are, for a model that knows collections."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    column: Column = None,
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Correct probabilities and threshold by what moderators decided, and show both before and after."""
    from textsiam.sources import read_pairs

    pairs = read_pairs(feedback, columns=named_columns(column), quoted=quoted)
    tell_read(pairs.report)
    if output is None and not dry_run and not Path(model).is_dir():
        raise typer.BadParameter(f"{model} is no folder that can be corrected: name an --output")
    twin = open_twin(model)
    from textsiam.decision.recalibration import recalibrate as recalibrated

    collection = twin.collection if questions is not None else None
    if questions is not None and collection is None:
        raise typer.BadParameter("this model has no decision for collections: leave --questions out")
    before = twin.require_decision(questions)
    scores = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
    found = recalibrated(before, scores, pairs.labels)
    from textsiam.models.domain import domain_of_pairs

    # where there are enough of these pairs, theirs is the domain that the decision now holds in
    corrected = replace(found.decision, domain=domain_of_pairs(twin, pairs) or before.domain)
    if collection is None:
        twin.decision = corrected
    else:
        twin.collection = replace(collection, decision=corrected.with_prior(collection.decision.prior))
    target = output or Path(model)
    if not dry_run:
        twin.save_pretrained(target)
    if as_json:
        kept = None if dry_run else str(target)
        print_json({"output": kept, "threshold_before": before.threshold, **found.to_dict()})
        return
    print(_told(found, before.threshold))
    say("nothing was changed: leave --dry-run out" if dry_run else f"corrected model written to {target}")


def _told(found: Recalibration, threshold: float) -> str:
    rows = [("", "before", "after"), ("threshold", f"{threshold:.4f}", f"{found.decision.threshold:.4f}")]
    for name in ("precision", "recall", "accuracy", "probability", "log_loss"):
        old, new = getattr(found.before, name), getattr(found.after, name)
        label = "mean probability" if name == "probability" else name.replace("_", " ")
        shape = "{:.3f}" if name == "log_loss" else "{:.1%}"
        rows.append((label, shape.format(old), shape.format(new)))
    table = "\n".join(f"{name:<18}{before:>10}{after:>10}" for name, before, after in rows)
    return (
        f"{found.pairs:,} decided pairs, {found.duplicates:,} of them duplicates "
        f"({100 * found.duplicates / found.pairs:.1f} %)\n{table}\n"
        "(measured on these pairs, which were flagged before; after: on folds that the correction did not see)"
    )


def _beside(index: str | None) -> str | None:
    """Return where decisions are kept when nobody says: in the database of the index, or a file in its folder."""
    if index is None:
        return None
    return index.partition("#")[0] if "://" in index else str(Path(index) / "reviews.sqlite")
