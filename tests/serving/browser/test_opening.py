"""The moderator's page from its opening on, in Chromium: the token, an empty queue, and what comes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

from textsiam.data.pairs import read_pairs
from textsiam.models.twin import Twin

pytestmark = pytest.mark.slow


TOKEN = "a-token-of-some-length"


def test_the_token_is_asked_for_and_kept_in_the_tab(serve, tab, verdict, counts):
    served = serve(token=TOKEN)
    page = tab.open(served)
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#ask-title")).to_have_text("This server asks for a token")
    page.keyboard.press("Escape")
    expect(page.locator("#alert-text")).to_have_text("The server asks for a token.")
    expect(page.locator("#empty-title")).to_have_text("Nothing could be loaded")
    page.click("#alert-retry")
    expect(page.locator("#token")).to_be_focused()
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
    served.wait_for({0.97: "accepted"})
    page.reload()
    verdict(page, "89 % likely the same")
    assert page.evaluate("[...Object.values(localStorage), document.cookie]") == [""]
    with page.expect_download() as download:
        page.click("#export")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t")[:3] == ["question1", "question2", "is_duplicate"]
    assert lines[1].split("\t")[:3] == ["Why is the sky blue?", "Why is the sky so blue?", "1"]
    assert len(lines) == 2


def test_from_a_new_question_to_a_training_pair(serve, tab, minilm, pairs, verdict):
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


def test_an_empty_queue_says_what_to_do(serve, tab, suspects, verdict):
    served = serve([])
    page = tab.open(served)
    expect(page.locator("#empty-title")).to_have_text("Nothing is waiting yet")
    expect(page.locator("#empty-text")).to_contain_text("PUT /questions/{id}")
    served.reviews.add(suspects[:1])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # looks again, as on coming back to the tab
    verdict(page, "89 % likely the same")
    page.keyboard.press("r")
    expect(page.locator("#empty-title")).to_have_text("All done: nothing is waiting")
    expect(page.locator("#empty-text")).to_contain_text("0 accepted, 1 rejected")


def test_new_pairs_are_looked_for_and_offered(serve, tab, suspects, verdict):
    served = serve(suspects[:1])
    page = tab.open(served)
    verdict(page, "89 % likely the same")
    served.reviews.add(suspects[1:])
    assert page.evaluate("interval.every") == 5000
    page.evaluate("interval.work()")
    expect(page.locator("#fresh")).to_have_text("4 new pairs: show them")
    verdict(page, "89 % likely the same")
    page.click("#fresh")
    verdict(page, "97 % likely the same")
