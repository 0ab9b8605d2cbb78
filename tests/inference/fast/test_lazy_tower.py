"""What is read of a saved tower encodes as the library does, to the last bit, and becomes the library's when asked."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from textsiam.inference.cache import weights_fingerprint
from textsiam.inference.fast.lazy_tower import LazyTower, saved_bert
from textsiam.inference.tokens import token_counter, tokenise
from textsiam.inference.unread import unread_of
from textsiam.models.ensemble import Ensemble, open_scorer
from textsiam.models.twin import Twin

TEXTS = ["Why is the sky blue?", "ÄÖÜ naïve CAFÉ 中文字", "", "why", "zqxj 😀", "How often should I water it? " * 30]


@pytest.fixture
def saved(fresh_tower: SentenceTransformer, tmp_path: Path) -> Path:
    """The folder of a tower with a projection."""
    modules = [*list(fresh_tower)[:-1], Dense(32, 24, activation_function=torch.nn.Tanh()), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "tower"))
    return tmp_path / "tower"


def is_lazy(tower: Any) -> bool:
    return type(tower) is LazyTower


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def facts(twin: Twin) -> dict[str, Any]:
    """Everything that encoding, searching and the index may ask of a twin's left tower."""
    tower = twin.left
    tokens, unread = tokenise(tower, TEXTS), unread_of([tower], TEXTS)
    return {
        "auto": twin.encode(TEXTS),
        "fp32": twin.encode(TEXTS, precision="fp32"),
        "bf16": twin.encode(TEXTS, precision="bf16"),
        "ids": tokens.ids,
        "offsets": tokens.offsets,
        "counted": token_counter(tower)(TEXTS),
        "unread": np.stack([unread.nothing, unread.cut, unread.partly, unread.seen]),
        "plain": [weights_fingerprint(tower, "any"), tokens.pad_id, tower.prompts, tower.default_prompt_name,
                  tower.max_seq_length, tower.similarity_fn_name, tower.get_embedding_dimension(), tower.device],
    }  # fmt: skip


def assert_same_as_the_library(folder: Path) -> None:
    twin = Twin.from_pretrained(folder, device="cpu")
    assert is_lazy(twin.left)
    read = facts(twin)
    assert is_lazy(twin.left), "encoding has opened the library"
    assert isinstance(twin.left, SentenceTransformer)
    assert not is_lazy(twin.left)
    opened = facts(twin)
    for name, value in read.items():
        assert value == opened[name] if name == "plain" else np.array_equal(value, opened[name]), name


def _pooling(mode: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "1_Pooling/config.json", lambda config: config.update(pooling_mode=mode))


def _facts(**saved: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config_sentence_transformers.json", lambda config: config.update(saved))


def _config(**saved: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda config: config.update(saved))


def _tokenizer(**saved: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", lambda config: config.update(saved))


def _rules(**saved: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer.json", lambda config: config.update(saved))


def _cased(folder: Path) -> None:
    _tokenizer(do_lower_case=False, strip_accents=False, tokenize_chinese_chars=False)(folder)
    normalizer = {"clean_text": True, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    _rules(normalizer={"type": "BertNormalizer", **normalizer})(folder)


def _half(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    _config(dtype="bfloat16")(folder)


def _of_2_0(folder: Path) -> None:
    """Write the configs as sentence-transformers 2.0 did."""
    older = {"Transformer": "models.Transformer", "Pooling": "models.Pooling", "Normalize": "models.Normalize"}
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.{older.get(kind, f'models.{kind}')}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps({**pooling, "pooling_mode_max_tokens": False}))
    edit(folder / "2_Dense/config.json", lambda config: config.update(in_features=64))
    weights = load_file(folder / "2_Dense/model.safetensors")
    doubled = {**weights, "linear.weight": weights["linear.weight"].repeat(1, 2)}
    save_file(doubled, folder / "2_Dense/model.safetensors")
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')


USUAL = {
    "as saved": lambda folder: None,
    "cls": _pooling("cls"),
    "max": _pooling(["max"]),
    "a prompt": _facts(prompts={"query": "ask: ", "document": "ask: "}, default_prompt_name="query"),
    "another default prompt": _facts(prompts={"every": "text: "}, default_prompt_name="every"),
    "truncated": _facts(truncate_dim=7),
    "cut sooner": _tokenizer(model_max_length=12),
    "no limit of the tokenizer": _tokenizer(model_max_length=10**30),
    "cased": _cased,
    "saved in half precision": _half,
    "configs of 2.0": _of_2_0,
}


@pytest.mark.parametrize("change", USUAL.values(), ids=USUAL)
def test_vectors_and_facts_are_the_librarys_to_the_last_bit(saved: Path, change: Callable[[Path], None]) -> None:
    change(saved)
    assert_same_as_the_library(saved)


def test_without_a_projection(fresh_tower: SentenceTransformer, tmp_path: Path) -> None:
    Twin(fresh_tower).save_pretrained(tmp_path / "twin")
    assert_same_as_the_library(tmp_path / "twin")


def test_the_packaged_model(minilm: SentenceTransformer) -> None:
    twin = open_scorer("all-MiniLM-L6-v2", device="cpu")
    assert isinstance(twin, Twin)
    found = twin.encode(TEXTS)
    assert is_lazy(twin.left)
    assert np.array_equal(found, Twin(minilm).encode(TEXTS))
    assert weights_fingerprint(twin.left, "any") == weights_fingerprint(minilm, "any")
    assert is_lazy(twin.left)


def _strange_token(folder: Path) -> None:
    def change(rules: dict[str, Any]) -> None:
        rules["added_tokens"].append({**rules["added_tokens"][0], "id": 399, "content": "[X]"})

    edit(folder / "tokenizer.json", change)


UNUSUAL = {
    "prompts by side": _facts(prompts={"query": "query: ", "document": "passage: "}),
    "a prompt for queries alone": _facts(prompts={"query": "query: "}, default_prompt_name=None),
    "weights by position": _pooling("weightedmean"),
    "last token": _pooling("lasttoken"),
    "another distance": lambda folder: (_facts(similarity_fn_name="dot")(folder), _drop(folder, "Normalize")),
    "another activation": _config(hidden_act="gelu_new"),
    "another name of its tokenizer": _tokenizer(tokenizer_class="PreTrainedTokenizerFast"),
    "rules that the config contradicts": _tokenizer(do_lower_case=False),
    "text cut on the left": _tokenizer(truncation_side="left"),
    "one more token": _strange_token,
    "lower case by the tower": lambda folder: edit(
        folder / "sentence_bert_config.json", lambda config: config.update(do_lower_case=True)
    ),
    "an activation of its own": lambda folder: edit(
        folder / "2_Dense/config.json",
        lambda config: config.update(activation_function="torch.nn.modules.activation.ReLU"),
    ),
}


def _drop(folder: Path, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([m for m in modules if not m["type"].endswith(kind)]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_whatever_is_unusual_is_left_to_the_library(saved: Path, change: Callable[[Path], None]) -> None:
    change(saved)
    theirs = SentenceTransformer(str(saved), device="cpu")
    twin = Twin.from_pretrained(saved, device="cpu")
    assert not is_lazy(twin.left)
    vectors = theirs.encode_query(TEXTS, normalize_embeddings=True)
    assert np.abs(twin.encode(TEXTS, precision="fp32") - vectors).max() < 1e-5


DAMAGED = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "broken modules": lambda folder: (folder / "modules.json").write_text("[{"),
    "a module of one's own": lambda folder: (folder / "modules.json").write_text('[{"type": "mine.Own", "path": ""}]'),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_folders_are_the_librarys_to_complain_about(saved: Path, damage: Callable[[Path], Any]) -> None:
    damage(saved)
    with pytest.raises(ValueError, match="cannot open the model"):
        Twin.from_pretrained(saved, device="cpu")


def test_trained_saved_copied_and_pickled_it_is_the_librarys_tower(saved: Path, tmp_path: Path) -> None:
    expected = Twin.from_pretrained(saved, device="cpu").encode(TEXTS)

    def again() -> Twin:
        twin = Twin.from_pretrained(saved, device="cpu")
        assert is_lazy(twin.left)
        return twin

    for ask in (
        lambda twin: [each.shape for each in twin.parameters()],
        lambda twin: twin.state_dict(),
        lambda twin: twin.train().eval(),
        lambda twin: twin.save_pretrained(tmp_path / "again"),
        lambda twin: twin.to("cpu"),
        lambda twin: setattr(twin.left, "max_seq_length", twin.left.max_seq_length),
        lambda twin: twin.left.encode(["why"]),
        lambda twin: twin.left(twin.left.preprocess(["why"])),
        lambda twin: (len(twin.left), twin.left[0], list(twin.left)),
    ):
        twin = again()
        tower = twin.left
        ask(twin)
        assert type(twin.left) is SentenceTransformer
        assert twin.left is tower
        assert tower.model_card_data.model is tower
        assert saved_bert(tower) is None
        assert not [name for name in vars(tower) if name in ("_saved", "_folder", "max_seq_length")]
        assert np.array_equal(twin.encode(TEXTS), expected)
    for other in (copy.deepcopy(again()), pickle.loads(pickle.dumps(again()))):
        assert np.array_equal(other.encode(TEXTS), expected)
    assert np.array_equal(Twin.from_pretrained(tmp_path / "again", device="cpu").encode(TEXTS), expected)


def test_vectors_follow_weights_that_are_changed_after_the_first_were_encoded(saved: Path) -> None:
    twin = Twin.from_pretrained(saved, device="cpu")
    before = twin.encode(TEXTS)
    with torch.no_grad():
        twin.left.get_parameter("0.model.embeddings.word_embeddings.weight").mul_(-1)
    after = twin.encode(TEXTS)
    assert not np.allclose(before, after, atol=1e-2)
    assert np.array_equal(after, Twin(twin.left).encode(TEXTS))


@pytest.mark.parametrize("gone", [True, False], ids=["folder gone", "other weights in the folder"])
def test_a_folder_that_has_changed_meanwhile_does_not_change_the_tower(saved: Path, gone: bool) -> None:
    twin = Twin.from_pretrained(saved, device="cpu")
    before = twin.encode(TEXTS)
    weights = load_file(saved / "model.safetensors")
    if gone:
        shutil.rmtree(saved)
    else:
        save_file({name: -tensor for name, tensor in weights.items()}, saved / "new", {"format": "pt"})
        (saved / "new").replace(saved / "model.safetensors")
    names = {name.removeprefix("0.model.") for name in twin.left.state_dict() if name.startswith("0.")}
    assert names == set(weights)
    assert np.array_equal(twin.encode(TEXTS), before)


def test_threads_that_ask_at_once_find_one_tower(saved: Path) -> None:
    twin = Twin.from_pretrained(saved, device="cpu")
    expected, found = twin.encode(TEXTS), []
    start = threading.Barrier(6)

    def ask(number: int) -> None:
        start.wait()
        found.append(twin.left[0] if number % 2 else twin.encode(TEXTS))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(each) for each in found if not isinstance(each, np.ndarray)} == {id(twin.left[0])}
    assert all(np.array_equal(each, expected) for each in found if isinstance(each, np.ndarray))


def test_asymmetric_twins_and_ensembles_are_read_alike(
    saved: Path, fresh_tower: SentenceTransformer, tmp_path: Path
) -> None:
    left, right = SentenceTransformer(str(saved), device="cpu"), SentenceTransformer(str(saved), device="cpu")
    with torch.no_grad():
        right[2].get_parameter("linear.weight").mul_(-1)
    twin = Twin(left.eval(), right.eval())
    twin.save_pretrained(tmp_path / "two")
    Ensemble([twin, twin]).save_pretrained(tmp_path / "both")
    for folder in ("two", "both"):
        opened = open_scorer(tmp_path / folder, device="cpu")
        towers = [opened.tower(side) for side in ("left", "right")]
        pair = opened.similarity(TEXTS[:2], TEXTS[1:3])
        assert [is_lazy(tower) for tower in towers] == [True, True]
        assert np.array_equal(pair, twin.similarity(TEXTS[:2], TEXTS[1:3]))


def test_commands_that_score_load_neither_library(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("text\n" + "\n".join(TEXTS[:2] * 2 + ["why not"]) + "\n")
    code = f"""
import json, sys
from textsiam.cli import main
model, texts, out = {str(saved)!r}, {str(tmp_path / "texts.tsv")!r}, {str(tmp_path)!r}
heavy = {{"transformers", "sentence_transformers", "sklearn", "scipy", "pandas", "datasets", "pyarrow", "accelerate",
         "huggingface_hub", "PIL", "rich"}}
loaded = {{}}
for words in (["score", model, "a", "b"], ["encode", model, texts, "--output", out + "/v.npy"],
              ["flag", model, texts, "--threshold", "0.9", "--output", out + "/flagged.tsv"],
              ["match", model, "--queries", texts, "--documents", texts, "--top-k", "2"],
              ["index", "create", model, out + "/index"], ["index", "add", model, out + "/index", texts],
              ["check", model, out + "/index", "why", "--threshold", "0.5"]):
    sys.argv = ["textsiam", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
    loaded[" ".join(words[:1])] = sorted(heavy & set(sys.modules))
print("\\n" + json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["score"] == []
    for name, found in loaded.items():
        assert not {"transformers", "sentence_transformers"} & set(found), name
