from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from textsiam.inference.cache import EmbeddingCache
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.ensemble import Ensemble
from textsiam.models.twin import Twin

TEXTS = ["Why is the sky blue?", "How do I sort a list?", "Why is the sky blue?"]


@pytest.fixture
def prompted(twin: Twin) -> Twin:
    twin.left.prompts = {"query": "find: ", "document": "", "clustering": "group: "}
    twin.left.default_prompt_name = "query"
    return twin


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": ""},
        {"prompt": "sort: "},
        {"prompt_name": "clustering"},
        {"prompt_name": "query", "prompt": "sort: "},
        {"truncate_dim": 5},
        {"batch_size": 1, "show_progress_bar": False, "device": "cpu", "output_value": "sentence_embedding"},
        {"truncate_dim": 32, "prompt": "sort: "},
    ],
)
def test_options_mean_what_they_mean_to_sentence_transformers(prompted: Twin, options: dict) -> None:
    expected = prompted.left.encode(TEXTS, normalize_embeddings=True, **options)
    found = prompted.encode(TEXTS, precision="fp32", normalize_embeddings=True, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[2])


def test_a_prompt_is_read_where_pooling_leaves_it_out(tower: SentenceTransformer) -> None:
    backbone = tower[0]
    assert isinstance(backbone, Transformer)
    pooling = Pooling(backbone.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
    twin = Twin(SentenceTransformer(modules=[backbone, pooling, Normalize()], device="cpu").eval())
    expected = twin.left.encode(TEXTS, prompt="find: ")
    np.testing.assert_allclose(twin.encode(TEXTS, prompt="find: ", precision="fp32"), expected, atol=1e-5)
    assert np.abs(twin.encode(TEXTS, precision="fp32") - expected).max() > 1e-3


def test_tensors_where_they_are_asked_for(twin: Twin) -> None:
    expected = twin.encode(TEXTS)
    one = twin.encode(TEXTS, convert_to_tensor=True)
    many = twin.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(one, torch.Tensor)
    assert isinstance(many, list)
    np.testing.assert_array_equal(one.numpy(), expected)
    np.testing.assert_array_equal(torch.stack(many).numpy(), expected)


def test_number_formats_by_their_other_names(twin: Twin) -> None:
    np.testing.assert_array_equal(twin.encode(TEXTS, precision="float32"), twin.encode(TEXTS, precision="fp32"))
    np.testing.assert_array_equal(twin.encode(TEXTS, precision=None), twin.encode(TEXTS))


def test_queries_and_documents_are_the_sides(fresh_tower: SentenceTransformer, twin: Twin) -> None:
    twin.right = fresh_tower
    twin.right.prompts, twin.right.default_prompt_name = {"document": "text: "}, "document"
    np.testing.assert_array_equal(twin.encode_query(TEXTS), twin.encode(TEXTS, side="left"))
    np.testing.assert_array_equal(twin.encode_document(TEXTS), twin.encode(TEXTS, side="right"))


def test_progress_is_shown_and_told(twin: Twin, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    twin.encode(TEXTS, show_progress_bar=True, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2, 2)
    assert "2/2" in capsys.readouterr().err


def test_a_cache_tells_prompts_apart(twin: Twin, tmp_path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    plain = twin.encode(TEXTS, cache=cache)
    found = [twin.encode(TEXTS, cache=cache, prompt="find: ") for _ in range(2)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], twin.encode(TEXTS, prompt="find: "))
    assert np.abs(found[0] - plain).max() > 1e-3


def test_an_ensemble_takes_the_same(twin: Twin, tmp_path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    found = Ensemble([twin, twin]).encode(TEXTS, prompt="find: ", convert_to_tensor=True, cache=cache)
    half = twin.encode(TEXTS, prompt="find: ") / np.sqrt(2)
    np.testing.assert_allclose(found.numpy(), np.concatenate([half, half], 1), atol=1e-6)
    assert len(cache) == 2


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"bach_size": 8}, TypeError, "no argument 'bach_size': did you mean 'batch_size'"),
        ({"pool": None}, TypeError, "no argument 'pool': expected prompt, prompt_name, truncate_dim"),
        ({"prompt_name": "qery"}, ValueError, "prompt_name is 'qery', which the model does not know: 'query', 'doc"),
        ({"truncate_dim": 33}, ValueError, "truncate_dim must be from 1 to 32, the width of the vectors, got 33"),
        ({"truncate_dim": 0}, ValueError, "from 1 to 32"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"output_value": "token_embeddings"}, ValueError, "output_value must be 'sentence_embedding', got 'token_e"),
        ({"precision": "int8"}, ValueError, "precision must be 'auto', 'fp32' or 'bf16', got 'int8'"),
        ({"device": "cpu", "devices": ["cpu"]}, ValueError, "device and devices exclude each other"),
    ],
)
def test_what_means_nothing_is_refused(prompted: Twin, options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        prompted.encode(TEXTS, **options)


def test_images_have_no_prompts() -> None:
    twin = Twin(scratch_image_encoder(size=16, widths=(4, 8), depths=(1, 1), dim=4, device="cpu").eval())
    image = np.zeros((16, 16), np.uint8)
    assert twin.encode([image], prompt=None, truncate_dim=2).shape == (1, 2)
    with pytest.raises(ValueError, match="prompt is 'find: ', but these inputs are no texts"):
        twin.encode([image], prompt="find: ")
