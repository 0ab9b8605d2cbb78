"""The list of the moderator's page, in Chromium: its order, search, filters and the threshold."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

from textsiam.serving.page.reviews import Suspect

pytestmark = pytest.mark.slow


def test_search_and_tabs(serve, tab, verdict, counts):
    served = serve()
    page = tab.open(served)
    verdict(page, "97 % likely the same")
    page.keyboard.press("/")
    page.keyboard.type("SKY")
    counts(page, "2", "0", "0")
    expect(page.locator(".row .likely")).to_have_text(["97 %", "74 %"])
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    verdict(page, "74 % likely the same")
    counts(page, "1", "1", "0")
    served.wait_for({0.97: "accepted"})
    page.reload()
    expect(page.locator("#search")).to_have_value("SKY")
    counts(page, "1", "1", "0")
    page.keyboard.press("/")
    page.locator("#search").fill("a%")  # no wildcard
    expect(page.locator("#empty-text")).to_have_text("There is no waiting pair containing “a%”.")
    page.keyboard.press("Escape")
    verdict(page, "89 % likely the same")
    counts(page, "4", "1", "0")


def test_the_slider_says_what_a_threshold_costs(serve, tab, verdict):
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


def test_without_a_decision_there_is_no_slider(serve, tab):
    page = tab.open(serve(decided=False))
    page.click("#threshold summary")
    expect(page.locator("#no-curve")).to_contain_text("this model has no decision")
    expect(page.locator("#slider")).to_be_hidden()


def test_a_long_queue_is_walked_in_order_with_few_rows(serve, tab):
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
            for (let k = 0; k < 5000 && number() === before && !last.textContent; k += 1)
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


def test_the_list_stays_true_where_it_has_let_go_of_rows(serve, tab, counts):
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


def test_pairs_are_filtered_by_tag_and_date(serve, tab, suspects, verdict, counts):
    facts = {"tags": "bread, baking", "created": "2024-05-06T07:08:09Z"}
    page = tab.open(serve([*suspects, Suspect(text1="a?", text2="b?", probability=0.66, facts1=facts)]))
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
