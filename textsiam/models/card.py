"""The model card: what the twin is, how it was trained, and what was measured, for people and for the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_KINDS = {True: ("texts", '"How old are you?", "What is your age?"'), False: ("images", '"a.png", "b.png"')}
_WIDGET = {
    "source_sentence": "How old are you?",
    "sentences": ["What is your age?", "How are you?", "How tall are you?"],
}
# Columns of the table of measurements, as the Hub calls them.
_METRICS = {"AP": "average_precision", "accuracy": "accuracy", "F1": "f1", "calibration error": "calibration_error"}
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*?)(?<!\.tsv)(?<!\.csv)(?<!\.gz)(?<!\.jsonl)(?<!\.parquet)(:[\w.-]+)?")


def model_card(
    provenance: Mapping[str, Any],
    decision: Decision | None,
    name: str,
    *,
    texts: bool = True,
    one_tower: bool = True,
    ensemble: bool = False,
) -> str:
    """Return the card as Markdown, with metadata that the Hub understands.

    Args:
        provenance: `measured` (rows of a table), and further facts as name → value.
        decision: The decision saved with the twin, if any.
        name: Name of the model's folder, or its id on the Hub.
        texts: Whether its inputs are texts, or else images.
        one_tower: Whether the folder itself is one that sentence-transformers opens.
        ensemble: Whether it is one of several twins.
    """
    inputs, example = _KINDS[texts]
    head = f"---\n{card_data(provenance, name, texts=texts).to_yaml()}\n---\n"
    made, a_twin = ("Ensemble", "Twin encoders") if ensemble else ("Twin", "A twin encoder")
    body = _HEAD.format(name=name, inputs=inputs, example=example, made=made, A_twin=a_twin)
    parts = [head + body + _OPENS.format(name=name) * (one_tower and not ensemble)]
    measured = provenance.get("measured")
    if measured:
        columns = list(measured[0])
        rows = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        rows += ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in measured]
        parts.append("## Measured\n\n" + "\n".join(rows) + "\n")
    if decision is not None:
        parts.append(_decision_text(decision))
    facts = {k: v for k, v in provenance.items() if k not in ("measured", "tested on", "config", "identities")}
    if facts:
        parts.append(
            "## Training\n\n" + "\n".join(f"* {k.replace('_', ' ')}: {_cell(v)}" for k, v in facts.items()) + "\n"
        )
    return "\n".join(parts)


def card_data(provenance: Mapping[str, Any], name: str, *, texts: bool = True) -> Any:
    """Return the metadata of a card, a `huggingface_hub.ModelCardData`; `model-index` holds the last row measured."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "sentence-similarity" if texts else "image-feature-extraction"
    found: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": task,
        "tags": ["textsiam", "sentence-transformers", task, "duplicate-questions" if texts else "image-similarity"],
    }
    config = provenance.get("config") or {}
    trained = _hub_id((config.get("data") or {}).get("train"))
    base = _hub_id(provenance.get("model"))
    found |= {"datasets": [trained]} if trained else {}
    found |= {"base_model": base} if base else {}
    found |= {"widget": [_WIDGET]} if texts else {}
    measured = provenance.get("measured") or []
    tested = str(provenance.get("tested on") or "a test split that training never saw")
    results = [
        EvalResult(
            task_type=task, task_name="Duplicate detection", dataset_type=trained or "custom", dataset_name=tested,
            dataset_split="test", metric_type=_METRICS[column], metric_name=column, metric_value=float(value),
        )
        for column, value in (measured[-1].items() if measured else ())
        if column in _METRICS and isinstance(value, (int, float))
    ]  # fmt: skip
    if results:
        found |= {"metrics": [result.metric_type for result in results], "eval_results": results, "model_name": name}
    return ModelCardData(**found)


def _hub_id(name: object) -> str | None:
    """Return the id on the Hub that a name in a config stands for; None for what may be a file."""
    known = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    return known and known[1]


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
