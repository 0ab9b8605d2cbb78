"""Routes over a gallery: who is enrolled, is an input who it claims to be, whose is it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from textsiam.inference.encoders import ModelError
from textsiam.saving import SaveError
from textsiam.search.galleries.answers import identified, verified
from textsiam.search.gallery import Gallery
from textsiam.serving.engine import Engine
from textsiam.serving.problem_details import Refused, unfit
from textsiam.serving.routes.embeddings import PROBLEMS, Problems
from textsiam.serving.wire import Id, Own, Problem, Text, Texts

log = logging.getLogger("textsiam.serving")
T = TypeVar("T")

_UNKNOWN: Problems = {404: {"model": Problem, "description": "There is no such identity."}}
_MISSING: Problems = {409: {"model": Problem, "description": "The server has no gallery, or it is not calibrated."}}
_MOST = 100  # candidates of an input


class Inputs(Own):
    """Body of `PUT /gallery/{name}`."""

    inputs: Text | Texts = Field(description="Texts; images in base64 where the twin takes images.")
    add: bool = Field(False, description="Add to the inputs that are there, instead of replacing them.")


class Enrolled(BaseModel):
    """Who is enrolled after a change."""

    name: str
    references: int = Field(description="Inputs of this identity; 0 once it is forgotten.")
    identities: int


class Claim(Own):
    """Body of `/verify`."""

    name: Id
    input: Text


class Verified(BaseModel):
    """Whether an input is of the identity it claims to be of."""

    name: str
    accepted: bool
    references: int
    probability: float
    similarity: float
    threshold: float
    false_accepts: float = Field(description="Share of the impostors that were accepted when it was calibrated.")
    bound: float | None = Field(description="At most this share of identities never seen, with 95 % confidence.")
    worst_case: float | None = Field(description="The same, whatever identities are like.")


class Asked(Own):
    """Body of `/identify`."""

    inputs: Text | Texts
    top_k: int = Field(3, ge=1, le=_MOST, strict=True)


class Candidate(BaseModel):
    """An enrolled identity, and how similar an input is to it."""

    name: str
    similarity: float
    probability: float


class Identified(BaseModel):
    """Whose an input is; no name where nobody reaches the threshold."""

    name: str | None
    probability: float
    similarity: float
    threshold: float
    candidates: list[Candidate]


def gallery_routes(engine: Engine, folder: Path | None) -> APIRouter:
    """Return `/gallery/{name}`, `/verify` and `/identify`.

    Args:
        engine: Encodes.
        folder: The gallery; without one these routes answer 409.
    """
    routes = APIRouter(responses=PROBLEMS | _MISSING)
    answers = _Answers(engine, folder)
    created: Problems = {201: {"model": Enrolled, "description": "It was not there before."}}
    routes.add_api_route("/gallery/{name:any}", answers.put, methods=["PUT"], responses=created)
    routes.add_api_route("/gallery/{name:any}", answers.delete, methods=["DELETE"], responses=_UNKNOWN)
    routes.add_api_route("/verify", answers.verify, methods=["POST"], responses=_UNKNOWN)
    routes.add_api_route("/identify", answers.identify, methods=["POST"])
    return routes


class _Answers:
    """What the routes do. The folder is the truth: other processes may change it, too."""

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self._engine, self._folder = engine, folder
        self._known: tuple[object, Gallery] | None = None
        self._turn = asyncio.Lock()

    async def put(self, name: Id, body: Inputs, request: Request, response: Response) -> Enrolled:
        """Enroll an identity, in place of what is known of it; it is on the disk before this is answered."""
        folder = self._place()
        vectors, _ = await self._engine.encode(
            body.inputs, request.is_disconnected, field="inputs", truncate=True, side="right"
        )

        def change(gallery: Gallery) -> tuple[bool, Enrolled]:
            there = name in gallery.sums
            try:
                gallery.add(vectors, [name] * len(vectors), replace=not body.add)
            except ValueError as error:
                raise unfit(str(error)) from error
            return there, Enrolled(name=name, references=gallery.shots[name], identities=len(gallery))

        there, said = await self._changed(folder, change)
        response.status_code = 200 if there else 201
        return said

    async def delete(self, name: Id) -> Enrolled:
        """Forget an identity."""

        def change(gallery: Gallery) -> Enrolled:
            _check(gallery, name)
            gallery.remove(name)
            return Enrolled(name=name, references=0, identities=len(gallery))

        return await self._changed(self._place(), change)

    async def verify(self, body: Claim, request: Request) -> Verified:
        """Say whether an input is of the identity it claims to be of."""
        gallery = await self._gallery()
        _check(gallery, body.name)
        if gallery.verification is None:
            raise _uncalibrated()
        probes, _ = await self._engine.encode(body.input, request.is_disconnected, field="input", truncate=True)
        await self._look(gallery, probes)
        return Verified(**await asyncio.to_thread(verified, gallery, body.name, probes[0]))

    async def identify(self, body: Asked, request: Request) -> list[Identified]:
        """Say whose inputs are, or that they are nobody's."""
        gallery = await self._gallery()
        if gallery.identification is None or not len(gallery):
            raise _uncalibrated()
        probes, _ = await self._engine.encode(body.inputs, request.is_disconnected, field="inputs", truncate=True)
        await self._look(gallery, probes)
        similarities = await asyncio.to_thread(gallery.similarities_of, probes)
        rows = await asyncio.to_thread(identified, gallery, similarities, top_k=body.top_k)
        return [Identified(**row) for row in rows]

    async def _look(self, gallery: Gallery, probes: np.ndarray) -> None:
        """Look whether inputs are like those of the calibration, and log it once they are not."""
        watch = self._engine.probes
        if await asyncio.to_thread(watch.take, gallery, gallery.usual, probes):
            log.warning("unlike what the gallery was calibrated on", extra={"facts": {"reason": str(watch.drift)}})

    async def _changed(self, folder: Path, change: Callable[[Gallery], T]) -> T:
        """Change the gallery and write it; once begun it is finished, whether the client waits for it or not."""

        def run() -> T:
            with Gallery.changing(folder, self._engine.twin, new=True) as gallery:
                return change(gallery)

        async def written() -> T:
            async with self._turn:
                return await asyncio.to_thread(_used, run)

        return await asyncio.shield(asyncio.ensure_future(written()))

    async def _gallery(self) -> Gallery:
        """Return the gallery as it is on the disk; it is read again where somebody has changed it."""
        folder = self._place()
        now = await asyncio.to_thread(_version, folder / "gallery.json")
        if self._known is None or now is None or self._known[0] != now:
            loaded = await asyncio.to_thread(_used, lambda: Gallery.load(folder, self._engine.twin, new=True))
            self._known = (now, loaded)
        return self._known[1]

    def _place(self) -> Path:
        if self._folder is None:
            raise Refused(409, "this server has no gallery: start it with --gallery", "Conflict")
        return self._folder


def _version(file: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is written anew; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _used(run: Callable[[], T]) -> T:
    """Read or write a gallery.

    Raises:
        Refused: It cannot be read or written; nothing has changed.
    """
    try:
        return run()
    except (ModelError, SaveError) as error:
        log.error("gallery failed", exc_info=error)
        raise Refused(503, "the gallery cannot be used at the moment", "Unhealthy", retry_after=5) from error


def _check(gallery: Gallery, name: str) -> None:
    if name not in gallery.sums:
        raise Refused(404, f"{name!r} is not enrolled", "NotFound")


def _uncalibrated() -> Refused:
    return Refused(409, "the gallery has no threshold for this: run `textsiam gallery calibrate`", "Conflict")
