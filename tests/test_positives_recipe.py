"""The main job on duplicates alone: of a file whose other labels are hidden, and of a forum's links, by time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from textsiam.config.model import ScratchConfig
from textsiam.config.run import Config, ConfigError, DataConfig, ModelConfig, build_pairs, read_config
from textsiam.forums.reading import dates_of_texts
from textsiam.forums.table import import_table
from textsiam.recipe import run
from textsiam.sources import read_pairs

TOPICS = ["bread", "cactus", "tyre", "dog", "mountain", "swim", "sky", "sleep", "visa", "wine", "guitar", "egg"]
SHARES = {"validation_share": 0.15, "calibration_share": 0.2, "test_share": 0.2}


@pytest.fixture
def forum(tmp_path) -> Path:
    """Sixty-six questions, each asked again a year later."""
    topics = [f"{a} {b}" for i, a in enumerate(TOPICS) for b in TOPICS[i + 1 :]]
    rows, links = ["id\ttitle\tbody\tcreated"], ["id1\tid2"]
    for k, topic in enumerate(topics):
        rows += [f"{k}\twhy {topic}\t{topic} is old\t{1900 + k}-01-01", f"d{k}\thow {topic} now\tb\t{1901 + k}-01-01"]
        links.append(f"d{k}\t{k}")
    (tmp_path / "q.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "l.tsv").write_text("\n".join(links) + "\n")
    import_table(tmp_path / "q.tsv", tmp_path / "forum", text="{title}", links=tmp_path / "l.tsv")
    return tmp_path / "forum"


def test_a_forum_is_learned_from_its_past_and_tested_on_its_newest_links(forum, tmp_path):
    data = DataConfig(train=str(forum), labels="positives", split="time", **SHARES)
    scratch = ModelConfig(scratch=ScratchConfig(vocabulary=300, hidden=16, layers=1), max_tokens=16)
    config = Config(output=str(tmp_path / "run"), data=data, model=scratch)
    settings = replace(config.training, epochs=1, batch_size=16, precision="fp32", tracker="none")
    outcome = run(replace(config, training=settings))
    assert outcome is not None
    assert all(part.both_labels for part in outcome.splits.named().values())
    assert outcome.twin.decision is not None
    dates = dates_of_texts(forum)
    years = {name: [dates[text] for text in part.texts] for name, part in outcome.splits.named().items()}
    assert max(years["train"]) < min(max(pair) for pair in zip(years["test"][::2], years["test"][1::2], strict=True))
    begins = json.loads((tmp_path / "run" / "splits.json").read_text())["begins"]
    assert max(years["train"]) < begins["validation"] < begins["calibration"] < begins["test"]


def test_labels_of_other_pairs_are_hidden(tmp_path):
    file = tmp_path / "pairs.tsv"
    rows = [f"why {a}\thow {a} works\t1\nwhy {a}\twhat is never seen, {a}\t0" for a in TOPICS]
    file.write_text("question1\tquestion2\tis_duplicate\n" + "\n".join(rows) + "\n")
    splits = build_pairs(DataConfig(train=str(file), labels="positives", **SHARES))
    assert not any("never seen" in text for part in splits.named().values() for text in part.texts)
    assert sum(part.positives for part in splits.named().values()) == len(TOPICS)
    assert splits.train.positives == len(splits.train)
    assert splits.test.both_labels


def test_what_does_not_fit_is_said(forum, tmp_path):
    with pytest.raises(ConfigError, match=r"holds duplicates alone: data\.labels positives mines"):
        build_pairs(DataConfig(train=str(forum)))
    with pytest.raises(ConfigError, match=r"data\.split: time needs a forum folder, whose questions have dates"):
        build_pairs(DataConfig(split="time"))
    with pytest.raises(ConfigError, match=r"'data\.split' is 'tim', expected one of"):
        read_config(["--data.split", "tim"])
    with pytest.raises(ConfigError, match=r"'data\.labels' is 'none', expected one of"):
        read_config(["--data.labels", "none"])
    (tmp_path / "q.tsv").write_text("id\ttitle\nx\ta\ny\tc\n")
    (tmp_path / "l.tsv").write_text("id1\tid2\nx\ty\n")
    import_table(tmp_path / "q.tsv", tmp_path / "undated", text="{title}", links=tmp_path / "l.tsv")
    with pytest.raises(ValueError, match=r"undated/duplicates\.tsv: a split by time needs the date of every text, 'a'"):
        build_pairs(DataConfig(train=str(tmp_path / "undated"), labels="positives", split="time"))
    assert read_pairs(forum).positives == 66
