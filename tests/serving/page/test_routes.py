"""The moderator's page, end to end: a real server, a real store, and Chromium that presses the keys."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from textsiam.data.pairs import read_pairs
from textsiam.data.tables.errors import ReadReport
from textsiam.data.texts import Texts
from textsiam.decision.decision import Decision, fit_decision
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.plan import Aim
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

import uvicorn
from playwright.sync_api import expect, sync_playwright

from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.labelling import Labelling
from textsiam.serving.page.reviews import Reviews, Suspect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from sentence_transformers import SentenceTransformer

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "a-token-of-some-length"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]


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


@pytest.fixture(scope="module")
def decision() -> Decision:
    rng = np.random.default_rng(7)
    scores = np.r_[rng.normal(0.66, 0.12, 300), rng.normal(0.4, 0.13, 300)].astype(np.float32)
    return fit_decision(scores, [1] * 300 + [0] * 300, prior=0.3)


Serve = Callable[..., Served]


@pytest.fixture
def serve(tower: SentenceTransformer, decision: Decision, tmp_path: Path) -> Iterator[Serve]:
    """Start servers that stop after the test."""
    running: list[tuple[uvicorn.Server, threading.Thread, Reviews]] = []

    def start(
        suspects: list[Suspect] = SUSPECTS,
        *,
        token: str | None = None,
        moderators: dict[str, str] | None = None,
        decided: bool = True,
        twin: Twin | None = None,
        labelling: Labelling | None = None,
    ) -> Served:
        if twin is None:
            twin = Twin(tower)
            twin.decision = decision if decided else None
        reviews = Reviews(tmp_path / "reviews.sqlite")
        reviews.add(suspects)
        settings = ServerSettings(token=token, moderators=moderators or {})
        index = MemoryIndex(index_model(twin))
        app = create_app(twin, index, reviews=reviews, labelling=labelling, settings=settings)
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


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
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab that may ask nobody but the server, and may not complain."""
    options: dict[str, Any] = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
    context.set_default_timeout(10_000)
    opened = Tab(context.new_page())
    yield opened
    context.close()
    assert {urlsplit(url).hostname for url in opened.asked if not url.startswith(("data:", "blob:"))} <= {"127.0.0.1"}
    # What a test makes the server refuse is in the console as well.
    assert [line for line in opened.errors if not line.startswith("Failed to load resource")] == []


def verdict(page: Page, text: str) -> None:
    expect(page.locator("#verdict")).to_have_text(text)


def counts(page: Page, *numbers: str) -> None:
    expect(page.locator(".tabs .count")).to_have_text(list(numbers))


def test_the_queue_is_sorted_and_differences_are_marked(serve: Serve, tab: Tab):
    page = tab.open(serve())
    expect(page.locator(".row .likely")).to_have_text(["97 %", "89 %", "74 %", "52 %", "31 %"])
    counts(page, "5", "0", "0")
    verdict(page, "97 % likely the same")
    expect(page.locator("#text1")).to_have_text("Why is the sky blue?")
    expect(page.locator("#text1 del")).to_have_count(0)
    expect(page.locator("#text2 ins")).to_have_text(["so"])
    page.keyboard.press("j")
    verdict(page, "89 % likely the same")
    expect(page.locator("#text1 del")).to_have_text(["do", "my"])
    expect(page.locator("#text2 ins")).to_have_text(["can", "the"])
    expect(page.locator("#text2")).to_have_text("How can I stop the bread, collapsing?")
    expect(page.locator("#facts")).to_contain_text("Similarity 0.734")
    expect(page.locator("#id1")).to_have_text("a0")
    expect(page.locator("#place")).to_have_text("2 of 5")
    expect(page.locator(".row[aria-current=true] .likely")).to_have_text("89 %")
    page.keyboard.press("ArrowUp")
    verdict(page, "97 % likely the same")
    page.keyboard.press("k")
    expect(page.locator("#status")).to_have_text("This is the first pair.")


@pytest.mark.parametrize(
    ("left", "right", "first", "second"),
    [
        ("Why red?", "why RED!", ["red"], ["RED"]),
        ("Why red?", "why red?", ["Why"], ["why"]),
        ("Why red?", "Why red!", ["?"], ["!"]),
        ("Why  red?", "Why red?", ["  "], [" "]),
        ("caf\u00e9", "cafe\u0301", ["caf\u00e9"], ["cafe\u0301"]),
        ("Why red?", "Why red?", [], []),
        ("How do I learn C++?", "How do I learn C#?", ["++"], ["#"]),
        ("Is x > 5 true?", "Is x < 5 true?", [">"], ["<"]),
        ("Why $5?", "Why \u20ac5?", ["$"], ["\u20ac"]),
        ("I am \U0001f600 now", "I am \U0001f622 now", ["\U0001f600"], ["\U0001f622"]),
        ("Is 3.5 more?", "Is 3.4 more?", ["3.5"], ["3.4"]),
        ("Can the US win?", "Can us win it?", ["the US"], ["us", "it"]),
        ("f(x) is", "f[x] is", ["(", ")"], ["[", "]"]),
        ("Is Python slow?", "Python is slow now", ["Is"], ["is", "now"]),
        ("a b " * 3000, "b a " * 3000, ["a b " * 3000], ["b a " * 3000]),
        ("a b c d", "b x c a", ["a", "d"], ["x", "a"]),
        ("Don\u2019t panic", "don't worry", ["panic"], ["worry"]),
        ("one two three", "three", ["one two"], []),
        ("", "all new", [], ["all new"]),
        ("今日は良い天気", "今日は悪い天気", ["良い"], ["悪い"]),
        ("x " * 3000 + "left", "x " * 3000 + "right", ["left"], ["right"]),
        ("p q " * 2000 + "a", "q p " * 2000 + "b", ["a"], ["b"]),
    ],
)
def test_all_that_differs_is_marked_and_only_equal_texts_are_identical(
    words: Page, left: str, right: str, first: list, second: list
):
    script = "([a, b]) => import('/ui/files/words.js').then((words) => words.compare(a, b))"
    found = words.evaluate(script, [left, right])
    assert found["identical"] == (left == right)
    for side, text, marked in (("left", left, first), ("right", right, second)):
        assert "".join(run["text"] for run in found[side]) == text
        assert [run["text"].strip() or run["text"] for run in found[side] if run["differs"]] == [
            text.strip() or text for text in marked
        ]


@pytest.fixture(scope="module")
def words(browser: Browser) -> Iterator[Page]:
    """A page from which the script that compares words can be asked, without a server."""
    source = (Path(__file__).parents[3] / "textsiam/serving/page_files/words.js").read_text(encoding="utf-8")
    page = browser.new_page()
    page.route("**/*", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page.route("**/words.js", lambda route: route.fulfill(body=source, content_type="text/javascript"))
    page.goto("http://127.0.0.1/")
    yield page
    page.close()


def test_decisions_by_key_are_kept_and_taken_back(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.keyboard.press("a")
    verdict(page, "89 % likely the same")
    expect(page.locator("#status")).to_have_text("Accepted: the same.")
    expect(page.locator("#spoken")).to_contain_text("89 % likely the same. First question: How do I stop my bread")
    expect(page.locator("#spoken")).to_contain_text("Only in the first: do, my. Only in the second: can, the.")
    expect(page.locator("#pair")).to_be_focused()
    page.keyboard.press("r")
    verdict(page, "74 % likely the same")
    counts(page, "3", "1", "1")
    page.keyboard.press("u")
    verdict(page, "89 % likely the same")
    counts(page, "4", "1", "0")
    assert served.states() == {0.97: "accepted", 0.89: "waiting", 0.74: "waiting", 0.52: "waiting", 0.31: "waiting"}
    page.reload()
    counts(page, "4", "1", "0")
    verdict(page, "89 % likely the same")
    page.keyboard.press("u")
    verdict(page, "97 % likely the same")
    expect(page.locator("#status")).to_have_text("Taken back: the pair waits again.")
    counts(page, "5", "0", "0")
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("There is no decision to take back.")
    assert set(served.states().values()) == {"waiting"}


def test_a_pair_can_be_decided_again(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.click("#accept")
    page.click("[data-state=accepted]")
    verdict(page, "97 % likely the same")
    expect(page.locator("#state")).to_have_text("Accepted: the same")
    page.keyboard.press("a")
    expect(page.locator("#status")).to_have_text("This pair is accepted already.")
    page.keyboard.press("r")
    expect(page.locator("#empty-title")).to_have_text("Nothing accepted yet")
    counts(page, "4", "0", "1")
    page.keyboard.press("u")
    verdict(page, "97 % likely the same")
    counts(page, "4", "1", "0")
    assert served.states()[0.97] == "accepted"


def test_a_decision_that_is_refused_waits_in_a_tray(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    refused = '{"error": "the store of decisions cannot be used at the moment", "error_type": "Unhealthy"}'
    page.route("**/decisions", lambda route: route.fulfill(status=503, body=refused, content_type="application/json"))
    verdict(page, "97 % likely the same")
    page.keyboard.press("a")
    tray = page.locator("#tray-text")
    expect(tray).to_have_text(
        "1 decision is not saved yet. The server says: the store of decisions cannot be used at the moment. It is "
        "tried again by itself."
    )
    verdict(page, "89 % likely the same")  # what was refused took no focus
    expect(page.locator(".row .likely")).to_have_text(["89 %", "74 %", "52 %", "31 %"])
    page.unroute("**/decisions")
    page.route("**/decisions", lambda route: route.abort())
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(tray).to_contain_text("2 decisions are not saved yet. The server cannot be reached.")
    verdict(page, "52 % likely the same")
    page.click("[data-state=waiting]")  # what is in the tray is not listed
    expect(page.locator(".row .likely")).to_have_text(["89 %", "52 %", "31 %"])
    assert set(served.states().values()) == {"waiting"}
    page.unroute("**/decisions")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # tries again, as it does every few seconds
    expect(page.locator("#tray")).to_be_hidden()
    verdict(page, "89 % likely the same")
    page.click("[data-state=rejected]")
    counts(page, "3", "1", "1")
    assert (served.states()[0.97], served.states()[0.74]) == ("accepted", "rejected")


def test_what_was_refused_is_taken_back_without_the_server(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.keyboard.press("a")
    counts(page, "4", "1", "0")
    page.route("**/decisions", lambda route: route.fulfill(status=503, body="{}", content_type="application/json"))
    page.keyboard.press("r")
    expect(page.locator("#tray")).to_be_visible()
    page.keyboard.press("u")
    verdict(page, "89 % likely the same")
    expect(page.locator("#tray")).to_be_hidden()
    assert served.states()[0.97] == "accepted"  # the undo was of the last decision alone
    page.unroute("**/decisions")
    page.route("**/undo", lambda route: route.abort())
    page.keyboard.press("u")
    expect(page.locator("#alert-text")).to_have_text("The server cannot be reached.")
    page.unroute("**/undo")
    undone = []
    page.on("request", lambda request: undone.append(request.url) if request.url.endswith("/undo") else None)
    page.click("#alert-retry")
    expect(page.locator("#alert")).to_be_hidden()
    counts(page, "4", "1", "0")
    assert undone == []  # nobody knows whether the first one arrived, so no second one is sent


def test_a_late_answer_takes_no_focus_and_no_key(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    held: list[Any] = []
    page.route("**/decisions", lambda route: held.append(route))
    page.keyboard.press("a")
    verdict(page, "89 % likely the same")
    page.keyboard.press("n")
    page.keyboard.type("a note with a and r")
    while not held:
        page.wait_for_timeout(10)
    held[0].fulfill(status=409, body='{"error": "taken", "error_type": "Conflict"}', content_type="application/json")
    expect(page.locator("#notices")).to_contain_text("Pair 2 was not decided. The server says: taken.")
    expect(page.locator("#note")).to_be_focused()
    expect(page.locator("#note")).to_have_value("a note with a and r")
    verdict(page, "89 % likely the same")
    assert set(served.states().values()) == {"waiting"}


def test_a_decision_whose_answer_was_lost_is_one_decision(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route("**/decisions", lose)
    page.keyboard.press("a")
    expect(page.locator("#tray-text")).to_contain_text("The server cannot be reached.")
    assert served.states()[0.97] == "accepted"
    page.keyboard.press("u")
    expect(page.locator("#alert-text")).to_contain_text("Whether the decision arrived is not known.")
    page.keyboard.press("Escape")
    page.unroute("**/decisions")
    page.click("#tray-retry")
    verdict(page, "89 % likely the same")
    counts(page, "4", "1", "0")
    page.keyboard.press("u")
    verdict(page, "97 % likely the same")
    assert set(served.states().values()) == {"waiting"}


def test_search_and_tabs(serve: Serve, tab: Tab):
    page = tab.open(serve())
    verdict(page, "97 % likely the same")
    page.keyboard.press("/")
    page.keyboard.type("SKY")
    counts(page, "2", "0", "0")
    expect(page.locator(".row .likely")).to_have_text(["97 %", "74 %"])
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    verdict(page, "74 % likely the same")
    counts(page, "1", "1", "0")
    page.reload()
    expect(page.locator("#search")).to_have_value("SKY")
    counts(page, "1", "1", "0")
    page.keyboard.press("/")
    page.locator("#search").fill("a%")  # no wildcard
    expect(page.locator("#empty-text")).to_have_text("There is no waiting pair containing “a%”.")
    page.keyboard.press("Escape")
    verdict(page, "89 % likely the same")
    counts(page, "4", "1", "0")


def test_the_slider_says_what_a_threshold_costs(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    decision = served.decision
    assert decision is not None
    expect(page.locator("#slider")).to_be_hidden()
    page.click("#threshold summary")
    learned = float(decision.probability([decision.threshold])[0])
    expect(page.locator("#readout")).to_contain_text(f"At {learned:.2f}: ")
    expect(page.locator("#curve-note")).to_contain_text(f"probability of {learned:.2f} ")
    page.locator("#slider").fill("60")
    flagged = decision.probability(decision.scores) >= 0.6
    recall = flagged[decision.labels == 1].mean()
    alarms = flagged[decision.labels == 0].mean()
    precision = 0.3 * recall / (0.3 * recall + 0.7 * alarms)
    said = page.locator("#readout").inner_text().replace("%", "").split()
    assert said[:2] == ["At", "0.60:"]
    assert abs(float(said[2]) - 100 * precision) < 1.5
    assert abs(float(said[8]) - 100 * recall) < 1.5
    expect(page.locator("#reach")).to_have_text("3")
    page.locator("#slider").focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#reach")).to_have_text("2")  # at 0.75
    verdict(page, "97 % likely the same")  # the arrows moved the slider, and not the queue
    page.check("#only")
    expect(page.locator(".row .likely")).to_have_text(["97 %", "89 %"])
    page.click("#accept")
    expect(page.locator("#reach")).to_have_text("1")
    assert page.locator("#chart path.precision").get_attribute("d")


def test_without_a_decision_there_is_no_slider(serve: Serve, tab: Tab):
    page = tab.open(serve(decided=False))
    page.click("#threshold summary")
    expect(page.locator("#no-curve")).to_contain_text("this model has no decision")
    expect(page.locator("#slider")).to_be_hidden()


def test_the_cluster_shows_what_hangs_together(serve: Serve, tab: Tab):
    page = tab.open(serve())
    verdict(page, "97 % likely the same")
    page.keyboard.press("c")
    expect(page.locator("#cluster-title")).to_have_text("3 questions hang together")
    expect(page.locator(".cluster-text")).to_have_text(
        ["Why is the sky blue? a1", "Why is the sky so blue? b1, a3", "What makes the sky blue? b3"]
    )
    expect(page.locator("#cluster-graph .edge")).to_have_count(2)
    expect(page.locator(".cluster-links").nth(1)).to_have_text("1 · 97 % · waiting3 · 74 % · waiting")
    page.keyboard.press("a")  # is the dialogue's, and decides nothing
    page.keyboard.press("Escape")
    expect(page.locator("#cluster")).to_be_hidden()
    counts(page, "5", "0", "0")
    page.keyboard.press("c")
    page.locator(".cluster-links").nth(2).locator("button").click()
    verdict(page, "74 % likely the same")
    expect(page.locator("#place")).to_have_text("3 of 5")


def test_the_token_is_asked_for_and_kept_in_the_tab(serve: Serve, tab: Tab):
    served = serve(token=TOKEN)
    page = tab.open(served)
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#ask-title")).to_have_text("This server asks for a token")
    page.keyboard.press("Escape")
    expect(page.locator("#alert-text")).to_have_text("The server asks for a token.")
    expect(page.locator("#empty-title")).to_have_text("Nothing could be loaded")
    page.wait_for_load_state("networkidle")  # no request that was under way asks again
    page.click("#alert-retry")
    page.keyboard.type("wrong-but-long-enough")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-title")).to_have_text("That token was refused")
    page.fill("#token", "with an accent: é")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-title")).to_have_text("A token has no spaces and no accents")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    verdict(page, "97 % likely the same")
    page.keyboard.press("a")
    counts(page, "4", "1", "0")
    page.reload()
    verdict(page, "89 % likely the same")
    assert page.evaluate("[...Object.values(localStorage), document.cookie]") == [""]
    with page.expect_download() as download:
        page.click("#export")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t")[:3] == ["question1", "question2", "is_duplicate"]
    assert lines[1].split("\t")[:3] == ["Why is the sky blue?", "Why is the sky so blue?", "1"]
    assert len(lines) == 2


def test_a_long_queue_is_walked_in_order_with_few_rows(serve: Serve, tab: Tab):
    many = [Suspect(text1=f"one {k}", text2=f"two {k}", probability=(k * 37 % 331) / 331) for k in range(331)]
    served = serve(many)
    page = tab.open(served)
    order = [pair.number for pair in served.reviews.queue(limit=500)]
    expect(page.locator("#place")).to_have_text("1 of 331")
    # In the page, as a press through the protocol takes some 20 ms.
    seen = page.evaluate("""async () => {
        const number = () => Number(document.getElementById("facts").textContent.match(/Pair (\\d+)/)[1]);
        const seen = [number()], last = document.getElementById("status");
        while (!last.textContent.startsWith("This is the last")) {
            const before = number();
            document.dispatchEvent(new KeyboardEvent("keydown", { key: "j" }));
            for (let k = 0; k < 500 && number() === before && !last.textContent; k += 1)
                await new Promise(requestAnimationFrame);
            if (number() !== before) seen.push(number());
        }
        return seen;
    }""")
    assert seen == order
    assert page.locator(".row").count() <= 200
    assert page.locator("#earlier").is_visible()
    page.keyboard.press("a")
    expect(page.locator("#place")).to_have_text("330 of 330")
    expect(page.locator("#end")).to_have_text("The end of 330 listed pairs.")
    page.locator("#earlier").click()
    expect(page.locator("#later")).to_be_visible()  # the last rows have left for the earlier ones
    start = int(page.locator("#rows").get_attribute("start") or "1") - 1
    shown = page.eval_on_selector_all(".row", "rows => rows.map((row) => Number(row.dataset.number))")
    assert len(shown) == 200
    assert shown == order[start : start + 200]


def test_the_list_stays_true_where_it_has_let_go_of_rows(serve: Serve, tab: Tab):
    many = [Suspect(text1=f"one {k}", text2=f"two {k}", probability=1 - k / 400) for k in range(320)]
    served = serve(many)
    page = tab.open(served)
    expect(page.locator("#place")).to_have_text("1 of 320")
    for _ in range(10):
        page.keyboard.press("j")
    expect(page.locator("#place")).to_have_text("11 of 320")
    page.evaluate("""async () => {
        for (let later = document.getElementById("later"); !later.hidden; ) {
            later.click();
            await new Promise(requestAnimationFrame);
        }
    }""")
    expect(page.locator("#end")).to_be_visible()
    assert int(page.locator("#rows").get_attribute("start") or "1") > 100
    page.keyboard.press("a")  # pair 11, whose row is gone
    expect(page.locator("#status")).to_have_text("Accepted: the same.")
    page.keyboard.press("r")  # the first one that is listed
    page.keyboard.press("r")
    counts(page, "317", "1", "2")
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("Taken back: the pair waits again.")
    counts(page, "318", "1", "1")
    for left in (319, 320):
        page.keyboard.press("u")
        counts(page, str(left), *{319: ("1", "0"), 320: ("0", "0")}[left])
    expect(page.locator("#facts")).to_contain_text("Pair 11.")
    for _ in range(6):
        if page.locator("#earlier").is_hidden():
            break
        start = page.locator("#rows").get_attribute("start") or ""
        page.locator("#earlier").click()
        expect(page.locator("#rows")).not_to_have_attribute("start", start)
    shown = page.eval_on_selector_all(".row", "rows => rows.map((row) => Number(row.dataset.number))")
    assert shown == list(range(1, 201))
    expect(page.locator("#place")).to_have_text("11 of 320")


def test_keys_of_other_layouts_and_caps_lock(serve: Serve, tab: Tab):
    page = tab.open(serve())
    verdict(page, "97 % likely the same")
    press = "([key, code]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))"
    page.evaluate(press, ["\u043e", "KeyJ"])  # the Cyrillic letter in the place of j
    verdict(page, "89 % likely the same")
    page.evaluate(press, ["A", "KeyA"])
    counts(page, "4", "1", "0")
    page.keyboard.press("Control+r")
    page.keyboard.press("?")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.keyboard.press("ArrowUp")
    verdict(page, "97 % likely the same")
    counts(page, "4", "1", "0")


def test_a_text_is_never_markup(serve: Serve, tab: Tab):
    evil = '<img src="https://example.org/x" onerror="document.title=1"><b>bold</b>'
    page = tab.open(serve([Suspect(text1=evil, text2="<script>document.title=2</script>", id1="<i>", probability=0.5)]))
    expect(page.locator("#text1")).to_have_text(evil)
    page.keyboard.press("c")
    expect(page.locator(".cluster-text").first).to_have_text(f"{evil} <i>")
    assert page.title() == "Suspected duplicates"
    assert page.locator(".text img, .text b, .row img, .cluster-text img").count() == 0


def test_what_is_known_of_a_question_is_shown_and_its_url_is_a_link(serve: Serve, tab: Tab):
    first = {"url": "https://a.org/q/1", "tags": "scope, <b>", "created": "2011-08-17T20:18:56.507Z"}
    second = {"url": "javascript:document.title=1", "score": 3}
    page = tab.open(serve([Suspect(text1="a?", text2="b?", probability=0.5, facts1=first, facts2=second)]))
    expect(page.locator("#known1")).to_have_text("2011-08-17 · tags: scope, <b> · https://a.org/q/1")
    link = page.locator("#known1 a")
    expect(link).to_have_attribute("href", "https://a.org/q/1")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(page.locator("#known2")).to_have_text("score: 3 · javascript:document.title=1")
    expect(page.locator("#known2 a")).to_have_count(0)


MODERATORS = {"Anna": "anna-has-this-token", "Bert": "bert-has-another-one"}
LOOK = "document.dispatchEvent(new Event('visibilitychange'))"  # as the page does every few seconds


def as_moderator(browser: Browser, served: Served, name: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(10_000)
    page.goto(f"{served.url}/ui")
    page.fill("#token", MODERATORS[name])
    page.keyboard.press("Enter")
    expect(page.locator("#moderator")).to_have_text(name)
    return page


def test_two_moderators_share_a_queue(serve: Serve, browser: Browser):
    served = serve(moderators=MODERATORS)
    anna, bert = as_moderator(browser, served, "Anna"), as_moderator(browser, served, "Bert")
    verdict(bert, "97 % likely the same")
    anna.keyboard.press("a")
    verdict(anna, "89 % likely the same")
    anna.keyboard.press("r")
    counts(anna, "3", "1", "1")
    anna.locator("body").evaluate(LOOK)
    bert.evaluate(LOOK)
    counts(bert, "3", "1", "1")
    expect(bert.locator(".row .likely")).to_have_text(["74 %", "52 %", "31 %"])
    verdict(bert, "97 % likely the same")  # the pair that is being read stays, with what became of it
    expect(bert.locator("#state")).to_have_text("Accepted: the same")
    expect(bert.locator("#decided")).to_have_text(re.compile(r"^By Anna, \d\d:\d\d\.$"))
    bert.keyboard.press("r")  # pressed before he saw it
    expect(bert.locator("#notices")).to_have_text(re.compile(r"^Pair 2 is already accepted by Anna, \d\d:\d\d\.Close$"))
    verdict(bert, "74 % likely the same")
    counts(bert, "3", "1", "1")
    bert.keyboard.press("u")
    expect(bert.locator("#status")).to_have_text("There is no decision to take back.")
    anna.keyboard.press("u")
    counts(anna, "4", "1", "0")
    assert served.states()[0.97] == "accepted"
    for page in (anna, bert):
        page.close()


def test_not_sure_related_a_note_and_the_question_that_is_kept(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.keyboard.press("s")
    verdict(page, "89 % likely the same")
    counts(page, "5", "0", "0")
    page.keyboard.press("n")
    page.keyboard.type("a matter of taste")
    page.keyboard.press("Enter")
    page.keyboard.press("l")
    verdict(page, "74 % likely the same")
    expect(page.locator("#note")).to_have_value("")
    page.keyboard.press("2")
    expect(page.locator("#keep2")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("a")
    counts(page, "3", "1", "1")
    verdict(page, "52 % likely the same")
    expect(page.locator("#keep2")).to_have_attribute("aria-pressed", "false")
    page.reload()
    expect(page.locator(".row .likely")).to_have_text(["52 %", "31 %", "97 %"])
    held = {pair.suspect.probability: pair for pair in served.reviews.decided()}
    assert (held[0.89].choice, held[0.89].note) == ("related", "a matter of taste")
    assert held[0.74].canonical == {"text": "What makes the sky blue?", "id": "b3"}
    page.click("[data-state=rejected]")
    expect(page.locator("#state")).to_have_text("Rejected: related")
    expect(page.locator("#decided")).to_contain_text("Note: a matter of taste")


def test_a_cluster_is_accepted_with_one_undo(serve: Serve, tab: Tab):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.keyboard.press("c")
    page.locator(".cluster-list input").nth(1).check()
    page.click("#accept-cluster")
    expect(page.locator("#status")).to_have_text("Accepted 2 pairs: Undo takes them back together.")
    counts(page, "3", "2", "0")
    verdict(page, "89 % likely the same")
    assert {pair.canonical["text"] for pair in served.reviews.decided()} == {"Why is the sky so blue?"}
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("Taken back: 2 pairs wait again.")
    counts(page, "5", "0", "0")
    expect(page.locator(".row .likely")).to_have_text(["97 %", "89 %", "74 %", "52 %", "31 %"])


def test_pairs_are_filtered_by_tag_and_date(serve: Serve, tab: Tab):
    facts = {"tags": "bread, baking", "created": "2024-05-06T07:08:09Z"}
    page = tab.open(serve([*SUSPECTS, Suspect(text1="a?", text2="b?", probability=0.66, facts1=facts)]))
    counts(page, "6", "0", "0")
    page.click("#filters summary")
    page.fill("#tag", "Baking")
    page.keyboard.press("Enter")
    counts(page, "1", "0", "0")
    verdict(page, "66 % likely the same")
    page.reload()
    counts(page, "1", "0", "0")
    page.fill("#until", "2023-12-31")
    page.locator("#until").blur()
    expect(page.locator("#empty-text")).to_have_text(
        "There is no waiting pair tagged “Baking” and of 2023-12-31 or earlier."
    )
    page.click("#empty-action")
    counts(page, "6", "0", "0")


def test_a_row_shows_the_part_that_differs_and_long_questions_scroll_together(serve: Serve, tab: Tab):
    same, more = "Why is the sky so very blue in the morning and grey ", "line\n" * 80
    page = tab.open(serve([Suspect(text1=f"{same}at noon?{more}", text2=f"{same}at night?{more}", probability=0.5)]))
    expect(page.locator(".row-texts b")).to_have_text(["noon", "night"])
    assert page.locator(".row-texts span").first.inner_text().startswith("…")
    box = page.locator(".row").bounding_box()
    mark = page.locator(".row-texts b").first.bounding_box()
    assert mark["x"] + mark["width"] < box["x"] + box["width"]
    page.locator("#text1").evaluate("text => (text.scrollTop = 300)")
    expect(page.locator("#text2")).to_have_js_property("scrollTop", 300)
    expect(page.locator("#text2")).to_have_attribute("tabindex", "0")  # the keyboard reaches what scrolls


def test_a_text_from_right_to_left_turns_nothing_around_it(serve: Serve, tab: Tab):
    page = tab.open(serve([Suspect(text1="\u05d0 \u202e abc", text2="b?", id1="\u05d0", probability=0.5)]))
    verdict(page, "50 % likely the same")
    for id in ("text1", "id1", "text2"):
        assert page.locator(f"#{id}").evaluate("one => getComputedStyle(one).unicodeBidi") in ("plaintext", "isolate")
    page.keyboard.press("/")
    page.keyboard.type("\u05d1")
    expect(page.locator("#empty-text")).to_have_text("There is no waiting pair containing “\u2068\u05d1\u2069”.")


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgb(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const said = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!said || !element.checkVisibility() || element.closest(".unseen, [aria-disabled=true]")) continue;
    const style = getComputedStyle(element);
    const ink = rgb(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""
SHOWN = [
    pytest.param({"viewport": {"width": width, "height": 844}, "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width in (390, 1280)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("tab", SHOWN, indirect=True)
def test_it_fits_and_can_be_read(serve: Serve, tab: Tab):
    long = Suspect(text1="wordwithoutanyspace" * 20, text2="Why is the sky " + "very " * 60 + "blue?", probability=0.99)
    page = tab.open(serve([*SUSPECTS, long]))
    verdict(page, "99 % likely the same")
    page.click("#threshold summary")
    expect(page.locator("#reach")).not_to_have_text("…")
    page.keyboard.press("a")
    width, dark = page.viewport_size["width"], page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    if width == 390:
        page.click("#fold-queue")
    expect(page.locator(".row").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = "rgb(20, 23, 26)" if dark else "rgb(245, 244, 241)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    for opened in ("", "c", "?"):
        if opened:
            page.keyboard.press("Escape")
            page.keyboard.press(opened)
            expect(page.locator("dialog[open]")).to_be_visible()
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 25
        assert [pair for pair in contrasts if pair[0] < 4.5] == []


def test_a_chosen_theme_is_remembered(serve: Serve, tab: Tab):
    page = tab.open(serve())
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.reload()
    expect(page.locator("#theme")).to_have_text("Light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_an_empty_queue_says_what_to_do(serve: Serve, tab: Tab):
    served = serve([])
    page = tab.open(served)
    expect(page.locator("#empty-title")).to_have_text("Nothing is waiting yet")
    expect(page.locator("#empty-text")).to_contain_text("PUT /questions/{id}")
    served.reviews.add(SUSPECTS[:1])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # looks again, as on coming back to the tab
    verdict(page, "89 % likely the same")
    page.keyboard.press("r")
    expect(page.locator("#empty-title")).to_have_text("All done: nothing is waiting")
    expect(page.locator("#empty-text")).to_contain_text("0 accepted, 1 rejected")


def test_new_pairs_are_offered(serve: Serve, tab: Tab):
    served = serve(SUSPECTS[:1])
    page = tab.open(served)
    verdict(page, "89 % likely the same")
    served.reviews.add(SUSPECTS[1:])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#fresh")).to_have_text("4 new pairs: show them")
    verdict(page, "89 % likely the same")
    page.click("#fresh")
    verdict(page, "97 % likely the same")


def test_from_a_new_question_to_a_training_pair(serve: Serve, tab: Tab, minilm: SentenceTransformer, pairs: Any):
    twin = Twin(minilm).calibrate(pairs)
    served = serve([], twin=twin)
    page = tab.open(served)
    expect(page.locator("#empty-title")).to_have_text("Nothing is waiting yet")
    for id, text in (("1", "How do I mend a flat tyre?"), ("2", "How do I repair a flat tyre?")):
        assert page.request.put(f"{served.url}/questions/{id}", data={"text": text}).status == 201
    page.reload()
    probability = twin.compare("How do I mend a flat tyre?", "How do I repair a flat tyre?").probability
    verdict(
        page, f"{round(100 * probability)} % likely the same" if probability <= 0.99 else "Over 99 % likely the same"
    )
    expect(page.locator("del")).to_have_text(["repair"])
    expect(page.locator("ins")).to_have_text(["mend"])
    page.keyboard.press("a")
    expect(page.locator("#empty-title")).to_have_text("All done: nothing is waiting")
    with page.expect_download() as download:
        page.click("#empty-action")
    exported = Path(download.value.path()).rename(Path(download.value.path()).with_suffix(".tsv"))
    learned = read_pairs(exported)
    assert sorted(learned.texts) == ["How do I mend a flat tyre?", "How do I repair a flat tyre?"]
    assert list(learned.labels) == [1]


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


def as_labeller(page: Page, served: Served, name: str) -> list[str]:
    """Open the page that asks and give a name; returns the texts of the first pair."""
    page.goto(f"{served.url}/ui/label")
    expect(page.locator("#labeller")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text(name)
    expect(page.locator("#yes")).to_have_attribute("aria-disabled", "false")
    return page.locator(".text").all_text_contents()


def test_pairs_are_labelled_until_the_promise_is_proven(asking: Served, session: Session, tab: Tab, browser: Browser):
    page = tab.page
    first = as_labeller(page, asking, "anna")
    assert [session.texts[k] for k in session._pair(session.plan.draws[0].rank)] == first
    expect(page.locator("#known1")).to_contain_text("tags: bread, sky · https://example.org/q/")
    expect(page.locator("#promise")).to_have_text("Looking where duplicates end")
    expect(page.locator("#missing")).to_have_text("0 answers. About 8 are planned.")
    expect(page.locator("#spoken")).to_contain_text(f"First question: {first[0]} Second question: {first[1]}")
    other = browser.new_page()
    assert as_labeller(other, asking, "bert") != first
    other.close()
    for key, said in (("y", "Saved: the same."), ("s", "Skipped."), ("u", "Taken back: answer again."),
                      ("n", "Saved: different."), ("u", "Taken back: answer again.")):  # fmt: skip
        page.keyboard.press(key)
        expect(page.locator("#status")).to_have_text(said)
        expect(page.locator("#pair")).to_be_focused()
    page.click("#undo")
    expect(page.locator(".text")).to_have_text(first)
    expect(page.locator("#undo")).to_be_focused()
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("There is no answer of yours to take back.")
    page.reload()  # the name is remembered, and the pair is the same
    expect(page.locator(".text")).to_have_text(first)
    for _ in range(60):
        expect(page.locator("#undo")).to_have_attribute("aria-disabled", "false")
        if page.locator("#empty").is_visible():
            break
        page.keyboard.press("y")
    expect(page.locator("#empty-title")).to_have_text("Done")
    expect(page.locator("#pair")).to_be_focused()
    expect(page.locator("#promise")).to_contain_text("proven to be at least 60% right")
    expect(page.locator("#missing")).to_have_text(f"{len(session.plan.answers)} answers. 8 were planned.")
    expect(page.locator("#proven li").last).to_have_text("To write these pairs: textsiam flag M F --labels L")
    page.click("#empty-action")
    expect(page.locator("#filled")).to_be_visible()
    expect(page.locator("#pair")).to_be_focused()


def test_a_label_that_is_refused_or_lost_is_sent_again_as_one(asking: Served, session: Session, tab: Tab):
    page = tab.page
    first = as_labeller(page, asking, "anna")
    refused = '{"error": "the file of answers cannot be used at the moment", "error_type": "Unhealthy"}'
    page.route("**/answers", lambda route: route.fulfill(status=503, body=refused, content_type="application/json"))
    page.keyboard.press("y")
    expect(page.locator("#alert-text")).to_have_text(
        "The answer was not saved. The server says: the file of answers cannot be used at the moment."
    )
    expect(page.locator(".text")).to_have_text(first)
    expect(page.locator("#pair")).to_be_focused()
    page.unroute("**/answers")

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route("**/answers", lose)
    page.click("#alert-retry")
    expect(page.locator("#alert-text")).to_contain_text("The server cannot be reached.")
    page.unroute("**/answers")
    page.click("#alert-retry")
    expect(page.locator("#status")).to_have_text("Saved: the same.")
    expect(page.locator("#alert")).to_be_hidden()
    assert [line.answer for line in session.lines] == ["", "y", ""]
    session.file.path.unlink()
    page.keyboard.press("n")
    expect(page.locator("#alert-text")).to_contain_text("The answer was not saved.")
    page.click("#alert-retry")
    expect(page.locator("#alert-text")).to_contain_text("this pair is not asked about any more")
    page.click("#alert-retry")  # another file is begun
    expect(page.locator("#missing")).to_have_text("0 answers. About 8 are planned.")
    expect(page.locator("#pair")).to_be_focused()


@pytest.mark.parametrize("tab", SHOWN, indirect=True)
def test_the_page_that_asks_fits_and_can_be_read(asking: Served, tab: Tab):
    page = tab.page
    as_labeller(page, asking, "a rather long name of somebody")
    page.keyboard.press("y")
    expect(page.locator("#status")).to_have_text("Saved: the same.")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert [pair for pair in contrasts if pair[0] < 4.5] == []
