"""The page that asks for labels, in Chromium: answers until a promise is proven, refused and lost ones included."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_pairs_are_labelled_until_the_promise_is_proven(asking, session, tab, new_page, as_labeller, answer_all):
    page = tab.page
    first = as_labeller(page, "anna")
    assert [session.texts[k] for k in session._pair(session.plan.draws[0].rank)] == first
    expect(page.locator("#known1")).to_contain_text("tags: bread, sky · https://example.org/q/")
    expect(page.locator("#promise")).to_have_text("Looking where duplicates end")
    expect(page.locator("#missing")).to_have_text("0 answers. About 8 are planned.")
    expect(page.locator("#spoken")).to_contain_text(f"First question: {first[0]} Second question: {first[1]}")
    other = new_page()
    assert as_labeller(other, "bert") != first
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
    answer_all(page)
    expect(page.locator("#pair")).to_be_focused()
    expect(page.locator("#promise")).to_contain_text("proven to be at least 60% right")
    expect(page.locator("#missing")).to_have_text(f"{len(session.plan.answers)} answers. 8 were planned.")
    expect(page.locator("#proven li").last).to_have_text("To write these pairs: textsiam flag M F --labels L")
    page.click("#empty-action")
    expect(page.locator("#filled")).to_be_visible()
    expect(page.locator("#pair")).to_be_focused()


def test_a_label_that_is_refused_or_lost_is_sent_again_as_one(asking, session, tab, as_labeller):
    page = tab.page
    first = as_labeller(page, "anna")
    refused = '{"error": "the file of answers cannot be used at the moment", "error_type": "Unhealthy"}'
    page.route("**/answers", lambda route: route.fulfill(status=503, body=refused, content_type="application/json"))
    page.keyboard.press("y")
    expect(page.locator("#alert-text")).to_have_text(
        "The answer was not saved. The server says: the file of answers cannot be used at the moment."
    )
    expect(page.locator(".text")).to_have_text(first)
    expect(page.locator("#pair")).to_be_focused()
    page.unroute("**/answers")

    def lose(route) -> None:
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
