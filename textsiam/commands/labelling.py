"""Commands that ask people: label pairs until a promise is proven."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textsiam.commands.options import BadRow, Json, Model, open_twin
from textsiam.terminal import print_json, progress_bars, say, warn

if TYPE_CHECKING:
    from textsiam.data.texts import Texts
    from textsiam.labelling.session import Question, Session
    from textsiam.models.scorer import Scorer

_KEYS = {"y": "y", "n": "n", "s": "skip", "skip": "skip", "u": "undo", "undo": "undo", "q": "quit", "": "?"}


def label(
    model: Model,
    questions: Annotated[str, typer.Argument(help="Questions: a forum folder, or a file as for flag.")],
    output: Annotated[Path, typer.Option(help="File of answers, .tsv; one that is there is gone on with.")],
    precision: Annotated[float, typer.Option(help="Share of the flagged pairs that are to be right.")] = 0.95,
    confidence: Annotated[float, typer.Option(help="With which that is proven.")] = 0.95,
    labels: Annotated[int, typer.Option(help="Answers that you mean to give, about: more find more duplicates.")] = 100,
    noise: Annotated[
        float, typer.Option(help="Share of the answers that may be wrong; the proof allows for them.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    labeller: Annotated[str | None, typer.Option(help="Who answers; the name of the account by default.")] = None,
    answers: Annotated[
        str | None,
        typer.Option(help="Labelled pairs that answer in a person's place: duplicates are what they connect."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Name of the column that holds the questions.")] = None,
    on_bad_row: BadRow = "error",
    as_json: Json = False,
) -> None:
    """Ask about the pairs that prove most, until the flagged ones are certified; Ctrl-C and go on."""
    from textsiam.labelling.plan import Aim
    from textsiam.sources import read_texts

    if output.suffix != ".tsv":
        raise typer.BadParameter(f"--output {output}: answers are a .tsv file")
    for name, share in (("precision", precision), ("confidence", confidence)):
        if not 0 < share < 1:
            raise typer.BadParameter(f"--{name} must be between 0 and 1, got {share}")
    if not 0 <= noise < 0.5 or labels < 1:
        raise typer.BadParameter(f"--noise must be in [0, 0.5) and --labels at least 1, got {noise} and {labels}")
    read = read_texts(questions, column=column, on_bad_row=on_bad_row)
    warn(read.report.warnings)
    aim = Aim(precision, confidence, labels, noise, seed)
    session = open_session(open_twin(model), read, output, aim)
    who = labeller or getpass.getuser()
    truth = None if answers is None else _answers(answers)
    if truth is None:
        _converse(session, read, who)
    else:
        _until_promised(session, lambda question: truth(read.texts[question.left], read.texts[question.right]), who)
    certificate = session.certificate()
    known = {} if truth is None else {"truth": _truth(session, read, truth, certificate.pairs)}
    if as_json:
        print_json({**certificate.to_dict(), **known, "output": str(output)})
        return
    for sentence in certificate.sentences():
        say(sentence)
    if known and certificate.pairs:
        precision, recall = known["truth"]["precision"], known["truth"]["recall"]
        say(
            f"really right, by {answers}: {precision:.1%} of them, which are {recall:.1%} of the candidates' duplicates"
        )
    say(f"answers are in {output}: textsiam flag {model} {questions} --labels {output}")


def open_session(twin: Scorer, read: Texts, path: Path, aim: object = None) -> Session:
    """Find the candidates of a collection, and open the file of answers about them."""
    from textsiam.labelling.candidates import find_candidates
    from textsiam.labelling.session import Session

    with progress_bars(("encoding", "texts"), ("comparing", "pairs")) as (progress, joining):
        candidates = find_candidates(twin, read.texts, progress=progress, joining=joining)
    decision = twin.decision
    before = None if decision is None else decision.probability
    return Session(candidates, read.ids, read.texts, path, aim, before=before)  # pyright: ignore[reportArgumentType]


def _until_promised(session: Session, said: Callable[[Question], bool], who: str) -> None:
    """Let something answer until the promise is proven and the planned answers are given."""
    while not _finished(session) and (question := session.ask(who)) is not None:
        session.answer(question, "y" if said(question) else "n", who)


def _finished(session: Session) -> bool:
    return session.plan.done and len(session.plan.answers) >= session.aim.labels


def _truth(session: Session, read: Texts, said: Callable[[str, str], bool], pairs: int) -> dict[str, float]:
    """Return the precision of the certified pairs, and their share of the duplicates among the candidates."""
    rows = zip(session.candidates.left.tolist(), session.candidates.right.tolist(), strict=True)
    right = [said(read.texts[left], read.texts[other]) for left, other in rows]
    found = sum(right[:pairs])
    return {"precision": found / pairs if pairs else float("nan"), "recall": found / max(sum(right), 1)}


def _answers(source: str) -> Callable[[str, str], bool]:
    """Return what labelled pairs say of two texts: duplicates are those that pairs connect."""
    from textsiam.data.clusters import cluster_ids
    from textsiam.sources import read_pairs

    pairs = read_pairs(source)
    cluster = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
    return lambda left, right: left == right or cluster.get(left, -1) == cluster.get(right, -2)


def _converse(session: Session, read: Texts, who: str) -> None:
    """Ask at the terminal: y, n, s(kip), u(ndo), q(uit)."""
    say("Do both ask the same? y yes, n no, s skip, u undo, q quit; every answer is saved at once.")
    promised = False
    while (question := session.ask(who)) is not None:
        if _finished(session):
            break
        if session.plan.done and not promised:
            promised = True
            say("The promise is proven. Further answers tell what is missed; q ends here.")
        say(f"\n{_header(session)}\n  1  {read.texts[question.left]}\n  2  {read.texts[question.right]}")
        key = _key()
        while key not in ("y", "n", "skip", "undo", "quit"):
            say("y, n, s, u or q?")
            key = _key()
        if key == "quit":
            return
        if key == "undo":
            session.undo(who)
        else:
            session.answer(question, key, who)


def _header(session: Session) -> str:
    """Return one line: answers so far, what is proven, what is missing."""
    plan = session.plan
    certificate = session.certificate()
    if certificate.pairs:
        state = f"{certificate.pairs:,} pairs proven to be at least {certificate.precision:.0%} right"
    elif certificate.answers_left is None:
        state = "looking where duplicates end"
    else:
        state = f"about {certificate.answers_left} more answers prove {certificate.precision:.0%}"
    return f"[{len(plan.answers)}] {state}"


def _key() -> str:
    """Return what was typed: one key at a terminal, a line from a pipe; the end of input quits."""
    if sys.stdin.isatty():
        typed = typer.prompt(">", prompt_suffix=" ", default="", show_default=False, err=True)
    else:
        typed = sys.stdin.readline()
        if not typed:
            return "quit"
    return _KEYS.get(typed.strip().lower(), "?")
