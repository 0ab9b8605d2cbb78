"""Whether both pages can be read and used by everybody, in Chromium: axe, contrast, themes, a phone."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from playwright.sync_api import expect

from textsiam.serving.page.reviews import Suspect

pytestmark = pytest.mark.slow


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
def test_it_fits_and_can_be_read(serve, tab, suspects, verdict):
    long = Suspect(text1="wordwithoutanyspace" * 20, text2="Why is the sky " + "very " * 60 + "blue?", probability=0.99)
    page = tab.open(serve([*suspects, long]))
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


def test_a_chosen_theme_is_remembered(serve, tab):
    page = tab.open(serve())
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.reload()
    expect(page.locator("#theme")).to_have_text("Light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


@pytest.mark.parametrize("tab", SHOWN, indirect=True)
def test_the_page_that_asks_fits_and_can_be_read(asking, tab, as_labeller):
    page = tab.page
    as_labeller(page, "a rather long name of somebody")
    page.keyboard.press("y")
    expect(page.locator("#status")).to_have_text("Saved: the same.")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert [pair for pair in contrasts if pair[0] < 4.5] == []


WIDTHS = [pytest.param({"viewport": {"width": width, "height": 844}}, id=str(width)) for width in (390, 1280)]
LONG = {"url": "https://example.org/q/1", "tags": "sky, blue", "created": "2024-05-06T07:08:09Z"}


@pytest.mark.parametrize("tab", WIDTHS, indirect=True)
def test_axe_finds_nothing_at_the_moderators_page(serve, tab, suspects, axe, verdict):
    lines = Suspect(text1="line\n" * 90, text2="word " * 900, id1="1", probability=0.995, facts1=LONG, facts2=LONG)
    served = serve([*suspects, lines])
    page = tab.open(served)
    verdict(page, "Over 99 % likely the same")
    axe("long questions")
    page.keyboard.press("j")
    verdict(page, "97 % likely the same")
    axe("waiting")
    served.reviews.add([Suspect(text1="a?", text2="b?", probability=0.6)])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#fresh")).to_have_text("1 new pair: show it")
    page.click("#threshold summary")
    expect(page.locator("#reach")).not_to_have_text("…")
    page.click("#filters summary")
    if page.viewport_size["width"] == 390:
        page.click("#fold-queue")
    expect(page.locator("#rows")).to_be_visible()
    axe("new pairs; threshold, filters and list open")
    for key in ("?", "c"):
        page.keyboard.press(key)
        expect(page.locator("dialog[open]")).to_be_visible()
        axe(f"dialog of {key}")
        page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("a")
    verdict(page, "89 % likely the same")
    served.wait_for({0.97: "accepted"})
    page.route("**/decisions", lambda route: route.fulfill(status=503, body="{}", content_type="application/json"))
    page.keyboard.press("a")
    expect(page.locator("#tray")).to_be_visible()
    page.route("**/undo", lambda route: route.abort())
    page.keyboard.press("u")  # what is in the tray
    page.keyboard.press("u")
    expect(page.locator("#alert")).to_be_visible()
    page.keyboard.press("r")
    expect(page.locator("#tray")).to_be_visible()
    axe("alert and tray")
    page.unroute("**/decisions")
    taken = '{"error": "taken", "error_type": "Conflict"}'
    page.route("**/decisions", lambda route: route.fulfill(status=409, body=taken, content_type="application/json"))
    page.click("#tray-retry")
    expect(page.locator("#notices")).to_contain_text("was not decided. The server says: taken.")
    axe("a conflict")
    for state in ("accepted", "rejected"):
        page.click(f"[data-state={state}]")
        expect(page.locator("#state" if state == "accepted" else "#empty-title")).to_contain_text(
            state, ignore_case=True
        )
        axe(state)
    page.keyboard.press("/")
    page.keyboard.type("nothing like it")
    expect(page.locator("#empty-text")).to_contain_text("nothing like it")
    axe("nothing found")


@pytest.mark.parametrize("tab", WIDTHS, indirect=True)
def test_axe_finds_nothing_where_a_token_is_asked_for(serve, tab, axe):
    page = tab.open(serve([], token="a-token-of-some-length"))
    expect(page.locator("#ask")).to_be_visible()
    axe("asked for")
    page.keyboard.type("wrong-but-long-enough")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-title")).to_have_text("That token was refused")
    axe("refused")
    page.keyboard.press("Escape")
    expect(page.locator("#empty-title")).to_have_text("Nothing could be loaded")
    axe("not given")
    page.click("#alert-retry")
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type("a-token-of-some-length")
    page.keyboard.press("Enter")
    expect(page.locator("#empty-title")).to_have_text("Nothing is waiting yet")
    axe("empty")


@pytest.mark.parametrize("tab", WIDTHS, indirect=True)
def test_axe_finds_nothing_at_the_page_that_asks(asking, session, tab, axe, as_labeller, answer_all):
    page = tab.page
    page.goto(f"{asking.url}/ui/label")
    expect(page.locator("#labeller")).to_be_focused()
    axe("asked for a name")
    as_labeller(page, "a rather long name of somebody")
    axe("a pair")
    page.keyboard.press("?")
    expect(page.locator("dialog[open]")).to_be_visible()
    axe("keys")
    page.keyboard.press("Escape")
    page.route("**/answers", lambda route: route.abort())
    page.keyboard.press("y")
    expect(page.locator("#alert")).to_be_visible()
    axe("alert")
    page.unroute("**/answers")
    page.click("#alert-retry")
    expect(page.locator("#status")).to_have_text("Saved: the same.")
    answer_all(page)
    expect(page.locator("#proven li").last).to_contain_text("To write these pairs")
    axe("done")
