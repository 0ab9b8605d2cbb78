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
    from textsiam.decision.intervals import Estimate


def adapt(
    model: Model,
    forum: Annotated[Path, typer.Argument(help="A forum folder, as textsiam import writes it.")],
    output: Annotated[Path, typer.Option(help="Folder of the twin.")],
    pairs: Annotated[int, typer.Option(help="Pairs to learn from at most, the newest.", min=1)] = 2000,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-5,
    simcse: Annotated[float, typer.Option(help="Weight of a SimCSE loss beside; 0 does without.", min=0)] = 0.0,
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
    knobs = {"pairs": pairs, "learning_rate": learning_rate, "simcse": simcse, "seed": seed}
    found = adapted(twin, forum, **knobs, tell=say, quiet=quiet)
    found.twin.save_pretrained(output)
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    for line in _sentences(found, model):
        say(line)
    say(f"twin written to {output}")


def _sentences(found: Adaptation, model: str) -> list[str]:
    """Say what was learned, what it is worth, and which twin is kept."""
    gain, spread = found.chosen_by, found.difference
    if gain is None or spread is None or found.before is None or found.after is None:
        few = "two times ten groups of linked questions are needed to judge an adapted twin by, and the forum has fewer"
        return [f"{few}: {model} is kept as it is"]
    judged = (
        f"{found.links:,} links ({found.judged_by}) that neither trained nor chose: mean reciprocal rank "
        f"{100 * found.before:.1f} before, {100 * found.after:.1f} after ({_percent(spread)})"
    )
    chosen = f"{found.pairs:,} {found.learned_from} gained {_percent(gain)} on the links that choose"
    if not found.adapted:
        why = "which may be chance" if gain.low <= 0 else "but lost on the others"
        return [judged, f"learning from {chosen}, {why}: {model} is kept as it is"]
    if found.twin.decision is None:
        undecided = "it has no decision: textsiam label asks for answers that flag --labels makes one of"
        return [judged, f"adapted: learning from {chosen}", f"{undecided}; textsiam calibrate takes labelled pairs"]
    return [judged, f"adapted: learning from {chosen}"]


def _percent(gain: Estimate) -> str:
    return f"{100 * gain.value:+.1f}, 95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
