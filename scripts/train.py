"""Train a twin: `accelerate launch scripts/train.py [CONFIG] [--key value ...]`, by default configs/quickstart.yaml."""

from __future__ import annotations

import sys
from pathlib import Path

from textsiam.cli import main, run_training

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"

if __name__ == "__main__":
    given = sys.argv[1:]
    main(lambda: run_training(given if given and not given[0].startswith("-") else [str(QUICKSTART), *given]))
