"""The model card: what the twin is, how it was trained, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsiam.decision.decision import Decision

_HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [textsiam, sentence-transformers, sentence-similarity, duplicate-questions]
---

# {name}

A twin encoder made with textsiam. It maps texts to vectors whose cosine says how alike they are, and knows from
which similarity on two texts count as duplicates.

```python
from textsiam import Twin

twin = Twin.from_pretrained("{name}")
twin.compare("How old are you?", "What is your age?")
```

`SentenceTransformer("{name}")` opens it too, without the decision.
"""


def model_card(provenance: Mapping[str, Any], decision: Decision | None, name: str) -> str:
    """Return the card as Markdown.

    Args:
        provenance: `measured` (rows of a table), and further facts as name → value.
        decision: The decision saved with the twin, if any.
        name: Name of the model's folder.
    """
    parts = [_HEAD.format(name=name)]
    measured = provenance.get("measured")
    if measured:
        columns = list(measured[0])
        rows = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        rows += ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in measured]
        parts.append("## Measured\n\n" + "\n".join(rows) + "\n")
    if decision is not None:
        parts.append(_decision_text(decision))
    facts = {k: v for k, v in provenance.items() if k not in ("measured", "config", "identities")}
    if facts:
        parts.append(
            "## Training\n\n" + "\n".join(f"* {k.replace('_', ' ')}: {_cell(v)}" for k, v in facts.items()) + "\n"
        )
    return "\n".join(parts)


def _decision_text(decision: Decision) -> str:
    holds = (
        f"The probabilities hold for a share of duplicates of {decision.prior:.3f};\n"
        "`twin.decision.with_prior(share)` restates them for another forum.\n"
        if decision.certificate is None
        else "Elsewhere its answers give probabilities, and certify nothing.\n"
    )
    return (
        f"## Decision\n\nDuplicate when the similarity is at least {decision.threshold:.4f} (rule: {decision.rule}),\n"
        f"{decision.learned_from}.\n{holds}"
    )


def _cell(value: object) -> str:
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"
    return text.replace("|", "\\|").replace("\n", " ")
