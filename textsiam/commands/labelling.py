"""Commands that ask people: label pairs until a promise is proven."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsiam.commands.options import (
    BadRow,
    IdColumn,
    Json,
    Model,
    Quoted,
    TextColumn,
    as_typed,
    one_or_all,
    open_twin,
    tell_read,
)
from textsiam.terminal import fail, print_json, progress_bars, say

if TYPE_CHECKING:
    from textsiam.data.texts import Texts
    from textsiam.labelling.aim import Aim
    from textsiam.labelling.audit import Audit
    from textsiam.labelling.candidates import Candidates
    from textsiam.labelling.session import Question, Session
    from textsiam.models.scorer import Scorer

Truth = Callable[[str, str], bool]
"""Says whether two texts are duplicates."""
Confidence = Annotated[float, typer.Option(help="With which the precision is proven.")]
Labels = Annotated[
    int, typer.Option(help="Answers you mean to give, about: more find more; it ends after three times as many.")
]
Noise = Annotated[float, typer.Option(help="Share of the answers that may be wrong; the proof allows for them.")]
Seed = Annotated[int, typer.Option(help="Of the draws.")]
_KEYS = {"y": "y", "n": "n", "s": "skip", "skip": "skip", "u": "undo", "undo": "undo", "q": "quit", "": "?"}


def label(
    model: Model,
    output: Annotated[Path, typer.Option(help="File of answers, .tsv; one that is there is gone on with.")],
    questions: Annotated[
        str | None,
        typer.Argument(help="Questions: a forum folder, or a file as for flag; with --flagged, MODEL may be left out."),
    ] = None,
    flagged: Annotated[
        str | None,
        typer.Option(
            help="Ask about pairs that were flagged, by whatever tool: a table with id1, id2; see audit. "
            "With a model, also about its candidates that are not flagged: what is missed."
        ),
    ] = None,
    precision: Annotated[float, typer.Option(help="Share of the flagged pairs that are to be right.")] = 0.95,
    confidence: Confidence = 0.95,
    labels: Labels = 150,
    noise: Noise = 0.0,
    seed: Seed = 0,
    labeller: Annotated[str | None, typer.Option(help="Who answers; the name of the account by default.")] = None,
    answers: Annotated[
        str | None,
        typer.Option(help="Labelled pairs that answer in a person's place: duplicates are what they connect."),
    ] = None,
    column: TextColumn = None,
    id_column: IdColumn = None,
    on_bad_row: BadRow = "error",
    quoted: Quoted = None,
    as_json: Json = False,
) -> None:
    """Ask about the pairs that prove most, until the flagged ones are certified; Ctrl-C and go on."""
    from textsiam.sources import read_texts

    aim = checked_aim("--output", output, precision, confidence, labels, noise, seed)
    if flagged is None and questions is None:
        raise typer.BadParameter("expected MODEL QUESTIONS, or --flagged FILE and QUESTIONS, with a model or without")
    source = questions or model
    reading = {"column": column, "id_column": id_column, "on_bad_row": on_bad_row, "quoted": quoted}
    read = read_texts(source, **reading)
    tell_read(read.report)
    who, truth = labeller or getpass.getuser(), None if answers is None else _answers(answers)
    known: dict[str, float] = {}
    if flagged is not None:
        twin = None if questions is None else open_twin(model)
        result, then = _label_flagged(flagged, twin, read, output, aim, who, truth)
    else:
        from textsiam.labelling.progress import Progress

        session = open_session(open_twin(model), read, output, aim)
        session.candidates.save(output)
        _ask(session, read, who, truth, lambda: f"[{len(session.plan.answers)}] {Progress.of(session)}")
        result, then = session.certificate(), as_typed("flag", model, source, labels=output, **reading)
        known = {} if truth is None else _truth(session, read, truth, result.pairs)
    if as_json:
        print_json({**result.to_dict(), **({"truth": known} if known else {}), "output": str(output)})
        return
    for sentence in result.sentences():
        say(sentence)
    if known:
        shares = f"{known['precision']:.1%} of them, which are {known['recall']:.1%} of the candidates' duplicates"
        say(f"really right, by {answers}: {shares}")
    say(f"answers are in {output}: {then}")


def checked_aim(
    option: str, path: Path, precision: float, confidence: float, labels: int, noise: float, seed: int
) -> Aim:
    """Return what is wished of the answers in a file, which an option names."""
    if path.suffix.lower() != ".tsv":
        raise typer.BadParameter(f"{option} {path}: answers are a .tsv file")
    return _aim(precision=precision, confidence=confidence, labels=labels, noise=noise, seed=seed)


def _aim(**wished: Any) -> Aim:
    """Return what is wished; a value that may not be is an error that names its option."""
    from textsiam.labelling.aim import Aim

    try:
        return Aim(**wished)
    except ValueError as error:
        raise typer.BadParameter(f"--{error}") from None


def _label_flagged(
    flagged: str, twin: Scorer | None, read: Texts, output: Path, aim: Aim, who: str, truth: Truth | None
) -> tuple[Audit, str]:
    """Ask about flagged pairs; return what is known of them then, and the command that says it again."""
    from textsiam.labelling.audit import audit, open_flagged
    from textsiam.labelling.flagged import read_flagged

    pairs = read_flagged(flagged)
    candidates = None if twin is None else _candidates(twin, read, output)
    session = open_flagged(pairs, read.ids, read.texts, output, aim, source=read.source, candidates=candidates)
    if candidates is not None:
        candidates.save(output)
    plan = session.plan
    _ask(session, read, who, truth, lambda: f"[{len(plan.answers)}] {sum(map(bool, plan.answers.values()))} are right")
    return audit(pairs, session), as_typed("audit", flagged, labels=output)


def audit(
    flagged: Annotated[str, typer.Argument(help="Flagged pairs: a table with the columns id1 and id2.")],
    labels: Annotated[Path, typer.Option(help="Answers about them, of label --flagged.")],
    confidence: Annotated[
        float | None, typer.Option(help="With which the interval holds; that of the answers by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how precise flagged pairs are, from answers about some: an interval, or exactly once all are judged."""
    from textsiam.labelling.audit import answered_flagged
    from textsiam.labelling.audit import audit as audit_of
    from textsiam.labelling.flagged import read_flagged

    if confidence is not None:
        _aim(confidence=confidence)
    pairs = read_flagged(flagged)
    found = audit_of(pairs, answered_flagged(pairs, labels), confidence=confidence)
    if as_json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.sentences()))


def open_session(twin: Scorer, read: Texts, path: Path, aim: Aim | None = None) -> Session:
    """Open a file of answers about the candidates of a collection: those kept beside it, or found now."""
    from textsiam.decision.estimate import two_heaps
    from textsiam.labelling.session import Session

    decision = twin.decision
    candidates = _candidates(twin, read, path)
    before = two_heaps(candidates.scores)
    # what was learned from answers about this collection says nothing before them
    known = None if decision is None else decision.certificate
    if before is None and decision is not None and (known is None or known.collection != candidates.collection[:16]):
        before = decision.probability
    return Session(candidates, read.ids, read.texts, path, aim, before=before, source=read.source)


def _candidates(twin: Scorer, read: Texts, labels: Path) -> Candidates:
    from textsiam.labelling.candidates import find_candidates, kept_candidates

    if (kept := kept_candidates(labels, twin, read.texts)) is not None:
        return kept
    with progress_bars(("encoding", "texts"), ("comparing", "pairs")) as (progress, joining):
        return find_candidates(twin, read.texts, progress=progress, joining=joining)


def answered(twin: Scorer, read: Texts, labels: Path) -> Session:
    """Open answers about a collection that are there."""
    if not labels.is_file():
        raise typer.BadParameter(f"--labels {labels}: no such file; textsiam label makes it")
    return open_session(twin, read, labels)


def _ask(session: Session, read: Texts, who: str, truth: Truth | None, header: Callable[[], str]) -> None:
    """Ask people, or labelled pairs in their place."""
    try:
        if truth is None:
            _converse(session, read, who, header)
        else:
            _until_promised(session, lambda question: truth(read.texts[question.left], read.texts[question.right]), who)
    except KeyboardInterrupt:
        fail(f"\ninterrupted: all answers are in {session.file.path}; the same command goes on", 130)


def _until_promised(session: Session, said: Callable[[Question], bool], who: str) -> None:
    """Let something answer until the promise is proven, or seems out of reach, and the planned answers are given."""
    while not session.finished and (question := session.ask(who)) is not None:
        session.answer(question, "y" if said(question) else "n", who)


def _truth(session: Session, read: Texts, said: Truth, pairs: int) -> dict[str, float]:
    """Return precision and recall (among the candidates) of the certified pairs; nothing where there are none."""
    rows = zip(session.candidates.left.tolist(), session.candidates.right.tolist(), strict=True)
    right = [said(read.texts[int(left)], read.texts[int(other)]) for left, other in rows]
    found = sum(right[:pairs])
    return {"precision": found / pairs, "recall": found / max(sum(right), 1)} if pairs else {}


def _answers(source: str) -> Truth:
    """Return what labelled pairs say of two texts: duplicates are those that pairs connect."""
    from textsiam.data.clusters import cluster_ids
    from textsiam.sources import read_pairs

    pairs = read_pairs(source)
    tell_read(pairs.report)
    cluster = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
    return lambda left, right: left == right or cluster.get(left, -1) == cluster.get(right, -2)


def _converse(session: Session, read: Texts, who: str, header: Callable[[], str]) -> None:
    """Ask at the terminal: y, n, s(kip), u(ndo), q(uit)."""
    say("Do both ask the same? y yes, n no, s skip, u undo, q quit; every answer is saved at once.")
    promised = False
    while (question := session.ask(who)) is not None:
        if session.finished:
            break
        if session.plan.done and not promised:
            promised = True
            say("The promise is proven. Further answers tell what is missed; q ends here.")
        say(f"\n{header()}\n  1  {read.texts[question.left]}\n  2  {read.texts[question.right]}")
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


def _key() -> str:
    """Return what was typed: one key at a terminal, a line from a pipe; the end of input quits."""
    if sys.stdin is None:  # it was closed
        return "quit"
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline()
    if not typed:
        return "quit"
    return _KEYS.get(typed.strip().lower(), "?")


def keep_answers(
    model: str,
    questions: list[str],
    labels: Path,
    output: Path,
    precision: float | None,
    on_bad_row: BadRow,
    quoted: bool | None,
    *,
    as_json: bool,
) -> None:
    """Save a model with what answers about a collection say, and certify there."""
    from textsiam.sources import read_texts

    read = read_texts(one_or_all(questions), on_bad_row=on_bad_row, quoted=quoted)
    tell_read(read.report)
    twin = open_twin(model)
    decision = answered(twin, read, labels).decision(precision)
    from textsiam.decision.collection import CollectionDecision
    from textsiam.models.domain import domain_of

    twin.decision = replace(decision, domain=domain_of(twin, read.texts))
    twin.collection = CollectionDecision(twin.decision, len(read))
    twin.save_pretrained(output)
    if as_json:
        assert decision.certificate is not None
        print_json({"output": str(output), "threshold": decision.threshold, **decision.certificate.to_dict()})
        return
    say(f"duplicate from {decision.threshold:.4f} on, {decision.learned_from}", stream=sys.stdout)
    say(f"calibrated model written to {output}")
