"""What the moderator's page shows of images: only files that it may open, bounded, and for those who may look."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from textsiam.commands.serving import _noted
from textsiam.data.tables.errors import ReadReport
from textsiam.data.texts import Texts
from textsiam.images.medium import IMAGES
from textsiam.inference.scratch import scratch_image_encoder, scratch_sound_encoder
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin
from textsiam.search.index.base import Question
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.labelling import Labelling
from textsiam.serving.page.reviews import Suspect


def opened(answer) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.fixture(scope="module")
def twin():
    return Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,), device="cpu")).eval()


@pytest.fixture
def photos(tmp_path):
    """Return a small image, a large one with notes of its camera, one of nobody, and one in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    Image.new("RGB", (5000, 2500), (10, 200, 90)).save(tmp_path / "large.jpg", exif=exif)
    Image.fromarray(pixels[::-1]).save(tmp_path / "nobody.png")
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, ::-1]).save(buffer, "PNG")
    return {
        **{name: str(tmp_path / name) for name in ("small.png", "large.jpg", "nobody.png")},
        "sent": base64.b64encode(buffer.getvalue()).decode(),
    }


@pytest.fixture
def client(serve, twin, photos, reviews):
    """A server whose index holds the small image, and whose suspects are a pair of each with another."""
    index = MemoryIndex(index_model(twin))
    index.upsert([Question("s", photos["small.png"], {})], twin.encode([photos["small.png"]]), model=index.model)
    names = {"s": "small.png", "l": "large.jpg", "n": "nobody.png", "x": "sent"}
    for one, other in ("sl", "ns", "xs"):
        reviews.add([Suspect(text1=photos[names[one]], text2=photos[names[other]], id1=one, id2=other)])
    return serve(twin=twin, index=index)


def pair_of(client, one):
    (pair,) = [pair for pair in client.get("/ui/api/queue").json()["pairs"] if pair["id1"] == one]
    return pair


def test_pixels_are_those_of_the_file(client, photos):
    pair = pair_of(client, "s")
    assert pair["media"] == "image"
    answer = client.get(f"/ui/api/media/{pair['number']}/1")
    assert answer.headers["content-type"] == "image/png"
    assert (np.asarray(opened(answer)) == np.asarray(Image.open(photos["small.png"]))).all()
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_a_client_has_sent_is_shown_as_it_came(client, photos):
    shown = opened(client.get(f"/ui/api/media/{pair_of(client, 'x')['number']}/1"))
    expected = Image.open(io.BytesIO(base64.b64decode(photos["sent"])))
    assert (np.asarray(shown) == np.asarray(expected)).all()


def test_no_file_is_opened_that_neither_the_index_nor_the_operator_names(client, twin, reviews, photos):
    suspect, number = pair_of(client, "n"), pair_of(client, "n")["number"]
    for query in ("", "?whole=true"):
        refused = client.get(f"/ui/api/media/{number}/1{query}")
        assert (refused.status_code, "neither in the index" in refused.json()["error"]) == (404, True)
        assert photos["nobody.png"] not in refused.text
    assert opened(client.get(f"/ui/api/media/{number}/2")).size == (60, 40)
    # the id of the index with another file's name
    reviews.add([Suspect(text1=photos["large.jpg"], text2="b.png", id1="s", id2="b")])
    forged = next(p for p in client.get("/ui/api/queue").json()["pairs"] if p["id2"] == "b")
    assert client.get(f"/ui/api/media/{forged['number']}/1").status_code == 404
    with TestClient(create_app(twin, None, reviews=reviews, shown={suspect["text1"]})) as named:
        assert opened(named.get(f"/ui/api/media/{number}/1")).size == (60, 40)
        assert named.get(f"/ui/api/media/{number}/2").status_code == 404


def test_a_large_image_is_bounded_and_leaves_its_notes_behind(twin, reviews, serve, photos):
    index = MemoryIndex(index_model(twin))
    index.upsert([Question("l", photos["large.jpg"], {})], twin.encode([photos["large.jpg"]]), model=index.model)
    reviews.add([Suspect(text1=photos["large.jpg"], text2="b.png", id1="l", id2="b")])
    client = serve(twin=twin, index=index)
    number = pair_of(client, "l")["number"]
    for query, size in (("", (720, 360)), ("?whole=true", (4096, 2048))):
        answer = client.get(f"/ui/api/media/{number}/1{query}")
        assert opened(answer).size == size
        assert b"secret" not in answer.content


@pytest.mark.parametrize(("place", "status"), [("99/1", 404), ("1/3", 422), ("1/1?whole=maybe", 422), ("../1", 404)])
def test_what_is_not_there_is_refused(client, place, status):
    assert client.get(f"/ui/api/media/{place}").status_code == status


def test_only_those_who_may_look_do(twin, reviews, photos):
    reviews.add([Suspect(text1=photos["small.png"], text2=photos["large.jpg"])])
    settings = ServerSettings(token="t" * 20, moderators={"Anna": "a" * 20})
    app = create_app(twin, None, reviews=reviews, settings=settings, shown={photos["small.png"]})
    with TestClient(app) as client:
        assert client.get("/ui/api/media/1/1").status_code == 401
        assert client.get("/ui/api/media/1/1", headers={"authorization": f"Bearer {'b' * 20}"}).status_code == 401
        assert opened(client.get("/ui/api/media/1/1", headers={"authorization": f"Bearer {'a' * 20}"})).size == (60, 40)


def test_texts_are_read_and_not_shown(serve, reviews):
    reviews.add([Suspect(text1="/etc/motd.png", text2="Why?")])
    client = serve()
    (pair,) = client.get("/ui/api/queue").json()["pairs"]
    assert pair["media"] is None
    assert client.get(f"/ui/api/media/{pair['number']}/1").status_code == 404


def test_what_is_asked_about_is_shown_by_its_row(twin, photos, tmp_path):
    names, ids = [photos["small.png"], photos["nobody.png"]], ["s", "n"]
    session = Session(find_candidates(twin, names), ids, names, tmp_path / "labels.tsv", Aim(0.6, 0.9, 8))
    questions = Texts(ids, names, "made", ReadReport("made", 2, 2), modality="image")
    app = create_app(twin, labelling=Labelling(session, questions, medium=IMAGES))
    with TestClient(app) as client:
        asked = client.post("/ui/api/labels/next", json={"labeller": "anna"}).json()["question"]
        assert asked["media"] == "image"
        for row in (asked["left"], asked["right"]):
            shown = opened(client.get(f"/ui/api/labels/media/{row}"))
            assert (np.asarray(shown) == np.asarray(Image.open(names[row]))).all()
        assert client.get("/ui/api/labels/media/2").status_code == 404
        assert client.get("/ui/api/labels/media/-1").status_code == 422


def test_images_and_sounds_of_suspects_may_be_shown_by_who_takes_them(twin):
    sounds = Twin(scratch_sound_encoder(rate=8000, bands=20, widths=(8,), depths=(1,), device="cpu"))
    for each, expected in ((twin, {"a.png", "b.JPG"}), (sounds, {"c.wav"})):
        names: set[str] = set()
        pairs = [Suspect(text1="a.png", text2="b.JPG"), Suspect(text1="c.wav", text2="What is a .wav, then?")]
        assert list(_noted(iter(pairs), each, names)) == pairs
        assert names == expected
