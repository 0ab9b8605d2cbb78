"""The normal form of drawings, the tower that sees it, and the pen of another hand."""

from __future__ import annotations

import hashlib
import heapq
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import ResNetModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from run import measures  # noqa: E402
from unseen_digits import DrawingResNet, Pen, drawing_tower, enclosed, normal_form  # noqa: E402

from textsiam.config.run import build_augment, build_twin, read_config  # noqa: E402
from textsiam.data.pairs import Pairs, sample_pairs  # noqa: E402
from textsiam.decision.decision import fit_decision  # noqa: E402
from textsiam.images.augmentation import Augment, augmented  # noqa: E402
from textsiam.models.twin import Twin  # noqa: E402

SIDE = 56
# Strokes through points of the unit square: a hook like a 2, a fork like a 4, a ring.
GLYPHS = {
    "hook": [[(0, 0.2), (0.5, 0), (1, 0.25), (0, 1), (1, 1)]],
    "fork": [[(0.1, 0), (0, 0.6), (1, 0.6)], [(0.8, 0), (0.8, 1)]],
    "ring": [[(0.5, 0), (1, 0.3), (0.9, 0.9), (0.4, 1), (0, 0.6), (0.1, 0.2), (0.5, 0)]],
}


def drawn(name: str, *, at=(0.25, 0.2), size=(0.45, 0.6), slant=0.0, pen=0.06) -> torch.Tensor:
    """Return a glyph as light ink on black, `(1, 1, SIDE, SIDE)` in 0..1; drawn large, then reduced."""
    large = 8 * SIDE
    sheet = Image.new("L", (large, large), 0)
    pencil = ImageDraw.Draw(sheet)
    for stroke in GLYPHS[name]:
        points = [
            (large * (at[0] + size[0] * (x + slant * (0.5 - y))), large * (at[1] + size[1] * y)) for x, y in stroke
        ]
        pencil.line(points, fill=255, width=round(pen * large), joint="curve")
    return torch.from_numpy(np.asarray(sheet.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255).float()[None, None]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@pytest.mark.parametrize("name", GLYPHS)
@given(
    at=st.tuples(st.floats(0.12, 0.5), st.floats(0.08, 0.35)),
    wide=st.floats(0.3, 0.45),
    high=st.floats(0.4, 0.6),
    slant=st.floats(-0.4, 0.4),
)
@settings(deadline=None, max_examples=25)
def test_place_size_and_slant_are_taken_away(name, at, wide, high, slant):
    at = (max(at[0], wide * abs(slant) / 2 + 0.05), at[1])
    other = drawn(name, at=at, size=(wide, high), slant=slant)
    same = cosine(normal_form(drawn(name)), normal_form(other))
    different = max(cosine(normal_form(drawn(each)), normal_form(other)) for each in GLYPHS if each != name)
    assert same > 0.85
    assert same > different + 0.1


@pytest.mark.parametrize("name", GLYPHS)
def test_the_colours_of_pen_and_paper_are_taken_away(name):
    ink = drawn(name)
    for changed in (1 - ink, 2 * ink - 1, 0.3 + 0.4 * ink):
        torch.testing.assert_close(normal_form(changed), normal_form(ink), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", GLYPHS)
def test_what_has_its_normal_form_keeps_it(name):
    once = normal_form(drawn(name))
    again = normal_form(torch.nn.functional.interpolate(once, scale_factor=2, mode="bilinear"))
    assert cosine(once, again) > 0.97


@pytest.mark.parametrize("name", GLYPHS)
def test_ink_is_centred_and_upright_and_of_one_size(name):
    ink = normal_form(drawn(name, at=(0.45, 0.1), size=(0.4, 0.5), slant=0.3))[0, 0].double()
    axis = (2 * torch.arange(SIDE // 2) + 1) / (SIDE // 2) - 1
    ink = ink / ink.sum()
    x, y = (ink.sum(0) * axis).sum(), (ink.sum(1) * axis).sum()
    dx, dy = axis - x, axis - y
    assert x.abs() < 0.02
    assert y.abs() < 0.02
    assert (ink * dx * dy[:, None]).sum().abs() < 0.01
    assert (ink.sum(0) * dx**2).sum().sqrt().item() == pytest.approx(0.32, abs=0.03)
    assert (ink.sum(1) * dy**2).sum().sqrt().item() == pytest.approx(0.40, abs=0.03)


def test_thin_strokes_grow_and_thick_ones_stay():
    amounts = {pen: normal_form(drawn("hook", pen=pen)).sum().item() for pen in (0.015, 0.03, 0.08, 0.14)}
    assert amounts[0.015] > 0.75 * amounts[0.08] * 0.9
    assert amounts[0.14] > 1.3 * amounts[0.08]
    assert cosine(normal_form(drawn("hook", pen=0.015)), normal_form(drawn("hook", pen=0.08))) > 0.9


def test_a_line_stays_a_line():
    line = torch.zeros(1, 1, SIDE, SIDE)
    line[..., 10:46, 27:30] = 1
    shown = normal_form(line)[0, 0] > 0.5
    rows, columns = (shown.any(axis).sum().item() for axis in (1, 0))
    assert rows > 2 * columns


@pytest.mark.parametrize("value", [0.0, -1.0, 0.37, 1.0])
def test_a_blank_image_becomes_black(value):
    assert torch.equal(normal_form(torch.full((2, 3, SIDE, SIDE), value)), torch.zeros(2, 1, SIDE // 2, SIDE // 2))


@given(arrays(np.uint8, (2, 1, 16, 16)))
@settings(deadline=None)
def test_any_image_gives_shares_of_ink(values):
    found = normal_form(torch.from_numpy(values / 127.5 - 1))
    assert found.shape == (2, 1, 8, 8)
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_images_do_not_touch_each_other():
    batch = torch.cat([drawn(name) for name in GLYPHS])
    torch.testing.assert_close(normal_form(batch)[1:2], normal_form(batch[1:2]))


def shut_in(ink: np.ndarray) -> np.ndarray:
    """What bars the least barred way of each pixel to the border, less its own ink; by Dijkstra, pixel for pixel."""
    height, width = ink.shape
    barred = np.full(ink.shape, np.inf)
    edge = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    queue = [(float(ink[at]), at) for at in edge]
    heapq.heapify(queue)
    while queue:
        cost, (y, x) = heapq.heappop(queue)
        if cost >= barred[y, x]:
            continue
        barred[y, x] = cost
        for down, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            at = (y + down, x + along)
            if 0 <= at[0] < height and 0 <= at[1] < width:
                heapq.heappush(queue, (max(cost, float(ink[at])), at))
    return barred - ink


@given(
    arrays(np.float32, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9), elements=st.floats(0, 1, width=32))
)
@settings(deadline=None)
def test_what_is_enclosed_is_what_every_way_to_the_border_is_barred_by(drawings):
    found = enclosed(torch.from_numpy(drawings)[:, None])
    np.testing.assert_array_equal(
        found[:, 0].numpy(), np.stack([shut_in(each) for each in drawings]).astype(np.float32)
    )


def test_a_way_may_turn_often():
    spiral = torch.tensor([
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 0, 1, 0, 1],
        [1, 0, 1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ])[None, None].float()  # fmt: skip
    assert enclosed(spiral).sum() == 0
    spiral[..., 1, 0] = 0.75  # a door, three quarters shut
    assert torch.equal(enclosed(spiral), 0.75 * (spiral == 0))


def test_what_is_no_number_comes_to_an_end():
    assert enclosed(torch.full((1, 1, 4, 4), torch.nan)).isnan().all()


def test_a_ring_has_a_hole_and_a_hook_has_none():
    holes = {name: enclosed(normal_form(drawn(name))) for name in GLYPHS}
    assert holes["ring"][0, 0, SIDE // 4, SIDE // 4] > 0.9
    assert holes["hook"].max() < 0.3
    assert holes["ring"].sum() > 10 * holes["hook"].sum()


def test_no_gradient_flows():
    assert not normal_form(drawn("ring").requires_grad_()).requires_grad
    assert not enclosed(drawn("ring").requires_grad_()).requires_grad


@pytest.fixture(scope="module", params=[False, True], ids=["ink", "enclosures"])
def tower(request) -> SentenceTransformer:
    knobs = f"{{size: 20, widths: [8, 16], depths: [1, 1], enclosures: {str(request.param).lower()}}}"
    builder = f"{{unseen_digits.drawing_tower: {knobs}}}"
    config = read_config(["--model.builder", builder, "--model.dim", "12"])
    return build_twin(config.model, sample_pairs(), device="cpu").left


def picture(name: str, **how) -> Image.Image:
    return Image.fromarray((255 * drawn(name, **how)[0, 0].numpy()).astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("enclosures", [False, True])
def test_the_cnn_sees_the_normal_form_of_half_the_side(channels, enclosures):
    tower = drawing_tower(size=20, channels=channels, widths=(8,), depths=(1,), enclosures=enclosures)
    features = tower.eval().preprocess([picture(name).convert("L" if channels == 1 else "RGB") for name in GLYPHS])
    assert features["pixel_values"].shape == (3, channels, 40, 40)
    ink = normal_form(features["pixel_values"])
    seen = 2 * (torch.cat([ink, enclosed(ink)], 1) if enclosures else ink.expand(-1, channels, -1, -1)) - 1
    with torch.inference_mode():
        backbone: Any = tower[0]
        expected: Any = ResNetModel.forward(backbone.model, seen).last_hidden_state
        expected = expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(tower[0](dict(features))["token_embeddings"], expected)


def test_the_tower_is_saved_with_its_normal_form(tower, tmp_path):
    pictures = [picture(name) for name in GLYPHS]
    vectors = Twin(tower).encode(pictures)
    np.testing.assert_allclose(tower.encode(pictures), vectors, atol=1e-5)
    Twin(tower).save_pretrained(tmp_path / "twin")
    plain = SentenceTransformer(str(tmp_path / "twin"), device="cpu")
    assert isinstance(plain[0], Transformer)
    assert isinstance(plain[0].model, DrawingResNet)
    np.testing.assert_allclose(plain.encode(pictures), vectors, atol=1e-5)
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    np.testing.assert_allclose(again.encode(pictures), vectors, atol=1e-6)
    inverted = [Image.fromarray(255 - np.asarray(each)) for each in pictures]
    np.testing.assert_allclose(again.encode(inverted), vectors, atol=1e-3)


def test_training_reaches_the_weights_behind_it(tower):
    features = tower.preprocess([picture(name) for name in GLYPHS])
    tower.train()(features)["sentence_embedding"].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())
    tower.zero_grad(set_to_none=True)
    tower.eval()


def test_a_program_without_twins_opens_the_tower_too(tower, tmp_path):
    tower.save_pretrained(str(tmp_path / "tower"), create_model_card=False)
    picture("fork").save(tmp_path / "fork.png")
    program = (
        "import sys, unseen_digits, sentence_transformers as st; from PIL import Image;"
        "print(st.SentenceTransformer(sys.argv[1], device='cpu').encode([Image.open(sys.argv[2])])[0].tolist())"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "tower"), str(tmp_path / "fork.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=HERE)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(found, Twin(tower).encode([picture("fork")])[0], atol=1e-5)


SEEDS = [(0, i) for i in range(20)]


def array(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("light", [True, False])
def test_thickness_widens_strokes_of_any_colour_and_narrows_them_a_little(light):
    pixels = np.zeros((50, 50), dtype=np.uint8)
    pixels[10:40, 20:30] = 200
    image = Image.fromarray(pixels if light else 255 - pixels)
    drawn = [array(Pen(thickness=0.08)(image, seed)) for seed in SEEDS]
    widths = [(each if light else 255 - each)[25].sum() / 200 for each in drawn]
    assert 8.8 - 0.1 <= min(widths) < 9 < 13 < max(widths) <= 14 + 0.1
    assert all((each[:5] == (0 if light else 255)).all() for each in drawn)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("light", [True, False])
def test_a_stroke_more_starts_at_what_is_drawn_and_looks_like_it(mode, light):
    pixels = np.zeros((60, 60), dtype=np.uint8)
    pixels[28:31, 15:45] = 200
    image = Image.fromarray(pixels if light else 255 - pixels).convert(mode)
    shown = [array(Pen(stroke=0.5)(image, seed)).reshape(60, 60, -1)[..., 0] for seed in SEEDS]
    inks = [(each if light else 255 - each) == 200 for each in shown]
    assert all(set(np.unique(each)) == set(np.unique(array(image))) for each in shown)
    assert all(ink[28:31, 15:45].all() for ink in inks)
    added, near = [ink.sum() - 90 for ink in inks], _near(pixels > 0)
    assert 4 < sum(more == 0 for more in added) < 16
    assert 30 < max(added) <= 4 * 32
    for ink, more in zip(inks, added, strict=True):
        rows, columns = np.nonzero(ink & ~near)
        assert not len(rows) or np.hypot(rows - 29, np.clip(columns, 15, 44) - columns).max() <= 30 + 3
        assert more == 0 or near[ink].sum() > 90  # it begins at what is there


def _near(ink: np.ndarray) -> np.ndarray:
    """The pixels of ink and those beside."""
    wide = np.pad(ink, 1)
    return np.logical_or.reduce([np.roll(wide, (i, j), (0, 1))[1:-1, 1:-1] for i in (-1, 0, 1) for j in (-1, 0, 1)])


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_blank_image_gets_no_stroke(value):
    blank = Image.new("L", (9, 9), value)
    assert all(array(Pen(stroke=1)(blank, seed)).min() == value for seed in SEEDS)
    assert all(np.ptp(array(Pen(stroke=1)(blank, seed))) == 0 for seed in SEEDS)


def test_without_its_own_knobs_a_pen_is_an_augment():
    knobs: dict[str, Any] = {"rotate": 20, "shift": 0.1, "flip": True, "elastic": 0.03, "contrast": 0.2}
    for seed in SEEDS:
        assert Pen(**knobs)(picture("hook"), seed).tobytes() == Augment(**knobs)(picture("hook"), seed).tobytes()


@pytest.mark.parametrize(("knobs", "problem"), [({"stroke": 1.5}, "stroke must be from 0 to 1, got 1.5"),
                                                ({"thickness": -0.1}, "thickness must be from 0 to 0.25, got -0.1"),
                                                ({"rotate": -1}, "rotate must be from 0 to 180, got -1")])  # fmt: skip
def test_knobs_are_checked(knobs, problem):
    with pytest.raises(ValueError, match=f"^{problem}$"):
        Pen(**knobs)


def test_the_config_reads_and_its_changes_are_those_of_the_published_figures():
    """The bytes of changed drawings, recorded before this became a project of its own."""
    config = read_config([str(HERE / "unseen.yaml")])
    shared, own = build_augment(config.training.augment)
    assert (shared.clusters, type(own)) == (True, Pen)
    found = [augmented(picture(name), [shared, own], [0, 1, 2], row=k, cluster=9) for name in GLYPHS for k in range(9)]
    assert hashlib.sha256(b"".join(each.tobytes() for each in found)).hexdigest()[:16] == "5493f1de77edfb7e"


class _Lengths:
    """Scores pairs by their lengths."""

    decision = fit_decision(np.linspace(0, 1, 40), np.arange(40) // 20)

    def pair_similarity(self, texts, left, right):
        lengths = np.array([len(text) for text in texts])
        return 1 / (1 + abs(lengths[left] - lengths[right]))


def test_an_interval_that_is_not_known_is_null_in_the_results():
    names = [letter * length for letter in "ab" for length in range(1, 6)]
    left, right = np.triu_indices(10, 1)
    of = np.arange(10) // 5
    pairs = Pairs(
        names, left, right, (of[left] == of[right]).astype(np.int8), "two people", None, groups=of, modality="image"
    )
    found = json.loads(json.dumps(measures(_Lengths(), pairs), allow_nan=False))
    assert found["accuracy"]["low"] is None
    assert found["eer"]["note"] == "no interval: 2 identities are too few for one"
