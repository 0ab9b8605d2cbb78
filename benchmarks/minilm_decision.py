"""Learn the decision that the untrained all-MiniLM-L6-v2 comes with: textsiam/models/minilm_decision.json.

    python benchmarks/minilm_decision.py

It is calibrated on Quora pairs (the calibration split of `quality.py`) and stated for the share of duplicates among
the public Quora pairs. Scores, labels and what the texts looked like (lengths, shares of the most
frequent words) are figures; no text is stored.
"""

from __future__ import annotations

import json
from pathlib import Path

from quality import PRIOR, splits

from textsiam.inference.encoders import text_encoder
from textsiam.models.twin import Twin

TARGET = Path(__file__).parents[1] / "textsiam/models/minilm_decision.json"


def main() -> None:
    """Calibrate and write."""
    _, _, calibration, _ = splits()
    twin = Twin(text_encoder()).calibrate(calibration, rule="f1", prior=PRIOR)
    decision = twin.require_decision()
    tensors = {name: [float(f"{x:.7g}") for x in array.tolist()] for name, array in decision.tensors().items()}
    tensors["labels"] = decision.labels.tolist()
    stored = {"metadata": decision.metadata(), "tensors": tensors}
    TARGET.write_text(json.dumps(stored, separators=(",", ":")) + "\n")
    print(f"{TARGET}: threshold {decision.threshold:.4f} from {len(decision.labels)} pairs")


if __name__ == "__main__":
    main()
