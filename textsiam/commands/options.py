"""What commands share: the options that mean the same everywhere, and how they are understood."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from warnings import catch_warnings, simplefilter

import typer

from textsiam.terminal import loading, quieten_libraries, say, warn

if TYPE_CHECKING:
    import numpy as np

    from textsiam.data.pairs import Pairs
    from textsiam.data.tables.errors import ReadReport
    from textsiam.decision.decision import Decision
    from textsiam.decision.domain import DomainShift
    from textsiam.inference.unread import Unread
    from textsiam.models.ensemble import Ensemble
    from textsiam.models.scorer import Scorer
    from textsiam.models.twin import Twin

Model = Annotated[
    str,
    typer.Argument(help="Saved twin or ensemble, any SentenceTransformer, all-MiniLM-L6-v2, user/repo[@revision]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
BadRow = Annotated[Literal["error", "skip"], typer.Option(help="Stop at a bad row, or count it and go on.")]
Column = Annotated[
    list[str] | None, typer.Option("--column", help="left=NAME, right=NAME, label=NAME: columns not recognised.")
]
TextColumn = Annotated[str | None, typer.Option("--column", help="Name of the column that holds the texts.")]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", help="Name of the column that holds the ids; line numbers without one.")
]
Quoted = Annotated[
    bool | None,
    typer.Option(
        "--quoted/--no-quoted", help='Whether " quotes fields of .tsv and .csv, also over several lines, or is a sign.'
    ),
]
Prior = Annotated[
    float | None, typer.Option(help="Share of duplicates where the twin is used; restates probability and threshold.")
]
Threshold = Annotated[float | None, typer.Option(help="Least similarity of a duplicate, instead of the learned one.")]
_NAMED = 5  # texts that a message names
TABLE_FORMATS = ".tsv, .csv, .jsonl or .parquet"
PICKED = (
    "this decision was learned on pairs that were picked, and not every pair of a collection is such a pair: its "
    "threshold is that of picked pairs, and no precision is promised; `textsiam calibrate` learns one for collections"
)
PrecisionOption = Annotated[
    float | None, typer.Option("--precision", help="Learn the threshold for this precision, with 95 % confidence.")
]


def open_twin(model: str, *, device: str | None = None, sides: bool = False) -> Twin | Ensemble:
    """Open a model, without the chatter of the libraries; with `sides`, for left texts of another kind than right."""
    with loading(), catch_warnings(record=True) as told:
        simplefilter("always", UserWarning)
        quieten_libraries()
        from textsiam.models.ensemble import open_scorer

        twin = open_scorer(model, device=device, sides=sides)
    warn(tuple(str(one.message) for one in told if one.category is UserWarning))
    return twin


def chosen_decision(
    twin: Scorer,
    threshold: float | None,
    precision: float | None,
    prior: float | None,
    *,
    needed: bool = True,
    texts: int | None = None,
) -> Decision | None:
    """Return the decision that the options ask for; None where the twin has none and nothing asks for one.

    It is for all pairs among so many `texts`, of which the share `prior` are duplicates. A model that knows picked
    pairs only cannot be restated for those: its threshold stays, and the user is told.
    """
    if threshold is not None and precision is not None:
        raise typer.BadParameter("--threshold and --precision exclude each other")
    collection = None if texts is None else twin.collection
    if collection is None or prior is None:
        decision = twin.decision_for(texts, tell=lambda message: warn((message,)))
    else:
        decision = collection.decision
    if decision is None and not (needed or precision is not None or prior is not None):
        return None
    decision = decision or twin.require_decision()
    if texts is not None and collection is None and threshold is None:
        warn((PICKED,))
    if prior is not None and (texts is None or collection is not None):
        decision = decision.with_prior(prior)
    if precision is not None:
        decision = decision.at_precision(precision)
    return decision if threshold is None else decision.at_threshold(threshold)


def as_typed(*words: str, **options: object) -> str:
    """Return a command of textsiam as it is typed: quoted for a shell, without defaults.

    Example:
        >>> as_typed("flag", "my twin", "q.csv", labels="l.tsv", id_column=None, on_bad_row="error", quoted=False)
        "textsiam flag 'my twin' q.csv --labels l.tsv --no-quoted"
    """
    given = list(words)
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None and (name, value) != ("on_bad_row", "error"):
            given += [f"--{flag}", str(value)]
    return shlex.join(["textsiam", *given])


def refuse_foreign(output: Path) -> None:
    """Refuse a folder that no twin was saved in, or that holds more than that, before there is any work to lose."""
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / "textsiam.json").exists()):
        raise typer.BadParameter(f"--output {output} is there already, and is no saved twin")
    from textsiam.models.folder import own_names
    from textsiam.saving import foreign

    own = own_names(output)
    if own is not None and (name := foreign(output, own)) is not None:
        raise typer.BadParameter(f"--output {output} holds {name!r}, which would be lost: move it away first")


def check_output(path: Path | None, *endings: Sequence[str], inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse a file to write whose ending says something else than what is written, or that is read, before any work.

    Args:
        path: The file; None is none.
        endings: Those that it may have; of a table by default.
        inputs: What the command reads: files, or anything else that a source can be.
    """
    if path is None:
        return
    from textsiam.data.tables.writers import checked_ending

    checked_ending(path, *endings)
    if path.is_file() and any(each is not None and Path(each).is_file() and path.samefile(each) for each in inputs):
        raise typer.BadParameter(f"{path} is read and would be overwritten: name another file to write")


def tell_shift(shift: DomainShift | None) -> dict[str, Any] | None:
    """Say in what texts are unlike those that the decision was learned on; returns the same for JSON."""
    if shift is None:
        return None
    warn((str(shift),))
    return shift.to_dict()


def tell_unread(twin: Scorer, texts: Sequence[str], ids: Sequence[str], *, side: str | None = "left") -> Unread | None:
    """Say which texts the model cannot read, and which it cuts; returns that, None where the inputs are no texts.

    Without a side, it is what neither side reads.
    """
    from textsiam.inference.encoders import inputs_of
    from textsiam.inference.inputs import TEXTS
    from textsiam.inference.preprocessed import reads_tokens
    from textsiam.inference.tokens import token_limit
    from textsiam.inference.unread import unread_of
    from textsiam.models.ensemble import members_of

    sides = ("left", "right") if side is None else (side,)
    towers = list(dict.fromkeys(member.tower(each) for member in members_of(twin) for each in sides))
    if not texts or any(inputs_of(tower) is not TEXTS or not reads_tokens(tower) for tower in towers):
        return None
    unread = unread_of(towers, twin.to_keys(texts))
    told = ((unread.nothing, "hold unknown tokens only, and the model reads nothing of them"),
            (unread.cut, f"are cut after {token_limit(towers[0])} tokens, the most that is read"))  # fmt: skip
    for found, what in told:
        if count := int(found.sum()):
            warn((f"{count:,} of {len(texts):,} texts {what}: {_first(ids, found)}",))
    return unread


def _first(ids: Sequence[str], found: np.ndarray) -> str:
    """Name the first ones that were found, `found` (n,) bool."""
    rows = found.nonzero()[0]
    return ", ".join(dict.fromkeys([*(ids[int(i)] for i in rows[:_NAMED]), *(["…"] if len(rows) > _NAMED else [])]))


def tell_unread_pairs(twin: Scorer, pairs: Pairs) -> np.ndarray | None:
    """Say which texts of pairs are not read, and which pairs differ in nothing that is; returns those, `(n,)` bool."""
    names = [f"pair {row}" for row in range(1, len(pairs) + 1)]
    owner = {int(text): row for row in reversed(range(len(pairs))) for text in (pairs.right[row], pairs.left[row])}
    unread = tell_unread(twin, pairs.texts, [names[owner[i]] for i in range(len(pairs.texts))], side=None)
    if unread is None:
        return None
    hidden = unread.differ_unread(pairs.left, pairs.right) & (pairs.left != pairs.right)
    one_unread = hidden & (unread.nothing[pairs.left] != unread.nothing[pairs.right])
    for found, what in (
        (hidden & ~one_unread, "differ in nothing that the model reads"),
        (one_unread, "hold a text of which the model reads nothing"),
    ):
        if count := int(found.sum()):
            warn((f"{count:,} of {len(pairs):,} pairs {what}: {_first(names, found)}",))
    return hidden


def one_or_all(sources: list[str]) -> str | list[str]:
    """Return the source that was named, or all of several, which are read as one."""
    return sources[0] if len(sources) == 1 else sources


def tell_read(*reports: ReadReport) -> None:
    """Say on stderr how sources were understood, and which rows of them were left out."""
    for report in reports:
        for decision in report.decided:
            say(f"note: {decision}")
        warn(report.warnings)
        if report.skipped:
            counted = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
            say(f"note: {report.source}: {sum(report.skipped.values()):,} of {report.rows:,} left out: {counted}")


def refuse_given(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that were given and do not apply."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} {why}")


def named_columns(
    options: list[str] | None, roles: Sequence[str] = ("left", "right", "label")
) -> dict[str, str] | None:
    """Return the column names given as `left=NAME`, by role."""
    if not options:
        return None
    columns = {}
    for option in options:
        role, equals, name = option.partition("=")
        if not equals or role not in roles:
            expected = ", ".join(f"{each}=NAME" for each in roles[:-1]) + f" or {roles[-1]}=NAME"
            raise typer.BadParameter(f"--column {option!r}: expected {expected}")
        columns[role] = name
    return columns
