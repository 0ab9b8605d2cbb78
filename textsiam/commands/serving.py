"""Commands of a model in use: serve it, and learn from what moderators decided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textsiam.commands.options import (
    Column,
    Json,
    Model,
    PrecisionOption,
    Prior,
    chosen_decision,
    named_columns,
    open_twin,
    tell_shift,
)
from textsiam.terminal import print_json, say

if TYPE_CHECKING:
    from textsiam.decision.recalibration import Recalibration

_EXTRA = ("fastapi", "limits", "orjson", "uvicorn", "prometheus_client", "sqlalchemy")


def serve(
    model: Model,
    index: Annotated[str | None, typer.Option(help="Questions to look through: a folder, or postgresql://…")] = None,
    reviews: Annotated[
        str | None,
        typer.Option(help="Where decisions are kept: an SQLite file, or postgresql://…; without it, beside the index."),
    ] = None,
    suspects: Annotated[
        str | None, typer.Option(help="Queue the pairs of this file for moderators: what `textsiam flag` wrote.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; any but a loopback one needs TEXTSIAM_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8080,
    precision: PrecisionOption = None,
    prior: Prior = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Tokens that may wait; what comes on top gets 429.")] = 262_144,
    max_batch: Annotated[int, typer.Option(min=1, help="Inputs of a request at most.")] = 10_000,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests a minute of one client at most.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut long inputs instead of refusing them.")] = False,
    host_name: Annotated[
        list[str] | None, typer.Option(help="What clients may call the server, beside its address and the loopback.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A site, as https://forum.example, whose pages may embed the page and call the server."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a twin over HTTP: vectors, scores, verdicts about new questions, and the moderator's page at /ui."""
    from importlib.util import find_spec

    if missing := [module for module in _EXTRA if find_spec(module) is None]:
        raise typer.BadParameter(f"{missing[0]} is not installed: pip install 'textsiam[serve]'")
    from textsiam.serving.heap import keep_few_kernels

    keep_few_kernels()
    from textsiam.serving.limits import ServerSettings, token_for
    from textsiam.serving.page.reviews import Reviews, ReviewsError

    settings = ServerSettings(
        max_queue=max_queue, max_batch=max_batch, requests_per_minute=rate, truncate=truncate, token=token_for(host),
        host_names=tuple(host_name or ()), origins=tuple(origin or ()),
    )  # fmt: skip
    place = reviews or _beside(index)
    if suspects is not None and place is None:
        raise ReviewsError("--suspects are queued in a store of decisions: name one with --reviews")
    import numpy as np

    from textsiam.search.factory import open_index

    opened = None if index is None else open_index(index)
    if opened is not None:  # what a first search has to read is read before anybody waits for it
        opened.search(np.zeros((0, opened.model.dim), np.float32), model=opened.model, k=1)
    store = None if place is None else Reviews(place)
    twin = open_twin(model)
    if precision is not None or prior is not None:
        twin.decision = chosen_decision(twin, None, precision, prior)
    from textsiam.search.ingest import index_shift

    shift = None if opened is None else tell_shift(index_shift(twin, opened))
    from textsiam.serving.app import create_app
    from textsiam.serving.page.suspects import read_suspects
    from textsiam.serving.runner import run_server

    queued = 0 if store is None or suspects is None else store.add(read_suspects(suspects))
    app = create_app(twin, opened, reviews=store, settings=settings, name=Path(model).name)

    def ready(address: str) -> None:
        page = None if store is None else f"{address}/ui"
        if as_json:
            kept = None if store is None else store.location
            print_json({"address": address, "page": page, "reviews": kept, "queued": queued, "domain_shift": shift})
            return
        say(f"serving {model} at {address}")
        if store is not None:
            say(f"moderator's page at {page}, {queued:,} new suspects; decisions are kept in {store.location}")

    try:
        run_server(app, host=host, port=port, ready=ready, grace=settings.grace, patience=settings.patience)
    finally:
        for one in (opened, store):
            if one is not None:
                one.close()


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
    as_json: Json = False,
) -> None:
    """Correct probabilities and threshold by what moderators decided, and show both before and after."""
    from textsiam.sources import read_pairs

    pairs = read_pairs(feedback, columns=named_columns(column))
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
