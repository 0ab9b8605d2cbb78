"""The model card: what the twin is, how it was trained, and what was measured, for people and for the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsiam.data.tables.columns import Modality
    from textsiam.decision.decision import Decision

_HEAD = """
# {name}

{A_twin} made with textsiam. It maps {inputs} to vectors whose cosine says how alike they are, and knows from
which similarity on two {inputs} count as duplicates.

```python
from textsiam import {made}

twin = {made}.from_pretrained("{name}")
twin.compare({example})
```
"""
_OPENS = '\n`SentenceTransformer("{name}")` opens it too, without the decision.\n'
# Of each modality: what its inputs are called, an example of two, what the Hub calls the task, and further tags.
_KINDS: dict[Modality, tuple[str, str, str, tuple[str, ...]]] = {
    "text": ("texts", '"How old are you?", "What is your age?"', "sentence-similarity", ("duplicate-questions",)),
    "image": ("images", '"a.png", "b.png"', "image-feature-extraction", ("image", "image-similarity")),
    "audio": ("sounds", '"a.wav", "b.wav"', "feature-extraction", ("audio", "audio-similarity")),
}
_WIDGET = {
    "source_sentence": "How old are you?",
    "sentences": ["What is your age?", "How are you?", "How tall are you?"],
}
# Columns of the table of measurements, as the Hub calls them.
_METRICS = {"AP": "average_precision", "accuracy": "accuracy", "F1": "f1", "calibration error": "calibration_error"}
_HUB_ID = re.compile(  # its id, revision and config
    r"([\w-][\w.-]*/[\w-][\w.-]*?)(?<!\.tsv)(?<!\.csv)(?<!\.gz)(?<!\.jsonl)(?<!\.parquet)(?:@([\w./-]+))?(?::([\w.-]+))?"
)


def model_card(
    provenance: Mapping[str, Any],
    decision: Decision | None,
    name: str,
    *,
    modality: Modality = "text",
    one_tower: bool = True,
    ensemble: bool = False,
) -> str:
    """Return the card as Markdown, with metadata that the Hub understands.

    Args:
        provenance: `measured` (rows of a table; `intervals` in a row, column → (low, high), are those of its columns),
            `tested on` (what the rows were measured on; see `card_data`), and further facts as name → value.
        decision: The decision saved with the twin, if any.
        name: Name of the model's folder, or its id on the Hub.
        modality: What its inputs are.
        one_tower: Whether the folder itself is one that sentence-transformers opens without running code of ours.
        ensemble: Whether it is one of several twins.
    """
    inputs, example, *_ = _KINDS[modality]
    head = f"---\n{card_data(provenance, name, modality=modality).to_yaml()}\n---\n"
    made, a_twin = ("Ensemble", "Twin encoders") if ensemble else ("Twin", "A twin encoder")
    body = _HEAD.format(name=name, inputs=inputs, example=example, made=made, A_twin=a_twin)
    parts = [head + body + _OPENS.format(name=name) * (one_tower and not ensemble)]
    measured = provenance.get("measured")
    if measured:
        parts.append(f"## Measured\n\n{_table(measured)}\n{_told(tested_on(provenance))}")
    if decision is not None:
        parts.append(_decision_text(decision))
    facts = {k: v for k, v in provenance.items() if k not in ("measured", "tested on", "config", "identities")}
    if facts:
        parts.append(
            "## Training\n\n" + "\n".join(f"* {k.replace('_', ' ')}: {_cell(v)}" for k, v in facts.items()) + "\n"
        )
    return "\n".join(parts)


def card_data(provenance: Mapping[str, Any], name: str, *, modality: Modality = "text") -> Any:
    """Return the metadata of a card, a `huggingface_hub.ModelCardData`; `model-index` holds the last row measured.

    `tested on` of the provenance are arguments of `huggingface_hub.EvalResult` without their `dataset_`: name, type,
    split, args and so on. The interval of a metric stands among its `metric_args`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    *_, task, tags = _KINDS[modality]
    found: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": task,
        "tags": list(dict.fromkeys(["textsiam", "sentence-transformers", task, *tags])),
    }
    config = provenance.get("config") or {}
    trained = _on_hub((config.get("data") or {}).get("train"))
    base = _on_hub(provenance.get("model"))
    found |= {"datasets": [trained[0]]} if trained else {}
    found |= {"base_model": base[0]} if base else {}
    found |= {"widget": [_WIDGET]} if modality == "text" else {}
    last = (provenance.get("measured") or [{}])[-1]
    dataset = {f"dataset_{key}": value for key, value in tested_on(provenance).items()}
    results = [
        EvalResult(
            task_type=task, task_name="Duplicate detection", metric_type=_METRICS[column], metric_name=column,
            metric_value=float(value), metric_args=_interval(last, column) or None, **dataset,
        )
        for column, value in last.items()
        if column in _METRICS and isinstance(value, (int, float))
    ]  # fmt: skip
    if results:
        found |= {"metrics": [result.metric_type for result in results], "eval_results": results, "model_name": name}
    return ModelCardData(**found)


def tested_on(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a twin was measured on, as the Hub names it; of a twin of an older version, what is known of that."""
    said = provenance.get("tested on")
    facts = said if isinstance(said, Mapping) else {}
    config = (provenance.get("config") or {}).get("data") or {}
    place = _on_hub(config.get("test") or config.get("train"))
    known = {"type": "custom", "name": "a test split that training never saw", "split": "test"}
    if place is not None:
        known |= {name: part for name, part in zip(("type", "revision", "config"), place, strict=True) if part}
    return {**known, **({"name": said} if isinstance(said, str) else facts)}


def _interval(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the 95 % interval of a column as arguments of its metric; nothing where it has none."""
    bounds = (row.get("intervals") or {}).get(column)
    return {} if bounds is None else {"confidence": 0.95, "interval": [float(bound) for bound in bounds]}


def _table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table, with the interval of a value behind it."""
    columns = [column for column in measured[0] if column != "intervals"]

    def cell(row: Mapping[str, Any], column: str) -> str:
        known = _interval(row, column)
        return _cell(row[column]) + (f" ({'–'.join(map(_cell, known['interval']))})" if known else "")

    rows = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    rows += ["| " + " | ".join(cell(row, column) for column in columns) + " |" for row in measured]
    return "\n".join(rows) + (
        "\n\nIn parentheses: 95 % intervals." if any("intervals" in row for row in measured) else ""
    )


def _told(dataset: Mapping[str, Any]) -> str:
    """Say what was measured on."""
    facts = ", ".join(f"{key} {value}" for key, value in (dataset.get("args") or {}).items())
    return f"\nMeasured on {dataset['name']}" + (f" ({facts})" if facts else "") + ".\n"


def _on_hub(name: object) -> tuple[str, str | None, str | None] | None:
    """Return id, revision and config that a name in a config stands for on the Hub; None for what may be a file."""
    known = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    return known and (known[1], known[2], known[3])


def _decision_text(decision: Decision) -> str:
    holds = (
        f"The probabilities hold for a share of duplicates of {decision.prior:.3f};\n"
        "`twin.decision.with_prior(share)` restates them for another forum.\n"
        if decision.certificate is None
        else "Elsewhere its answers give probabilities, and certify nothing.\n"
    )
    proven = [] if decision.certificate is None else decision.certificate.sentences()
    promised = "".join(f"\n* {sentence}" for sentence in proven) + "\n" * bool(proven)
    return (
        f"## Decision\n\nDuplicate when the similarity is at least {decision.threshold:.4f} (rule: {decision.rule}),\n"
        f"{decision.learned_from}.\n{holds}{promised}"
    )


def _cell(value: object) -> str:
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"
    return text.replace("|", "\\|").replace("\n", " ")
