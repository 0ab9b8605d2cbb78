"""What the moderator's page shows of a pair, in Chromium: two questions, what differs, and what hangs together."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

from textsiam.serving.page.reviews import Suspect

pytestmark = pytest.mark.slow


def test_the_queue_is_sorted_and_differences_are_marked(serve, tab, verdict, counts):
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
def test_all_that_differs_is_marked_and_only_equal_texts_are_identical(words, left, right, first, second):
    script = "([a, b]) => import('/ui/files/words.js').then((words) => words.compare(a, b))"
    found = words.evaluate(script, [left, right])
    assert found["identical"] == (left == right)
    for side, text, marked in (("left", left, first), ("right", right, second)):
        assert "".join(run["text"] for run in found[side]) == text
        assert [run["text"].strip() or run["text"] for run in found[side] if run["differs"]] == [
            text.strip() or text for text in marked
        ]


@pytest.fixture(scope="module")
def words(browser):
    """A page from which the script that compares words can be asked, without a server."""
    source = (Path(__file__).parents[3] / "textsiam/serving/page_files/words.js").read_text(encoding="utf-8")
    page = browser.new_page()
    page.route("**/*", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page.route("**/words.js", lambda route: route.fulfill(body=source, content_type="text/javascript"))
    page.goto("http://127.0.0.1/")
    yield page
    page.close()


def test_a_row_shows_the_part_that_differs_and_long_questions_scroll_together(serve, tab):
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


def test_a_text_from_right_to_left_turns_nothing_around_it(serve, tab, verdict):
    page = tab.open(serve([Suspect(text1="\u05d0 \u202e abc", text2="b?", id1="\u05d0", probability=0.5)]))
    verdict(page, "50 % likely the same")
    for id in ("text1", "id1", "text2"):
        assert page.locator(f"#{id}").evaluate("one => getComputedStyle(one).unicodeBidi") in ("plaintext", "isolate")
    page.keyboard.press("/")
    page.keyboard.type("\u05d1")
    expect(page.locator("#empty-text")).to_have_text("There is no waiting pair containing “\u2068\u05d1\u2069”.")


def test_a_text_is_never_markup(serve, tab):
    evil = '<img src="https://example.org/x" onerror="document.title=1"><b>bold</b>'
    page = tab.open(serve([Suspect(text1=evil, text2="<script>document.title=2</script>", id1="<i>", probability=0.5)]))
    expect(page.locator("#text1")).to_have_text(evil)
    page.keyboard.press("c")
    expect(page.locator(".cluster-text").first).to_have_text(f"{evil} <i>")
    assert page.title() == "Suspected duplicates"
    assert page.locator(".text img, .text b, .row img, .cluster-text img").count() == 0


def test_what_is_known_of_a_question_is_shown_and_its_url_is_a_link(serve, tab):
    first = {"url": "https://a.org/q/1", "tags": "scope, <b>", "created": "2011-08-17T20:18:56.507Z"}
    second = {"url": "javascript:document.title=1", "score": 3}
    page = tab.open(serve([Suspect(text1="a?", text2="b?", probability=0.5, facts1=first, facts2=second)]))
    expect(page.locator("#known1")).to_have_text("2011-08-17 · tags: scope, <b> · https://a.org/q/1")
    link = page.locator("#known1 a")
    expect(link).to_have_attribute("href", "https://a.org/q/1")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(page.locator("#known2")).to_have_text("score: 3 · javascript:document.title=1")
    expect(page.locator("#known2 a")).to_have_count(0)


def test_the_cluster_shows_what_hangs_together(serve, tab, verdict, counts):
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
