"""Pairs of images at the moderator's page, in Chromium: side by side, at full size, and where they differ."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from fastapi.responses import Response
from playwright.sync_api import expect

from textsiam.data.tables.errors import ReadReport
from textsiam.data.texts import Texts
from textsiam.images.medium import IMAGES
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin
from textsiam.serving.page.labelling import Labelling
from textsiam.serving.page.media import Exhibits
from textsiam.serving.page.reviews import Suspect
from textsiam.sounds.medium import SOUNDS

pytestmark = pytest.mark.slow

PIXEL = """([id, x, y]) => {
  const copy = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  copy.getContext("2d").drawImage(document.querySelector(id), -x, -y);
  return [...copy.getContext("2d").getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


@pytest.fixture
def images(tmp_path):
    """Return two images of 900 × 600 pixels that differ in one square, and one that is not there."""
    pixels = np.full((600, 900, 3), (200, 60, 20), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    pixels[100:200, 300:400] = (20, 60, 200)
    Image.fromarray(pixels).save(tmp_path / "other.png")
    return [str(tmp_path / name) for name in ("one.png", "other.png", "lost.png")]


@pytest.fixture
def served(serve, images):
    one, other, lost = images
    pairs = [(one, other, "one", "other", 0.98), (other, lost, "other", "lost", 0.6)]
    suspects = [
        Suspect(text1=a, text2=b, id1=f"photos/{x}.png", id2=f"photos/{y}.png", similarity=p, probability=p)
        for a, b, x, y, p in pairs
    ]
    twin = Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,), device="cpu")).eval()
    return serve(suspects, twin=twin, shown=set(images))


def test_images_stand_side_by_side_and_show_where_they_differ(served, tab, verdict):
    page = tab.open(served)
    verdict(page, "98 % likely the same")
    expect(page.locator("#media1 canvas")).to_have_attribute("aria-label", "The first image, photos/one.png")
    expect(page.locator("#media2 canvas")).to_be_visible()
    assert page.evaluate(PIXEL, ["#media1 canvas", 5, 5]) == [200, 60, 20]
    assert page.evaluate(PIXEL, ["#media2 canvas", 280, 120]) == [20, 60, 200]
    expect(page.locator("#text1")).to_be_hidden()
    expect(page.locator("#accept")).to_contain_text("Same image")
    expect(page.locator(".row").first).to_contain_text("photos/one.png")
    page.keyboard.press("d")
    expect(page.locator("#difference canvas")).to_be_visible()
    assert page.evaluate(PIXEL, ["#difference canvas", 280, 120]) == [180, 0, 180]
    assert page.evaluate(PIXEL, ["#difference canvas", 5, 5]) == [0, 0, 0]
    page.keyboard.press("d")
    expect(page.locator("#difference")).to_be_hidden()


def test_a_click_shows_an_image_at_its_full_size(served, tab, verdict):
    page = tab.open(served)
    page.locator("#media2 .picture").click()
    expect(page.locator("#picture-size")).to_have_text("900 × 600 pixels")
    box = page.locator("#picture-whole canvas").bounding_box()
    assert (box["width"], box["height"]) == (900, 600)  # a pixel for a pixel
    page.keyboard.press("Escape")
    expect(page.locator("#picture")).to_be_hidden()


def test_an_image_that_is_gone_is_said_to_be_and_decisions_go_on(served, tab, verdict):
    page = tab.open(served)
    expect(page.locator("#media1 canvas")).to_be_visible()
    page.keyboard.press("j")
    verdict(page, "60 % likely the same")
    expect(page.locator("#media2")).to_contain_text("cannot be opened")
    expect(page.locator("#media1 canvas")).to_be_visible()
    page.keyboard.press("r")
    served.wait_for({0.6: "rejected"})


def test_sounds_have_a_player(serve, tab, monkeypatch, verdict):
    data = io.BytesIO()
    with wave.open(data, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    monkeypatch.setattr("textsiam.serving.app.shown_medium", lambda twin: SOUNDS)
    monkeypatch.setattr(Exhibits, "open", lambda *_, **__: Response(data.getvalue(), media_type="audio/wav"))
    page = tab.open(serve([Suspect(text1="a.wav", text2="b.wav", id1="a", id2="b", probability=0.9)]))
    verdict(page, "90 % likely the same")
    player = page.locator("#media1 audio")
    expect(player).to_have_attribute("aria-label", "The first sound, a")
    page.wait_for_function("document.querySelector('#media1 audio').duration > 0.09")


SHOWN = [
    pytest.param({"viewport": {"width": width, "height": 844}, "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width in (390, 1280)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("tab", SHOWN, indirect=True)
def test_it_fits_and_axe_finds_nothing(served, tab, axe):
    page = tab.open(served)
    expect(page.locator("#media2 canvas")).to_be_visible()
    page.keyboard.press("d")
    expect(page.locator("#difference canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    axe("images and their difference")
    page.locator("#media1 .picture").click()
    expect(page.locator("#picture-whole canvas")).to_be_visible()
    axe("an image at its full size")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("#cluster")).to_contain_text("inputs hang together")
    axe("a cluster of images")


def test_images_are_labelled_by_what_they_show(serve, tab, axe, images, tmp_path):
    shown, ids = images[:2], ["one", "other"]
    twin = Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,), device="cpu")).eval()
    session = Session(find_candidates(twin, shown), ids, shown, tmp_path / "labels.tsv", Aim(0.6, 0.9, 8))
    questions = Texts(ids, shown, "made", ReadReport("made", 2, 2), modality="image")
    served = serve(twin=twin, labelling=Labelling(session, questions, medium=IMAGES))
    tab.page.goto(f"{served.url}/ui/label")
    tab.page.locator("#labeller").fill("anna")
    tab.page.keyboard.press("Enter")
    for side in (1, 2):
        expect(tab.page.locator(f"#media{side} canvas")).to_be_visible()
        expect(tab.page.locator(f"#text{side}")).to_be_hidden()
    expect(tab.page.locator("#title")).to_have_text("Are both the same?")
    expect(tab.page.locator("#accept")).to_contain_text("Same image")
    labels = [tab.page.locator(f"#media{side} canvas").get_attribute("aria-label") for side in (1, 2)]
    assert sorted(label.split(", ")[1] for label in labels) == ids
    tab.page.keyboard.press("d")
    expect(tab.page.locator("#difference canvas")).to_be_visible()
    assert tab.page.evaluate(PIXEL, ["#difference canvas", 280, 120]) == [180, 0, 180]
    axe("a pair of images to label, and their difference")
    tab.page.locator("#media1 .picture").click()
    expect(tab.page.locator("#picture-size")).to_have_text("900 × 600 pixels")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("y")
    expect(tab.page.locator("#empty")).to_be_visible()
    assert [line.answer for line in session.lines] == ["", "y"]
