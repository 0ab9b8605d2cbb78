"""Commands for a gallery: who is enrolled, when a claim is accepted, whose an input is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textsiam.commands.options import BadRow, Json, Model, open_twin, tell_read
from textsiam.terminal import answer, dim, fail, print_json, progress_bar, rounded, say, warn

if TYPE_CHECKING:
    from textsiam.models.scorer import Scorer
    from textsiam.search.gallery import Gallery
    from textsiam.search.operating_point import OperatingPoint
    from textsiam.sources import Identities

gallery_app = typer.Typer(help="Enroll identities, and say whose an input is.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="GALLERY", help="The folder of the gallery.")]
Source = Annotated[
    str,
    typer.Argument(help="A folder (or .zip) with a folder for each identity, or a table: name<TAB>path, or a text."),
]
_NAMED = 3  # identities that a message names, or that are shown of an input


@gallery_app.command()
def enroll(
    model: Model,
    gallery: Folder,
    source: Source,
    add: Annotated[bool, typer.Option("--add", help="Add to the inputs of identities that are there.")] = False,
    on_bad_row: BadRow = "error",
    as_json: Json = False,
) -> None:
    """Enroll identities; one that is there is replaced. It is on the disk before it is said."""
    twin, found = _opened(model, source, on_bad_row)
    from textsiam.search.gallery import Gallery

    Gallery.load(gallery, twin, new=True)  # another model's is refused before there is any work
    with progress_bar("enrolling") as progress:
        vectors = twin.encode(found.inputs, side="right", progress=progress)
    with Gallery.changing(gallery, twin, new=True) as enrolled:
        before = set(enrolled.names)
        enrolled.add(vectors, found.names, replace=not add)
    names = set(found.names)
    counts = {"new": len(names - before), "replaced": len(names & before), "identities": len(enrolled)}
    changed = f"{counts['replaced']:,} {'added to' if add else 'replaced'}"
    line = f"{counts['new']:,} new, {changed}; {len(enrolled):,} identities"
    answer({**counts, "read": found.report.to_dict()}, line, as_json=as_json)


@gallery_app.command()
def remove(
    model: Model,
    gallery: Folder,
    names: Annotated[list[str], typer.Argument(help="Identities to forget.")],
    as_json: Json = False,
) -> None:
    """Forget identities."""
    twin = open_twin(model)
    from textsiam.search.gallery import Gallery

    with Gallery.changing(gallery, twin) as enrolled:
        _check_enrolled(enrolled, names, gallery)
        for name in dict.fromkeys(names):
            enrolled.remove(name)
    line = f"{len(set(names)):,} removed; {len(enrolled):,} identities"
    answer({"removed": len(set(names)), "identities": len(enrolled)}, line, as_json=as_json)


@gallery_app.command("list")
def list_(model: Model, gallery: Folder, as_json: Json = False) -> None:
    """Say who is enrolled, by how many inputs, and what is promised."""
    enrolled = _loaded(gallery, open_twin(model))
    if as_json:
        norms = {str(least): norm._asdict() for least, norm in enrolled.norms.items()}
        print_json({"identities": enrolled.shots, "thresholds": _thresholds(enrolled), "norms": norms})
        return
    for name, count in enrolled.shots.items():
        print(f"{_printable(name)}  {dim(str(count))}")
    _say_thresholds(enrolled)


@gallery_app.command()
def calibrate(
    model: Model,
    gallery: Folder,
    probes: Source,
    far: Annotated[
        float, typer.Option(help="Share of the impostors among the probes that is accepted at most.")
    ] = 0.01,
    prior: Annotated[
        float, typer.Option(help="Share of genuine inputs in use; probabilities are stated for it.")
    ] = 0.5,
    on_bad_row: BadRow = "error",
    as_json: Json = False,
) -> None:
    """Learn when a claim is accepted, and bound the false accept rate for identities never seen.

    Probes of enrolled identities are genuine, all others impostors; none was enrolled itself, and training saw none.
    """
    if not 0.0 < far < 1.0:
        raise typer.BadParameter(f"--far must be between 0 and 1, got {far:g}")
    if not 0.0 < prior < 1.0:
        raise typer.BadParameter(f"--prior must be between 0 and 1, got {prior:g}")
    twin, found = _opened(model, probes, on_bad_row)
    from textsiam.search.gallery import Gallery

    enrolled = Gallery.load(gallery, twin)
    _say_before(enrolled, found, far)
    with progress_bar("calibrating") as progress:
        enrolled.calibrate(found.inputs, found.names, far=far, prior=prior, open_set=True, progress=progress)
    with Gallery.changing(gallery, twin) as latest:
        latest.take_thresholds(enrolled)
    if as_json:
        print_json({"thresholds": _thresholds(enrolled), "read": found.report.to_dict()})
    else:
        _say_thresholds(enrolled)


@gallery_app.command()
def verify(
    model: Model,
    gallery: Folder,
    name: Annotated[str, typer.Argument(help="The identity that is claimed.")],
    file: Annotated[str, typer.Argument(help="The image, or the text.")],
    as_json: Json = False,
) -> None:
    """Say whether an input is of an identity: exit status 0 accepted, 1 rejected, 2 any error."""
    try:
        enrolled = _loaded(gallery, open_twin(model))
        _check_enrolled(enrolled, [name], gallery)
        from textsiam.search.galleries.answers import verified

        said = verified(enrolled, name, enrolled.twin.encode([file], side="left")[0])
        if as_json:
            print_json(said)
        else:
            word, score = "accepted" if said["accepted"] else "rejected", f"similarity {said['similarity']:.4f}"
            print(f"{word}  probability {said['probability']:.3f}  {score} (threshold {said['threshold']:.4f})  "
                  f"{enrolled.promise(name)}")  # fmt: skip
        sys.stdout.flush()  # 0 would mean accepted, where nobody reads it
    except Exception as error:  # whatever it is, it must look neither accepted nor rejected
        fail(f"error: {error or type(error).__name__}", 2)
    raise typer.Exit(0 if said["accepted"] else 1)


@gallery_app.command()
def identify(
    model: Model,
    gallery: Folder,
    files: Annotated[list[str], typer.Argument(help="Images, or texts.")],
    top_k: Annotated[int, typer.Option(min=1, help="Identities to name of each.")] = _NAMED,
    on_bad_row: BadRow = "error",
    as_json: Json = False,
) -> None:
    """Say whose inputs are, or unknown: the most similar identity is named only where it reaches the threshold."""
    enrolled = _loaded(gallery, open_twin(model))
    files = _readable(enrolled, files) if on_bad_row == "skip" else files
    enrolled.identification_threshold()  # refuses before there is any work
    from textsiam.search.galleries.answers import identified

    similarities = enrolled.similarities(files)
    found = identified(enrolled, similarities, top_k=top_k)
    drift = enrolled.drift(similarities)
    if drift is not None:
        warn((str(drift),))
    rows = [{"input": file, **one} for file, one in zip(files, found, strict=True)]
    if as_json:
        print_json({"identified": rows, "domain_shift": drift and drift.to_dict()})
        return
    for row in rows:
        near = ", ".join(
            f"{_printable(c['name'])} {c['similarity']:.4f} ({c['probability']:.3f})" for c in row["candidates"]
        )
        name = "unknown" if row["name"] is None else _printable(row["name"])
        print(f"{row['input']}  {name}  {dim(near)}")


def _printable(name: str) -> str:
    """Return a name with its control characters escaped, which galleries of older versions may hold."""
    from textsiam.sources import CONTROL_CHARACTERS

    return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], name)


def _opened(model: str, source: str, on_bad_row: BadRow) -> tuple[Scorer, Identities]:
    """Open a model, and read the inputs that it takes with their identities."""
    twin = open_twin(model)
    from textsiam.inference.inputs import inputs_of
    from textsiam.sources import read_identities

    found = read_identities(source, modality=inputs_of(twin.tower()).modality, on_bad_row=on_bad_row)
    tell_read(found.report)
    return twin, found


def _loaded(gallery: Path, twin: Scorer) -> Gallery:
    from textsiam.search.gallery import Gallery

    return Gallery.load(gallery, twin)


def _readable(gallery: Gallery, files: list[str]) -> list[str]:
    """Leave out files that cannot be opened, and say so.

    Raises:
        DataError: None can.
    """
    from textsiam.data.tables.errors import DataError
    from textsiam.inference.inputs import inputs_of
    from textsiam.modality import MEDIA

    medium = MEDIA.get(inputs_of(gallery.twin.tower()).modality)
    if medium is None:
        return files
    problems = [medium.broken(file) for file in files]
    warn(tuple(f"skipped {file}: {problem}" for file, problem in zip(files, problems, strict=True) if problem))
    kept = [file for file, problem in zip(files, problems, strict=True) if problem is None]
    if not kept:
        raise DataError(f"none of the {len(files)} {medium.nouns} can be opened")
    return kept


def _check_enrolled(gallery: Gallery, names: list[str], folder: Path) -> None:
    if missing := [name for name in names if name not in gallery.sums]:
        raise ValueError(f"{folder}: {missing[0]!r} is not enrolled")


def _say_before(gallery: Gallery, found: Identities, far: float) -> None:
    """Say what so many identities can promise, before anything is computed; and which of them training saw."""
    from textsiam.search.galleries.unseen import identities_needed, independent_pairs, worst_case_bound

    probing = list(dict.fromkeys(found.names))
    strangers = [name for name in probing if name not in gallery.sums]
    pairs = independent_pairs(len(probing), len(gallery), len(probing) - len(strangers))
    shown = ", ".join([*strangers[:_NAMED], *(["…"] if len(strangers) > _NAMED else [])])
    say(f"{len(probing) - len(strangers):,} enrolled identities, {len(strangers):,} impostors"
        + (f" ({shown})" if strangers else "") + f", {len(found.names):,} probes")  # fmt: skip
    if (least := worst_case_bound(0.0, pairs)) > far:
        warn((
            f"a false accept rate of {far:.2%} for identities never seen, whatever they are like, takes "
            f"{identities_needed(far):,} enrolled identities with a probe each; these can promise {least:.1%}. "
            "A smaller bound takes for granted that identities differ as by a normal distribution",
        ))  # fmt: skip
    trained = set(getattr(gallery.twin, "provenance", {}).get("identities", ()))
    if seen := [name for name in probing if Path(name).name in trained]:
        warn((
            f"{len(seen):,} of {len(probing):,} identities have the names of those that the model was trained on "
            f"({', '.join(seen[:_NAMED])}): what is learned from people that training saw is no promise for others",
        ))  # fmt: skip


def _thresholds(gallery: Gallery) -> dict[str, Any]:
    """Return what is known of each threshold, for JSON."""
    points = {"verification": gallery.verification, "identification": gallery.identification}
    points |= {f"verification, {_counted(least)}": point for least, point in gallery.by_references.items()}
    return {what: None if point is None else _facts(point) for what, point in points.items()}


def _facts(point: OperatingPoint) -> dict[str, Any]:
    known = {"threshold": rounded(point.decision.threshold), "far": point.far, "probes": point.probes}
    return {**known, "true_accepts": point.true_accepts.to_dict(), **point.promised()}


def _counted(least: int) -> str:
    from textsiam.search.gallery import REFERENCES

    most = REFERENCES[least]
    return "1 reference" if most == 1 else f"{least} references and more" if most is None else f"{least} to {most}"


def _say_thresholds(gallery: Gallery) -> None:
    if gallery.verification is None:
        say("not calibrated: `textsiam gallery calibrate` learns when a claim is accepted")
        return
    if gallery.norms:
        weights = ", ".join(f"{norm.weight:.2f} of {least}" for least, norm in gallery.norms.items())
        say(f"scores depend on how alike an identity's own inputs are: weight {weights} inputs and more")
    points = {f"claim, {_counted(least)}": point for least, point in gallery.by_references.items()}
    points |= {"claim, any other number": gallery.verification, "search": gallery.identification}
    for what, point in points.items():
        if point is None:
            say(f"{what}: too few probes for a threshold of identification at this rate")
        else:
            say(f"{what}: threshold {point.decision.threshold:.4f}, accepts {point.true_accepts.percent()} % of the "
                f"genuine probes; {point}")  # fmt: skip
