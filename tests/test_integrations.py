"""Other tools get the twin's own vectors: every block of docs/integrations.md is run, and compared with them."""

from __future__ import annotations

import json
import re
import sqlite3
import warnings
from importlib.util import find_spec
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


def test_tables_in_and_out(twin: Twin, sentences: list[str]) -> None:
    names = run("pandas, polars and datasets", twin, sentences)
    assert names["pairs"].left_texts == sentences[:-1]
    assert names["again"].to_dict("list")["question2"] == sentences[1:]
    found, frame = names["duplicates"], names["flagged"]
    assert len(frame) == len(found) > 0
    assert frame["question1"].tolist() == [sentences[i] for i in found.left]
    np.testing.assert_array_equal(frame["similarity"].to_numpy(), found.similarity)
    expected = twin.similarity(frame["question1"].tolist(), frame["question2"].tolist())
    np.testing.assert_allclose(frame["similarity"], expected, atol=1e-3)
    named = found.to_pandas(ids=[f"q{i}" for i in range(len(sentences))])
    assert named.columns.tolist() == ["id1", "id2", "similarity", "probability"]
    assert named["id2"].tolist() == [f"q{i}" for i in found.right]


def test_polars(twin: Twin, sentences: list[str]) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    from textsiam import find_duplicates, read_pairs

    table = {"question1": sentences[:-1], "question2": sentences[1:], "is_duplicate": [0] * (len(sentences) - 1)}
    assert read_pairs(polars.DataFrame(table)).right_texts == sentences[1:]
    found = find_duplicates(twin, sentences, threshold=0.5)
    frame = found.to_dataset(sentences).to_polars()
    assert isinstance(frame, polars.DataFrame)
    assert frame["question2"].to_list() == [sentences[i] for i in found.right]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_trackers_get_what_the_history_holds(tracker, twin, pairs, tmp_path, monkeypatch) -> None:
    if find_spec(tracker) is None:  # not imported yet: trackio asks at once where it may write
        pytest.skip(f"{tracker} is not installed")
    from textsiam import train
    from textsiam.training.losses.objective import Objective
    from textsiam.training.losses.pairwise import ContrastiveLoss
    from textsiam.training.settings import Settings

    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "TRACKIO_DIR": tmp_path / "trackio"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    settings = Settings(max_steps=2, batch_size=8, log_every=1, precision="fp32", tracker=tracker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trackers
        result = train(twin, pairs, Objective({"contrastive": ContrastiveLoss()}), output=tmp_path / "run",
                       settings=settings, quiet=True)  # fmt: skip
        told = TOLD[tracker](tmp_path)
    losses = [record["loss"] for record in result.history if "loss" in record]
    assert len(losses) == 2
    assert told == pytest.approx(losses, rel=1e-5)


def _tensorboard(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = {path.parent for path in folder.rglob("events.out.tfevents.*") if path.parent.name == "logs"}
    read = EventAccumulator(str(events))
    read.Reload()
    return [event.value for event in read.Scalars("loss")]


def _wandb(folder: Path) -> list[float]:
    import wandb

    wandb.teardown()  # its process has written all
    (file,) = {path.resolve() for path in folder.rglob("*.wandb")}
    # Records: the name of a metric, followed by its number as JSON; each one stands there as history and as summary.
    found = re.findall(rb"\x04loss...(\d\.\d+(?:e-?\d+)?)", file.read_bytes(), re.S)
    return [*dict.fromkeys(map(float, found))]


def _trackio(folder: Path) -> list[float]:
    (file,) = [path for path in (folder / "trackio").rglob("*.db") if "logs" in path.name]
    with sqlite3.connect(file) as table:
        rows = [json.loads(metrics) for (metrics,) in table.execute("SELECT metrics FROM metrics ORDER BY step")]
    return [row["loss"] for row in rows if "loss" in row]


def _mlflow(folder: Path) -> list[float]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (ran,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [metric.value for metric in client.get_metric_history(ran.info.run_id, "loss")]


TOLD = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}
