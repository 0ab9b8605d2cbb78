"""The pages, end to end: a real server, a real store, and Chromium that presses the keys."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from textsiam.data.tables.errors import ReadReport
from textsiam.data.texts import Texts
from textsiam.decision.decision import Decision, fit_decision
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.labelling import Labelling
from textsiam.serving.page.reviews import Reviews, Suspect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from sentence_transformers import SentenceTransformer

PATIENCE = 60_000  # milliseconds: what a test waits for is a state, and a machine may be busy
# A page looks for news when a test says so (`visibilitychange`), and not when so many seconds have passed meanwhile.
STILL = "window.setInterval = (work, every) => (window.interval = { work, every }).every;"


def similarity_of(probability: float) -> float:
    return round(0.2 + 0.6 * probability, 4)


PAIRS = [
    ("How do I stop my bread collapsing?", "How can I stop the bread, collapsing?", 0.89),
    ("Why is the sky blue?", "Why is the sky so blue?", 0.97),
    ("How much water does a cactus need?", "How much water does a palm need?", 0.31),
    ("Why is the sky so blue?", "What makes the sky blue?", 0.74),
    ("Can dogs eat apples?", "Can dogs eat grapes?", 0.52),
]
SUSPECTS = [
    Suspect(text1=one, text2=other, id1=f"a{k}", id2=f"b{k}", similarity=similarity_of(share), probability=share)
    for k, (one, other, share) in enumerate(PAIRS)
]


@pytest.fixture
def suspects() -> list[Suspect]:
    """Five pairs, two of which share a question."""
    return list(SUSPECTS)


@dataclass
class Served:
    """A server, its store and its decision."""

    url: str
    reviews: Reviews
    decision: Decision | None

    def states(self) -> dict[float | None, str]:
        found = {}
        for state in ("waiting", "accepted", "rejected"):
            found |= {pair.suspect.probability: state for pair in self.reviews.queue(state=state)}
        return found

    def wait_for(self, states: dict[float, str]) -> None:
        """Wait until decisions have reached the store: the page shows them before that."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not states.items() <= self.states().items():
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def decision() -> Decision:
    rng = np.random.default_rng(7)
    scores = np.r_[rng.normal(0.66, 0.12, 300), rng.normal(0.4, 0.13, 300)].astype(np.float32)
    return fit_decision(scores, [1] * 300 + [0] * 300, prior=0.3)


Serve = Callable[..., Served]


@pytest.fixture
def serve(tower: SentenceTransformer, decision: Decision, tmp_path: Path) -> Iterator[Serve]:
    """Start servers that stop after the test."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    running: list[tuple[Any, threading.Thread, Reviews]] = []

    def start(
        suspects: list[Suspect] = SUSPECTS,
        *,
        token: str | None = None,
        moderators: dict[str, str] | None = None,
        decided: bool = True,
        twin: Twin | None = None,
        labelling: Labelling | None = None,
        shown: Container[str] = frozenset(),
    ) -> Served:
        if twin is None:
            twin = Twin(tower)
            twin.decision = decision if decided else None
        reviews = Reviews(tmp_path / "reviews.sqlite")
        reviews.add(suspects)
        settings = ServerSettings(token=token, moderators=moderators or {})
        index = MemoryIndex(index_model(twin))
        app = create_app(twin, index, reviews=reviews, labelling=labelling, settings=settings, shown=shown)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, reviews))
        return Served(f"http://127.0.0.1:{listener.getsockname()[1]}", reviews, twin.decision)

    yield start
    for server, thread, reviews in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        reviews.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return what opens a page with a storage of its own, in which nothing moves by itself."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    contexts = []

    def opened(**options: Any) -> Page:
        shown = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce", **options}
        contexts.append(context := browser.new_context(**shown))
        context.set_default_timeout(PATIENCE)
        context.add_init_script(STILL)
        return context.new_page()

    yield opened
    for context in contexts:
        context.close()


class Tab:
    """A page of the browser, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, served: Served) -> Page:
        self.page.goto(f"{served.url}/ui")
        return self.page


@pytest.fixture
def tab(new_page: Callable[..., Page], request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab that may ask nobody but the server, and may not complain."""
    opened = Tab(new_page(**getattr(request, "param", {})))
    yield opened
    opened.page.context.close()
    assert {urlsplit(url).hostname for url in opened.asked if not url.startswith(("data:", "blob:"))} <= {"127.0.0.1"}
    # What a test makes the server refuse is in the console as well.
    assert [line for line in opened.errors if not line.startswith("Failed to load resource")] == []


@pytest.fixture
def verdict() -> Callable[[Page, str], None]:
    """Return what waits until the pair in focus has this verdict."""
    from playwright.sync_api import expect

    return lambda page, text: expect(page.locator("#verdict")).to_have_text(text)


@pytest.fixture
def counts() -> Callable[..., None]:
    """Return what waits until so many pairs wait, are accepted, and are rejected."""
    from playwright.sync_api import expect

    return lambda page, *numbers: expect(page.locator(".tabs .count")).to_have_text(list(numbers))


@pytest.fixture
def session(tower: SentenceTransformer, sentences: list[str], tmp_path: Path) -> Session:
    ids = [f"q{k}" for k in range(len(sentences))]
    return Session(find_candidates(Twin(tower), sentences), ids, sentences, tmp_path / "labels.tsv", Aim(0.6, 0.9, 8))


@pytest.fixture
def asking(session: Session, serve: Serve) -> Served:
    """A server that asks about the sentences."""
    count = len(session.texts)
    known = {"url": [f"https://example.org/q/{k}" for k in range(count)], "tags": ["bread, sky"] * count}
    questions = Texts(list(session.ids), list(session.texts), "made", ReadReport("made", count, count), metadata=known)
    return serve(labelling=Labelling(session, questions, command="textsiam flag M F --labels L"))


@pytest.fixture
def as_labeller(asking: Served) -> Callable[[Page, str], list[str]]:
    """Return what opens the page that asks and gives a name; that returns the texts of the first pair."""
    from playwright.sync_api import expect

    def opened(page: Page, name: str) -> list[str]:
        page.goto(f"{asking.url}/ui/label")
        expect(page.locator("#labeller")).to_be_focused()
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        expect(page.locator("#name")).to_have_text(name)
        expect(page.locator("#accept")).to_have_attribute("aria-disabled", "false")
        return page.locator(".text").all_text_contents()

    return opened


@pytest.fixture
def answer_all() -> Callable[[Page], None]:
    """Return what answers yes at the page that asks until it has nothing more to ask."""
    from playwright.sync_api import expect

    def answered(page: Page) -> None:
        for _ in range(60):
            expect(page.locator("#undo")).to_have_attribute("aria-disabled", "false")
            if page.locator("#empty").is_visible():
                break
            page.keyboard.press("y")
        expect(page.locator("#empty-title")).to_have_text("Done")

    return answered


@pytest.fixture
def axe(tab: Tab, axe_violations: Callable[[Page], list[Any]]) -> Callable[[str], None]:
    """Return what fails where axe finds anything at the page as it is, in one of the two themes."""

    def checked(state: str) -> None:
        for theme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=theme)
            assert axe_violations(tab.page) == [], f"{state}, {theme}"

    return checked
