"""Two moderators who decide about the same pairs at the same time, each in a browser, with keys."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

import sqlalchemy as sql

from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.reviews import Suspect
from textsiam.serving.page.tables import LOG

MODERATORS = {"Anna": "anna-has-this-token", "Bert": "bert-has-another-one"}
KEYS = {"Anna": "a", "Bert": "r"}

pytestmark = pytest.mark.slow

# Decides about every pair that comes into focus until none is left, with keys, and remembers which key met which pair.
DECIDE = """(key) => {
  const send = window.fetch;
  window.sending = 0;
  window.fetch = (...what) => {
    window.sending += 1;
    return send(...what).finally(() => (window.sending -= 1));
  };
  const met = (window.met = []);
  const press = () => {
    const empty = !document.getElementById("empty").hidden;
    const waits = met.length > 0 && !window.racing; // until both have decided about one pair
    if (!empty && !waits) {
      met.push(Number(document.getElementById("facts").textContent.match(/Pair (\\d+)/)[1]));
      document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    }
    window.finished = empty && document.getElementById("empty-title").textContent.startsWith("All done");
    if (!window.finished) setTimeout(press, 10 + 40 * Math.random()); // now the one is ahead, now the other
  };
  press();
}"""


def until(page, condition):
    """Wait for a condition; the page's own policy forbids Playwright to evaluate strings in it."""
    deadline = time.monotonic() + 300
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, page.evaluate("document.body.innerText")
        page.wait_for_timeout(50)


def log_of(reviews):
    """Return every decision, in the order in which they were made."""
    with reviews.transaction() as connection:
        return connection.execute(sql.select(LOG).order_by(LOG.c.number)).all()


def test_two_browsers_lose_and_overwrite_nothing(decided, index, reviews, at_port, tries, result, browser):
    count = max(60, tries(200))
    reviews.add(Suspect(text1=f"left {k}", text2=f"right {k}", probability=1 - k / (2 * count)) for k in range(count))
    app = create_app(decided, index, reviews=reviews, settings=ServerSettings(moderators=MODERATORS))
    with at_port(app) as address:
        pages = {}
        for name, token in MODERATORS.items():
            page = pages[name] = browser.new_context().new_page()
            page.goto(f"{address}/ui")
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_selector(".row")
            page.evaluate(DECIDE, KEYS[name])
            until(page, "window.met.length === 1 && window.sending === 0")
        for page in pages.values():
            page.evaluate("window.racing = true")
        for page in pages.values():
            until(page, "window.finished && document.getElementById('tray').hidden && window.sending === 0")
        met = {name: page.evaluate("window.met") for name, page in pages.items()}
        ahead = max(MODERATORS, key=lambda name: sum(entry.moderator == name for entry in log_of(reviews)))
        pages[ahead].keyboard.press("u")
        until(pages[ahead], "document.getElementById('status').textContent.startsWith('Taken back')")
        for page in pages.values():
            page.context.close()
    log = log_of(reviews)
    assert len({entry.pair for entry in log}) == len(log) == count  # each pair was decided once, by who came first
    by = {name: {entry.pair for entry in log if entry.moderator == name} for name in MODERATORS}
    assert sum(map(len, met.values())) > count  # both met some of them
    assert all(by[name] <= set(met[name]) for name in MODERATORS)  # a key decided about no pair that was not shown
    assert {entry.state for entry in log if entry.moderator == "Anna"} == {"accepted"}
    assert {entry.state for entry in log if entry.moderator == "Bert"} == {"rejected"}
    undone = [entry for entry in log if entry.undone]
    assert [entry.moderator for entry in undone] == [ahead]  # the undo met a decision of one's own, and one
    decided_by = {name: len(own) - (name == ahead) for name, own in by.items()}
    assert reviews.count() == {"waiting": 1, "accepted": decided_by["Anna"], "rejected": decided_by["Bert"]}
    conflicts = sum(map(len, met.values())) - count
    result(pairs=count, decided_by={name: len(own) for name, own in by.items()}, conflicts=conflicts)
