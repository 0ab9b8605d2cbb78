"""The command that makes a twin for a forum of what the forum has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textsiam.commands.options import Json, Model, open_twin, refuse_foreign
from textsiam.terminal import print_json, say

if TYPE_CHECKING:
    from textsiam.adaptation import Adaptation


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
    found = adapted(twin, forum, pairs=pairs, learning_rate=learning_rate, seed=seed, tell=say, quiet=quiet)
    found.twin.save_pretrained(output)
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    for line in _sentences(found, model):
        say(line)
    say(f"twin written to {output}")


def _sentences(found: Adaptation, model: str) -> list[str]:
    """Say what was learned, what it is worth, and which twin is kept."""
    if found.before is None or found.after is None:
        return [f"the forum has no link, so that nothing could judge an adapted twin: {model} is kept as it is"]
    spread = found.difference
    chance = (
        f"{found.clusters} groups of questions are too few for an interval"
        if spread is None
        else f"difference {100 * spread.value:+.1f}, 95 % interval {100 * spread.low:+.1f} to {100 * spread.high:+.1f}"
    )
    judged = (
        f"{found.links:,} links ({found.judged_by}) that training never saw: "
        f"mean reciprocal rank {100 * found.before:.1f} before, {100 * found.after:.1f} after ({chance})"
    )
    if not found.adapted:
        return [judged, f"learning from {found.pairs:,} {found.learned_from} did not help: {model} is kept as it is"]
    decision = "" if found.twin.decision else "; it has no decision yet: textsiam label, or a threshold of your own"
    return [judged, f"adapted by {found.pairs:,} {found.learned_from}{decision}"]
