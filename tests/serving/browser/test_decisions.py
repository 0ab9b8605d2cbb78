"""Decisions made at the moderator's page, in Chromium: by key, refused, late, lost, taken back, by several people."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_decisions_by_key_are_kept_and_taken_back(serve, tab, verdict, counts):
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


def test_a_pair_can_be_decided_again(serve, tab, verdict, counts):
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


def test_a_decision_that_is_refused_waits_in_a_tray(serve, tab, verdict, counts):
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


def test_what_was_refused_is_taken_back_without_the_server(serve, tab, verdict, counts):
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


def test_a_late_answer_takes_no_focus_and_no_key(serve, tab, verdict):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    held = []
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
    expect(page.locator(".row .likely").first).to_have_text("97 %")  # it waits as before
    verdict(page, "89 % likely the same")
    assert set(served.states().values()) == {"waiting"}


def test_a_decision_whose_answer_was_lost_is_one_decision(serve, tab, verdict, counts):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")

    def lose(route) -> None:
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


def test_keys_of_other_layouts_and_caps_lock(serve, tab, verdict, counts):
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


MODERATORS = {"Anna": "anna-has-this-token", "Bert": "bert-has-another-one"}


LOOK = "document.dispatchEvent(new Event('visibilitychange'))"  # as the page does every few seconds


def as_moderator(page, served, name):
    page.goto(f"{served.url}/ui")
    page.fill("#token", MODERATORS[name])
    page.keyboard.press("Enter")
    expect(page.locator("#moderator")).to_have_text(name)
    return page


def test_two_moderators_share_a_queue(serve, new_page, verdict, counts):
    served = serve(moderators=MODERATORS)
    anna, bert = (as_moderator(new_page(), served, name) for name in MODERATORS)
    verdict(bert, "97 % likely the same")
    anna.keyboard.press("a")
    verdict(anna, "89 % likely the same")
    anna.keyboard.press("r")
    counts(anna, "3", "1", "1")
    served.wait_for({0.97: "accepted", 0.89: "rejected"})
    anna.evaluate(LOOK)
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


def test_not_sure_related_a_note_and_the_question_that_is_kept(serve, tab, verdict, counts):
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
    served.wait_for({0.74: "accepted"})
    page.reload()
    expect(page.locator(".row .likely")).to_have_text(["52 %", "31 %", "97 %"])
    held = {pair.suspect.probability: pair for pair in served.reviews.decided()}
    assert (held[0.89].choice, held[0.89].note) == ("related", "a matter of taste")
    assert held[0.74].canonical == {"text": "What makes the sky blue?", "id": "b3"}
    page.click("[data-state=rejected]")
    expect(page.locator("#state")).to_have_text("Rejected: related")
    expect(page.locator("#decided")).to_contain_text("Note: a matter of taste")


def test_a_cluster_is_accepted_with_one_undo(serve, tab, verdict, counts):
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
