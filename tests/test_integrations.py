"""Other tools get the twin's own vectors: every block of docs/integrations.md is run, and compared with them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin

PAGE = Path(__file__).parents[1] / "docs/integrations.md"
LONGEST = 10  # lines of an adapter, without blank ones and imports


def blocks(section: str) -> list[str]:
    """Return the Python blocks of a section."""
    (part,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return re.findall(r"```python\n(.*?)```", part, re.S)


def run(section: str, twin: Twin, questions: list[str], **more: Any) -> dict[str, Any]:
    """Run the blocks of a section, and return their names."""
    names: dict[str, Any] = {"twin": twin, "questions": questions, "__name__": "integrations", **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, which are not ours
        for block in blocks(section):
            exec(compile(block, section, "exec"), names)
    return names


@pytest.mark.parametrize("section", ["LangChain", "LlamaIndex", "BERTopic", "MTEB"])
def test_adapters_are_short(section: str) -> None:
    (adapter,) = [block for block in blocks(section) if "class Twin" in block]
    written = [line for line in adapter.splitlines() if line.strip() and "import " not in line]
    assert len(written) <= LONGEST


def test_evaluators_of_sentence_transformers(twin: Twin, sentences: list[str]) -> None:
    names = run("sentence-transformers", twin, sentences)
    scores = twin.similarity(sentences[:-1], sentences[1:])
    assert names["measured"] == pytest.approx(average_precision_score(names["labels"], scores), abs=1e-6)
    assert names["found"] == 1


def test_evaluators_take_every_kind(twin: Twin, sentences: list[str]) -> None:
    from sentence_transformers import evaluation as kinds

    a, b, c = sentences[:16], sentences[16:32], sentences[32:]
    u, v, w = (twin.encode(part) for part in (a, b, c))
    grades = np.linspace(0, 1, 16).tolist()
    triplets = kinds.TripletEvaluator(a, b, c, write_csv=False)(twin)
    assert triplets["cosine_accuracy"] == pytest.approx(float(((u * v).sum(1) > (u * w).sum(1)).mean()))
    from scipy.stats import spearmanr

    found = kinds.EmbeddingSimilarityEvaluator(a, b, grades, write_csv=False)(twin)
    assert found["spearman_cosine"] == pytest.approx(spearmanr((u * v).sum(1), grades)[0], abs=1e-6)
    samples = [{"query": text, "positive": [text], "negative": b[:3]} for text in a[:4]]
    assert kinds.RerankingEvaluator(samples, write_csv=False)(twin)["map"] == 1
    mined = kinds.ParaphraseMiningEvaluator(
        {str(k): text for k, text in enumerate(a)}, [("0", "1")], write_csv=False, add_transitive_closure=False
    )(twin)
    assert 0 <= mined["average_precision"] <= 1


def test_langchain(twin: Twin, sentences: list[str]) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    names = run("LangChain", twin, sentences)
    vectors = twin.encode(sentences)
    kept = {entry["text"]: entry["vector"] for entry in names["store"].store.values()}
    np.testing.assert_allclose([kept[text] for text in sentences], vectors, atol=1e-6)
    assert names["best"].page_content == sentences[0]
    assert names["score"] == pytest.approx(1, abs=1e-5)


def test_llama_index(twin: Twin, sentences: list[str]) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    names = run("LlamaIndex", twin, sentences)
    vectors, data = twin.encode(sentences), names["index"].vector_store.data
    order = [names["index"].docstore.docs[key].text for key in data.embedding_dict]
    np.testing.assert_allclose([*data.embedding_dict.values()], vectors[[sentences.index(t) for t in order]], atol=1e-6)
    assert names["hit"].node.text == sentences[0]
    assert names["hit"].score == pytest.approx(1, abs=1e-5)


def test_bertopic(twin: Twin, sentences: list[str]) -> None:
    pytest.importorskip("bertopic", reason="bertopic is not installed")
    names = run("BERTopic", twin, sentences)
    vectors = twin.encode(sentences)
    np.testing.assert_allclose(names["model"]._extract_embeddings(sentences), vectors, atol=1e-6)
    expected = KMeans(3, random_state=0, n_init=1).fit_predict(PCA(2).fit_transform(vectors))
    assert len({*zip(names["topics"], expected.tolist(), strict=True)}) == 3  # the same groups, whatever their names


def test_mteb(twin: Twin, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mteb", reason="mteb is not installed")
    monkeypatch.syspath_prepend(PAGE.parents[1] / "benchmarks")
    from mteb_tasks import duplicate_task

    names = run("MTEB", twin, pairs.texts, task=duplicate_task("Questions", pairs))
    scores = twin.similarity(pairs.left_texts, pairs.right_texts)
    assert names["score"] == pytest.approx(average_precision_score(pairs.labels, scores), abs=1e-6)
    (score,) = names["result"].task_results[0].scores["test"]
    assert score["similarity_ap"] == score["cosine_ap"]
