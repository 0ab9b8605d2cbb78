"""`data.more`: further sets as YAML says them, what is refused before data is read, and a run of three sets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from textsiam.config.data import DataConfig, build_pairs, build_sets
from textsiam.config.preflight import faults
from textsiam.config.run import Config, ConfigError, read_config
from textsiam.config.sets import SetConfig, build_set
from textsiam.data.leakage import apart_from, leakage
from textsiam.data.pairs import DataError, Pairs
from textsiam.training.losses import ContrastiveLoss, CoSENTLoss, InfoNCELoss, OnlineContrastiveLoss

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
WORDS = ["bread", "cactus", "tyre", "dog", "sky", "sleep", "visa", "wine", "guitar", "egg"]


def table(path: Path, columns: str, rows: Sequence[tuple[object, ...]]) -> str:
    lines = [columns.replace(" ", "\t"), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Labelled pairs to cut splits from, graded pairs, and duplicates alone."""
    asked = [(f"{word} {n} why", f"{word} {n} how", f"{word} {n} when {n}") for word in WORDS for n in range(12)]
    labelled = [row for a, b, c in asked for row in ((a, b, 1), (a, c, 0))]
    graded = [(f"{a} {n} old", f"{b} {n} new", n % 6) for a in WORDS for b in WORDS for n in range(3)]
    alone = [(f"{word} forum {n}", f"please {word} forum {n}") for word in WORDS for n in range(4)]
    return {
        "labelled": table(tmp_path / "labelled.tsv", "question1 question2 is_duplicate", labelled),
        "graded": table(tmp_path / "graded.tsv", "one two score", graded),
        "alone": table(tmp_path / "alone.tsv", "anchor positive", alone),
    }


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    return str(file)


def test_sets_are_read_and_written(tmp_path):
    file = written(
        tmp_path,
        """
        data:
          train: quora.tsv
          more:
            - forum.tsv
            - {source: [a.tsv, b.tsv], weight: 0.5, loss: {cosent: {temperature: 0.1}}, columns: {left: x, right: y}}
            - {source: c.tsv, loss: {memory: {pairs: 9}}}
        """,
    )
    config = read_config([file])
    assert config.data.more == [
        "forum.tsv",
        SetConfig(["a.tsv", "b.tsv"], 0.5, {"cosent": CoSENTLoss(temperature=0.1)}, {"left": "x", "right": "y"}),
        SetConfig("c.tsv", loss=read_config(["--loss.memory.pairs", "9"]).loss),
    ]
    again = written(tmp_path, yaml.safe_dump(config.to_dict()))
    assert read_config([again]) == config
    assert read_config(["--data.more", "[{source: c.tsv, weight: 2}]"]).data.more == [SetConfig("c.tsv", 2.0)]
    with pytest.raises(ConfigError, match=r"data\.more\.0\.weight must be a finite number, got inf"):
        read_config(["--data.more", "[{source: c.tsv, weight: .inf}]"])


def test_all_faults_at_once_with_their_lines(tmp_path):
    file = written(
        tmp_path,
        "data:\n  more:\n"
        "    - {source: a.tsv, weight: 0, loss: {cosent: {temperatur: 0.1}}}\n"
        "    - {weight: 2}\n"
        "    - source: b.tsv\n      weights: 1\n"
        "    - 7\n"
        "    - source: c.tsv\n      loss:\n        contrastive:\n          margin: x\n",
    )
    with pytest.raises(ConfigError) as raised:
        read_config([file])
    assert str(raised.value).replace(f"{file}:", "").split("\n  ") == [
        "6 faults:",
        "3: unknown key 'data.more.0.loss.cosent.temperatur': did you mean 'temperature'?",
        "3: data.more.0.weight must be > 0, got 0.0",
        "4: data.more.1: the following arguments are required: source",
        "6: unknown key 'data.more.2.weights': did you mean 'weight'?",
        "7: 'data.more.3' is 7, expected a source, or a section with one",
        "11: 'data.more.4.loss.contrastive.margin' is 'x', expected float",
    ]
    with pytest.raises(ConfigError, match=r"^--data.more: 'data.more' is 'a.tsv', expected a list of sources, or of"):
        read_config(["--data.more", "a.tsv"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("[/tmp/not-there.tsv]", "data.more.0: /tmp/not-there.tsv: no such file"),
        ("[{source: x, loss: {head: {}}}]", "data.more.0: loss.head is set, but model.head is not"),
        ("[{source: IMAGES}]", "data.more.0: IMAGES and sample:forum: one holds images, the other texts"),
    ],
)
def test_what_does_not_go_together_is_refused_before_data_is_read(more, expected, tmp_path):
    from PIL import Image

    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("L", (20, 20)).save(tmp_path / "images" / "a" / "1.png")
    place = str(tmp_path / "images")
    config = read_config(["--output", str(tmp_path / "run"), "--data.more", more.replace("IMAGES", place)])
    (fault,) = faults(config)
    assert str(fault).startswith(expected.replace("IMAGES", place))


def test_patterns_and_lists_of_files_are_looked_for_too(sources, tmp_path):
    folder = Path(sources["labelled"]).parent
    given = ["--output", str(tmp_path / "run"), "--data.train", sources["labelled"]]
    more = f"[{{source: [{sources['alone']}, {folder}/gr*.tsv]}}, {folder}/gr*.tsv]"
    assert faults(read_config([*given, "--data.more", more, "--data.test", f"[{sources['labelled']}]"])) == []
    (fault,) = faults(read_config([*given, "--data.more", f"[{{source: [{sources['alone']}, {folder}/no*.tsv]}}]"]))
    assert str(fault) == f"data.more.0: {folder}/no*.tsv: no such file"


def test_losses_of_a_set_train_the_head_beside_those_of_the_run(tmp_path):
    given = [
        "--output",
        str(tmp_path),
        "--model.head.kind",
        "mlp",
        "--loss.head.weight",
        "1",
        "--loss.contrastive.weight",
        "1",
    ]
    assert faults(read_config([*given, "--data.more", "[{source: x, loss: {info_nce: {}}}, {source: y}]"])) == []


def test_a_set_shares_nothing_with_what_is_held_out(sources, tmp_path):
    data = DataConfig(sources["labelled"])
    splits = build_pairs(data)
    asked, known = splits.test.texts[0], splits.train.texts[0]
    rows = [(asked.upper() + "?", "near-identical", 1), ("near-identical", "its duplicate", 1), ("a", "b", 0)]
    rows += [("of a duplicate", splits.validation.texts[0], 1), ("of a duplicate", "other", 0), (known, "fine", 1)]
    leaking = table(tmp_path / "leaking.tsv", "question1 question2 is_duplicate", rows)
    (found,) = build_sets(replace(data, more=[leaking]), splits)
    assert found.left_out == 4
    assert found.pairs.left_texts == ["a", known]
    held_out = {name: part for name, part in splits.named().items() if name != "train"}
    for part in held_out.values():
        assert leakage({"more": found.pairs, "held out": part}).clean
    assert found.told({"info_nce": InfoNCELoss()}).endswith(
        "leaking.tsv, weight 1, losses: info_nce; 4 left out, whose questions are held out"
    )
    table(tmp_path / "leaking.tsv", "question1 question2 is_duplicate", rows[:2])
    with pytest.raises(DataError, match=r"leaking\.tsv: every pair shares a question with validation, calibration or"):
        build_sets(replace(data, more=[leaking]), splits)


def test_a_chain_of_duplicates_leaks_too():
    pairs = Pairs.from_texts(["a", "b", "c"], ["b", "c", "e"], [1, 0, 0])
    held_out = Pairs.from_texts(["x", "y"], ["A!", "z"], [1, 0])
    assert apart_from(pairs, [held_out]).tolist() == [False, False, True]
    assert apart_from(pairs, [held_out.select([1])]).all()


def test_grades_stay_with_their_pairs(sources):
    data = DataConfig(sources["labelled"], more=[SetConfig(sources["graded"], columns={"left": "one", "right": "two"})])
    splits = build_pairs(data)
    (found,) = build_sets(data, splits)
    assert found.grades is not None
    assert found.grades.tolist() == [int(text.split()[1]) % 6 for text in found.pairs.left_texts]
    with pytest.raises(ValueError, match=r"graded\.tsv: holds scores, which online_contrastive cannot learn from"):
        build_set(found, {"online_contrastive": OnlineContrastiveLoss()})
    built = build_set(replace(found, config=replace(found.config, loss={"cosent": CoSENTLoss()})), {})
    assert built.grades is not None
    assert np.array_equal(built.grades, found.grades)


def test_duplicates_alone_want_a_loss_that_finds_what_is_apart(sources):
    (found,) = build_sets(DataConfig(more=[sources["alone"]]), build_pairs(DataConfig(sources["labelled"])))
    with pytest.raises(ValueError, match=r"alone\.tsv: every pair is labelled 1, and contrastive learns from pairs of"):
        build_set(found, {"contrastive": ContrastiveLoss()})
    assert build_set(found, {"info_nce": InfoNCELoss()}).weight == 1


def test_a_run_of_three_sets(sources, tmp_path, textsiam):
    file = written(
        tmp_path,
        f"""
        output: {tmp_path / "run"}
        data:
          train: {sources["labelled"]}
          more:
            - {{source: {sources["graded"]}, weight: 0.5, loss: {{cosent: {{}}}}, columns: {{left: one, right: two}}}}
            - {{source: {sources["alone"]}, weight: 0.25, loss: {{info_nce: {{}}}}}}
        model: {{scratch: {{vocabulary: 300, hidden: 16, layers: 1}}, max_tokens: 16}}
        training: {{batch_size: 16, max_steps: 8, precision: fp32, tracker: none}}
        """,
    )
    said = textsiam("train", file, "--training.checkpoint_every", 2)
    assert said.status == 0, said.err
    told = re.findall(r"more: (\d+ (?:graded )?pairs) of \S+/(\w+\.tsv), (.*)", said.out)
    assert told == [
        ("300 graded pairs", "graded.tsv", "weight 0.5, losses: cosent"),
        ("40 pairs", "alone.tsv", "weight 0.25, losses: info_nce"),
    ]
    saved = json.loads((tmp_path / "run" / "splits.json").read_text())["more"]
    assert [each["graded"] for each in saved] == [True, False]
    facts = json.loads((tmp_path / "run" / "model" / "textsiam.json").read_text())["provenance"]
    assert facts["training pairs"].endswith(f"300 from {sources['graded']}, 40 from {sources['alone']}")
    assert {"more.0", "more.1"} < facts["fingerprints"].keys()


def test_the_example_of_the_docs_is_read(tmp_path):
    (example,) = re.findall(r"```yaml\n(data:\n  train: .*?more:.*?)```", DOCS, re.S)
    config = read_config([written(tmp_path, example)])
    assert [each.loss and [*each.loss] for each in config.data.more or () if isinstance(each, SetConfig)] == [
        ["cosent"],
        ["info_nce"],
    ]
    assert isinstance(config, Config)
