"""Saved tokenizers of BERT, opened by the `tokenizers` library alone where that gives what transformers would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from textsiam.inference.fast.saved_modules import require

_SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_NONE = (None, [], {})
# What a config may say without changing what a tokenizer does to a text; None where any value will do.
_USUAL: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars", "model_max_length", "max_length")),
    **dict.fromkeys(("do_basic_tokenize", "pad_token_type_id", "name_or_path", "is_local", "local_files_only")),
    **dict.fromkeys(("special_tokens_map_file", "clean_up_tokenization_spaces", "added_tokens_decoder")),
    **{f"{name}_token": None for name in _SPECIAL},
    **dict.fromkeys(("never_split", "additional_special_tokens", "extra_special_tokens", "pad_to_multiple_of"), _NONE),
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast"),
    "backend": ("tokenizers",),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "truncation_strategy": ("longest_first",),
    "stride": (0,),
}


class SavedTokenizer:
    """What encoding asks of a tokenizer of transformers, answered by the rules in the saved file themselves.

    Args:
        rules: The rules.
        special: Token by role: "unk", "sep", "pad", "cls", "mask".
        own_limit: After how many tokens texts are cut where the tower says nothing; None where they are not.
    """

    def __init__(self, rules: Tokenizer, special: Mapping[str, str], own_limit: int | None) -> None:
        self.own_limit = own_limit
        ids: dict[str, Any] = {role: rules.token_to_id(token) for role, token in special.items()}
        self.backend_tokenizer = rules
        self.pad_token_id, self.unk_token_id = ids["pad"], ids["unk"]
        self.all_special_ids = list(ids.values())

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str], **limits: Any) -> dict[str, list[list[int]]]:
        """Return the ids of texts, cut at the tower's limit, whatever limits are named."""
        return {"input_ids": [found.ids for found in self.backend_tokenizer.encode_batch_fast(texts)]}

    def cutting(self, limit: int) -> SavedTokenizer:
        """Cut texts after so many tokens from now on."""
        self.backend_tokenizer.enable_truncation(limit)
        return self

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the id of a token, that of unknown ones where there is none."""
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found


def read_tokenizer(files: Mapping[str, bytes]) -> SavedTokenizer:
    """Open a saved BERT tokenizer.

    transformers builds a BERT tokenizer anew, of the vocabulary in the file and of its config: both must say the same.

    Args:
        files: The files of the folder, by name.

    Raises:
        Unusual: transformers might make another tokenizer of the files.
    """
    config, rules = (json.loads(files[name]) for name in ("tokenizer_config.json", "tokenizer.json"))
    require(all(key in _USUAL and ((usual := _USUAL[key]) is None or config[key] in usual) for key in config))
    special = {role: _content(config.get(f"{role}_token", token)) for role, token in _SPECIAL.items()}
    older = json.loads(files.get("special_tokens_map.json", b"{}"))
    require(all(special.get(key.removesuffix("_token")) == _content(value) for key, value in older.items()))
    require("tokenizer_class" in config and rules["pre_tokenizer"] == {"type": "BertPreTokenizer"})
    require(rules["normalizer"] == {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    })  # fmt: skip
    _require_usual_words(rules, special, config.get("added_tokens_decoder"))
    _require_usual_ends(rules["post_processor"], special)
    opened = Tokenizer.from_buffer(files["tokenizer.json"])
    opened.no_padding()
    own = config.get("model_max_length")
    return SavedTokenizer(opened, special, None if own is None else int(own))


def _content(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _require_usual_words(rules: Mapping[str, Any], special: Mapping[str, str], named: Any) -> None:
    """Take no vocabulary but one of pieces of words, and no tokens beside it but the special ones, which are in it."""
    model = {key: value for key, value in rules["model"].items() if key != "vocab"}
    pieces = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    require(model == {"type": "WordPiece", "unk_token": special["unk"], **pieces})
    require(rules["decoder"] == {"type": "WordPiece", "prefix": "##", "cleanup": True})
    plain = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ids = {rules["model"]["vocab"][token]: token for token in special.values()}
    added = {token["id"]: token for token in rules["added_tokens"]}
    require(added == {key: {"id": key, "content": token, **plain} for key, token in ids.items()})
    if named is not None:
        require(named == {str(key): {"content": token, **plain} for key, token in ids.items()})


def _require_usual_ends(ends: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Take no tokens around a text but one before and one behind it, all of one type."""
    single = [part[kind] for part in ends["single"] for kind in part]
    types = [part["type_id"] for part in single]
    require(ends["type"] == "TemplateProcessing" and types == [0, 0, 0])
    require([part["id"] for part in single] == [special["cls"], "A", special["sep"]])
