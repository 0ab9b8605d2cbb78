from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision, Verdict
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.inference.tokens import chunk_by_tokens, tokenise
from textsiam.models.distances import DISTANCES
from textsiam.models.twin import Twin
from textsiam.saving import SaveError


def cosines(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)


@pytest.fixture(scope="module")
def other(sentences: list[str]) -> SentenceTransformer:
    """Another tower of the same width, with another backbone."""
    return scratch_text_encoder(
        sentences, vocabulary=200, hidden=16, dim=32, max_tokens=24, seed=5, device="cpu"
    ).eval()


@pytest.fixture
def asymmetric_twin(fresh_tower: SentenceTransformer, other: SentenceTransformer) -> Twin:
    """A twin whose towers differ."""
    return Twin(fresh_tower, copy.deepcopy(other))


@pytest.fixture
def decided(twin: Twin, pairs: Pairs) -> Twin:
    """A twin with a decision and provenance."""
    twin.provenance = {"data": "made up", "measured": [{"model": "zero-shot", "AP": 0.5}], "note": "größer"}
    return twin.calibrate(pairs)


@pytest.fixture
def folder(decided: Twin, tmp_path: Path) -> Path:
    """The folder of `decided`."""
    return decided.save_pretrained(tmp_path / "my-twin")


# --- scores ---------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_tower(twin: Twin, sentences: list[str]) -> None:
    found = twin.encode(sentences, precision="fp32")
    assert found.shape == (48, twin.dim) == (48, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, twin.left.encode(sentences), atol=1e-5)
    np.testing.assert_array_equal(twin.encode(sentences, side="right", precision="fp32"), found)


def test_similarity_by_cosine(twin: Twin, sentences: list[str]) -> None:
    left, right = sentences[:20], sentences[5:25]
    u, v = (twin.left.encode(x) for x in (left, right))
    found = twin.similarity(left, right, precision="fp32")
    assert found.shape == (20,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cosines(u, v), atol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_similarity_by_every_distance(tower: SentenceTransformer, sentences: list[str], name: str) -> None:
    u, v = (tower.encode(x) for x in (sentences[:20], sentences[20:40]))
    expected = {
        "cosine": cosines(u, v),
        "euclidean": -np.linalg.norm(u - v, axis=1),
        "squared_euclidean": -((u - v) ** 2).sum(1),
        "manhattan": -np.abs(u - v).sum(1),
        "angular": -np.arccos(cosines(u, v).clip(-1, 1)) / np.pi,
    }[name]
    found = Twin(tower, distance=name).similarity(sentences[:20], sentences[20:40], precision="fp32")
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_similarity_compare_and_pair_similarity_agree(decided: Twin, pairs: Pairs) -> None:
    found = decided.pair_similarity(pairs.texts, pairs.left, pairs.right)
    np.testing.assert_allclose(decided.similarity(pairs.left_texts, pairs.right_texts), found, atol=1e-6)
    verdicts = decided.compare(pairs.left_texts, pairs.right_texts)
    assert [v.similarity for v in verdicts] == pytest.approx(found.tolist(), abs=1e-6)
    decision = decided.require_decision()
    assert [v.duplicate for v in verdicts] == [v.similarity >= decision.threshold for v in verdicts]
    assert [v.probability for v in verdicts] == pytest.approx(decision.probability(found).tolist(), abs=1e-5)
    one = decided.compare(pairs.left_texts[0], pairs.right_texts[0])
    assert isinstance(one, Verdict)
    assert one.similarity == pytest.approx(verdicts[0].similarity, abs=1e-3)  # auto may be bf16
    assert one.threshold == decision.threshold


def test_similarity_is_symmetric_and_one_for_equal_texts(twin: Twin, sentences: list[str]) -> None:
    there = twin.similarity(sentences[:10], sentences[10:20])
    np.testing.assert_allclose(twin.similarity(sentences[10:20], sentences[:10]), there, atol=1e-6)
    np.testing.assert_allclose(twin.similarity(sentences, sentences), 1, atol=1e-6)


def test_pairs_encode_each_text_once(twin: Twin, sentences: list[str]) -> None:
    totals: list[int] = []
    left, right = np.array([0, 0, 1]), np.array([1, 2, 0])
    twin.pair_similarity(sentences[:3], left, right, progress=lambda _, total: totals.append(total))
    assert set(totals) == {3}


def test_nothing_to_score(twin: Twin) -> None:
    assert twin.similarity([], []).shape == (0,)
    assert twin.pair_similarity([], np.zeros(0, int), np.zeros(0, int)).dtype == np.float32
    assert twin.encode([]).shape == (0, 32)


def test_one_str_instead_of_a_list(decided: Twin) -> None:
    with pytest.raises(TypeError, match=r"expected a list of inputs, got one str: write twin.encode\(\[text\]\)"):
        decided.encode("why")
    for left, right in (("why", "how"), (["why"], "how"), ("why", ["how"])):
        with pytest.raises(TypeError, match=r"expected lists of inputs, got one str: write twin.similarity"):
            decided.similarity(left, right)
    with pytest.raises(TypeError, match="expected two inputs or two lists of them"):
        decided.compare("why", ["how"])


def test_wrong_arguments(twin: Twin) -> None:
    with pytest.raises(TypeError, match="input 1 is int, expected str"):
        twin.encode(["why", 3])
    with pytest.raises(ValueError, match="both sides must have the same number of inputs, got 2 and 1"):
        twin.similarity(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="side must be 'left' or 'right', got 'up'"):
        twin.encode(["a"], side="up")
    with pytest.raises(ValueError, match="precision must be"):
        twin.encode(["a"], precision="fp8")
    with pytest.raises(ValueError, match="did you mean 'euclidean'"):
        Twin(twin.left, distance="euclidian")


# --- asymmetric twin ------------------------------------------------------------------------------------


def test_asymmetric_twin_encodes_each_side_with_its_tower(asymmetric_twin: Twin, sentences: list[str]) -> None:
    assert asymmetric_twin.towers == [asymmetric_twin.left, asymmetric_twin.right]
    u, v = asymmetric_twin.left.encode(sentences), asymmetric_twin.right.encode(sentences)
    np.testing.assert_allclose(asymmetric_twin.encode(sentences, precision="fp32"), u, atol=1e-5)
    np.testing.assert_allclose(asymmetric_twin.encode(sentences, side="right", precision="fp32"), v, atol=1e-5)
    assert np.abs(u - v).max() > 0.1
    found = asymmetric_twin.similarity(sentences[:9], sentences[1:10], precision="fp32")
    np.testing.assert_allclose(found, cosines(u[:9], v[1:10]), atol=1e-5)


def test_asymmetric_twin_pairs_by_index(asymmetric_twin: Twin, sentences: list[str]) -> None:
    left, right = np.array([4, 2, 4, 0]), np.array([1, 1, 3, 0])
    found = asymmetric_twin.pair_similarity(sentences, left, right, precision="fp32")
    expected = asymmetric_twin.similarity([sentences[i] for i in left], [sentences[i] for i in right], precision="fp32")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_towers_of_other_width(tower: SentenceTransformer, sentences: list[str]) -> None:
    narrow = scratch_text_encoder(sentences, hidden=16, max_tokens=16, device="cpu")
    with pytest.raises(ValueError, match=r"towers must give vectors of one width, got 32 \(left\) and 16 \(right\)"):
        Twin(tower, narrow)


# --- forward --------------------------------------------------------------------------------------


def test_forward_gives_embeddings_with_gradients(twin: Twin, sentences: list[str]) -> None:
    tokens = tokenise(twin.left, sentences)
    chunks = [tokens.collate(np.arange(0, 20)), tokens.collate(np.arange(20, 48))]
    u, v = twin(chunks)
    assert u is v
    assert u.requires_grad
    np.testing.assert_allclose(u.detach().numpy(), twin.encode(sentences, precision="fp32"), atol=1e-5)
    one, two = twin(chunks[:1], chunks[1:])
    np.testing.assert_allclose(torch.cat([one, two]).detach().numpy(), u.detach().numpy(), atol=1e-6)


def test_forward_of_an_asymmetric_twin(asymmetric_twin: Twin, sentences: list[str]) -> None:
    left, right = (tokenise(t, sentences).collate(np.arange(48)) for t in asymmetric_twin.towers)
    u, v = asymmetric_twin([left], [right])
    np.testing.assert_allclose(u.detach().numpy(), asymmetric_twin.left.encode(sentences), atol=1e-5)
    np.testing.assert_allclose(v.detach().numpy(), asymmetric_twin.right.encode(sentences), atol=1e-5)


# --- decision -------------------------------------------------------------------------------------


def test_no_decision_yet(twin: Twin) -> None:
    expected = r"this twin has no decision yet: run twin.calibrate\(pairs\)"
    with pytest.raises(ModelError, match=expected):
        twin.compare("why", "how")
    with pytest.raises(ModelError, match=expected):
        twin.require_decision()


def test_calibrate(twin: Twin, pairs: Pairs) -> None:
    assert twin.calibrate(pairs, rule="accuracy", prior=0.2) is twin
    decision = twin.require_decision()
    assert decision.rule == "accuracy"
    assert decision.prior == 0.2
    np.testing.assert_array_equal(decision.labels, pairs.labels)
    np.testing.assert_array_equal(decision.scores, twin.pair_similarity(pairs.texts, pairs.left, pairs.right))
    assert twin.calibrate(pairs).require_decision().prior == pytest.approx(0.5)


def test_calibrate_needs_both_classes(twin: Twin, pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="calibration needs at least"):
        twin.calibrate(pairs.select(np.flatnonzero(pairs.labels == 1)))
    assert twin.decision is None


# --- save and load --------------------------------------------------------------------------------


def same_decision(a: Decision, b: Decision) -> bool:
    grid = np.linspace(-1, 1, 101)
    return (
        a.metadata() == b.metadata()
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.probability(grid), b.probability(grid))
    )


def test_save_and_load(decided: Twin, folder: Path, sentences: list[str]) -> None:
    again = Twin.from_pretrained(folder, device="cpu")
    np.testing.assert_array_equal(again.encode(sentences), decided.encode(sentences))
    assert same_decision(again.require_decision(), decided.require_decision())
    assert again.provenance == decided.provenance
    assert again.distance is decided.distance
    assert again.right is None
    assert again.compare("Why?", "How?") == decided.compare("Why?", "How?")


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_is_saved(twin: Twin, tmp_path: Path, sentences: list[str], name: str) -> None:
    saved = Twin(twin.left, distance=name)
    again = Twin.from_pretrained(saved.save_pretrained(tmp_path / "t"), device="cpu")
    assert again.distance is DISTANCES[name]
    assert again.decision is None
    np.testing.assert_array_equal(
        again.similarity(sentences[:5], sentences[5:10]), saved.similarity(sentences[:5], sentences[5:10])
    )


def test_sentence_transformers_opens_it(decided: Twin, folder: Path, sentences: list[str]) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu").encode(sentences)
    assert cosines(theirs, decided.encode(sentences, precision="fp32")).min() >= 0.99999


def test_sentence_transformers_opens_minilm(minilm: SentenceTransformer, tmp_path: Path, sentences: list[str]) -> None:
    twin = Twin(minilm)
    twin.save_pretrained(tmp_path / "twin")
    theirs = SentenceTransformer(str(tmp_path / "twin"), device="cpu").encode(sentences)
    assert cosines(theirs, twin.encode(sentences, precision="fp32")).min() >= 0.99999


def test_asymmetric_twin_save_and_load(
    asymmetric_twin: Twin, pairs: Pairs, tmp_path: Path, sentences: list[str]
) -> None:
    asymmetric_twin.calibrate(pairs)
    again = Twin.from_pretrained(asymmetric_twin.save_pretrained(tmp_path / "half"), device="cpu")
    assert again.right is not None
    for side in ("left", "right"):
        np.testing.assert_array_equal(again.encode(sentences, side=side), asymmetric_twin.encode(sentences, side=side))
        theirs = SentenceTransformer(str(tmp_path / "half" / side), device="cpu").encode(sentences)
        assert cosines(theirs, asymmetric_twin.encode(sentences, side=side, precision="fp32")).min() >= 0.99999
    assert same_decision(again.require_decision(), asymmetric_twin.require_decision())


def test_decision_for_collections_is_saved(decided: Twin, pairs: Pairs, tmp_path: Path) -> None:
    decided.collection = CollectionDecision(decided.require_decision().at_threshold(0.625), texts=48)
    again = Twin.from_pretrained(decided.save_pretrained(tmp_path / "both"), device="cpu")
    assert same_decision(again.require_decision(), decided.require_decision())
    assert again.collection is not None
    assert again.collection.texts == 48
    assert same_decision(again.collection.decision, decided.collection.decision)
    assert again.collection.among(1000).threshold == decided.collection.among(1000).threshold
    decided.decision = None
    again = Twin.from_pretrained(decided.save_pretrained(tmp_path / "one"), device="cpu")
    assert again.decision is None
    assert again.collection is not None
    facts = json.loads((tmp_path / "both" / "textsiam.json").read_text(encoding="utf-8"))
    del facts["collection"]["texts"]
    (tmp_path / "both" / "textsiam.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="both: 'texts'"):
        Twin.from_pretrained(tmp_path / "both", device="cpu")


def test_saved_again_with_and_without_a_decision(decided: Twin, folder: Path) -> None:
    decided.decision = None
    decided.save_pretrained(folder)
    assert Twin.from_pretrained(folder, device="cpu").decision is None
    assert not (folder / "textsiam.safetensors").exists()


def test_folder_holds_no_pickle(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
    for path in files:  # pickles of protocol 2 and later, and zips that torch.save makes
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), path


def test_card_holds_what_was_measured(folder: Path, decided: Twin) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| model | AP |\n| --- | --- |\n| zero-shot | 0.5000 |" in card
    assert 'Twin.from_pretrained("my-twin")' in card
    assert "* data: made up" in card
    assert f"{decided.require_decision().threshold:.4f}" in card


def test_description_names_versions(folder: Path) -> None:
    facts = json.loads((folder / "textsiam.json").read_text(encoding="utf-8"))
    assert set(facts["versions"]) == {"textsiam", "sentence-transformers", "transformers", "torch"}
    assert facts["format"] == 1


def test_failed_save_leaves_the_old_twin(decided: Twin, folder: Path, sentences: list[str]) -> None:
    expected = decided.encode(sentences)
    with torch.no_grad():
        decided.left[0].model.embeddings.word_embeddings.weight.mul_(-1)
    decided.provenance["bad"] = object()
    with pytest.raises(TypeError):
        decided.save_pretrained(folder)
    np.testing.assert_array_equal(Twin.from_pretrained(folder, device="cpu").encode(sentences), expected)
    assert [path.name for path in folder.parent.iterdir()] == ["my-twin"]


def test_crash_while_saving_is_recovered_on_load(folder: Path, decided: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.rename, []

    def rename(self: Path, new: Path) -> Path:
        calls.append(new)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            decided.save_pretrained(folder)
    assert not folder.exists()
    assert Twin.from_pretrained(folder, device="cpu").provenance["data"] == "made up"


def test_unwritable_place(twin: Twin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*/file/twin"):
        twin.save_pretrained(tmp_path / "file" / "twin")


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"3"])
def test_description_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "textsiam.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"textsiam\.json: not valid JSON"):
        Twin.from_pretrained(folder)


@pytest.mark.parametrize("key", ["format", "towers", "distance", "decision", "provenance"])
def test_description_without_a_key(folder: Path, key: str) -> None:
    facts = json.loads((folder / "textsiam.json").read_text(encoding="utf-8"))
    del facts[key]
    (folder / "textsiam.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError) as caught:
        Twin.from_pretrained(folder)
    assert str(caught.value) == f"{folder / 'textsiam.json'}: lacks {key}"


def test_newer_format(folder: Path) -> None:
    facts = json.loads((folder / "textsiam.json").read_text(encoding="utf-8"))
    (folder / "textsiam.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ModelError, match="format is 2, this version reads 1: update textsiam"):
        Twin.from_pretrained(folder)


@pytest.mark.parametrize("content", [None, b"cut"])
def test_damaged_arrays(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / "textsiam.safetensors").unlink()
    else:
        (folder / "textsiam.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not valid safetensors" if content else "the stored decision has no 'scores'"):
        Twin.from_pretrained(folder, device="cpu")


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot open the model"):
        Twin.from_pretrained(folder, device="cpu")


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Twin.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ModelError, match="cannot open the model 'textsiam-tests/nothing'"):
        Twin.from_pretrained("textsiam-tests/nothing")


# --- all-MiniLM-L6-v2 -----------------------------------------------------------------------------


def test_minilm_comes_with_a_decision(minilm: SentenceTransformer) -> None:
    twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    texts = "Why is the sky blue?", "Why does the sky look blue?"
    verdict = twin.compare(*texts)
    assert verdict.duplicate
    assert verdict.probability > 0.7
    assert not twin.compare("How old are you?", "Where do you live?").duplicate
    u, v = minilm.encode(list(texts))
    assert verdict.similarity == pytest.approx(float(u @ v), abs=2e-3)


def test_any_other_tower_comes_without_a_decision(fresh_tower: SentenceTransformer, tmp_path: Path) -> None:
    fresh_tower.save_pretrained(str(tmp_path / "t"), create_model_card=False)
    twin = Twin.from_pretrained(tmp_path / "t", device="cpu")
    assert twin.decision is None
    assert twin.provenance == {}


@pytest.mark.parametrize("architecture", ["BertModel", "another"])
def test_chunks_have_the_gradients_of_texts_on_their_own(twin, sentences, architecture):
    """Whether or not the words of all chunks are looked up at once."""
    model = twin.left[0].model
    if architecture != "BertModel":
        model.__class__ = type(architecture, (type(model),), {})
    tokens = tokenise(twin.left, sentences)
    chunks = [tokens.collate(rows) for rows in chunk_by_tokens(tokens.lengths, 128)]
    assert len(chunks) > 3
    looked_up = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: looked_up.append(1))
    weights = torch.randn(48, twin.dim, generator=torch.Generator().manual_seed(0))

    def gradients(*encodings):
        parameters = [p for n, p in twin.named_parameters() if "pooler" not in n]
        return torch.autograd.grad((torch.cat(encodings) * weights).sum(), parameters)

    u, v = twin(chunks)
    assert u is v
    together = gradients(u)
    assert len(looked_up) == (1 if architecture == "BertModel" else len(chunks))
    order = np.concatenate(chunk_by_tokens(tokens.lengths, 128))
    alone = gradients(*(twin.left(tokens.collate([row]))["sentence_embedding"] for row in order))
    handle.remove()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert set(chunks[0]) == {"input_ids", "attention_mask"}  # a batch may be encoded twice


def test_a_twin_that_has_encoded_can_be_pickled_and_copied(twin: Twin, sentences: list[str]) -> None:
    before = twin.encode(sentences, precision="bf16")
    for other in (pickle.loads(pickle.dumps(twin)), copy.deepcopy(twin)):
        assert np.array_equal(other.encode(sentences, precision="bf16"), before)


@pytest.mark.parametrize(
    ("left", "right", "error", "message"),
    [
        ([0, 1], [1], ValueError, "left and right must be of one length, got 2 and 1"),
        ([0], [-1], DataError, r"right\[0\] is -1, expected the place of one of 3 texts"),
        ([0, 3], [1, 1], DataError, r"left\[1\] is 3"),
        ([0.5], [1], DataError, r"left\[0\] is 0.5"),
    ],
)
def test_places_of_no_text_are_refused(twin, sentences, left, right, error, message) -> None:
    with pytest.raises(error, match=message):
        twin.pair_similarity(sentences[:3], np.array(left), np.array(right))


def test_a_stream_of_letters_is_no_stream_of_texts(twin: Twin) -> None:
    with pytest.raises(TypeError, match="got one str"):
        next(twin.encode_stream("abc"))
