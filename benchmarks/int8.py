"""The exports to int8 beside the twin they were made of: speed in alternating rounds of one process, and what is lost.

`python benchmarks/encode.py int8` runs it. Ranges of activations come from training pairs, average precision from test
pairs.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from quality import DATA

FORMATS = ("openvino", "torch")


def exported(graph_format, folder, pairs):
    """Export MiniLM in int8, whatever it loses, and open the export; None where that cannot be done here."""
    from textsiam.inference.encoders import MINILM, ModelError
    from textsiam.models.export import export_twin
    from textsiam.models.twin import Twin

    twin = Twin.from_pretrained(MINILM, device="cpu")
    try:
        export_twin(twin, folder, pairs, graph_format=graph_format, int8=True, max_points_lost=100)
    except ModelError as error:
        print(f"{graph_format}: {error}", flush=True)
        return None
    return Twin.from_pretrained(folder, device="cpu")


def loss(twin, fast, pairs, count):
    """Return how far the vectors of an export are from those in fp32, and the average precision lost on test pairs."""
    import numpy as np

    from textsiam.models.export import compare_export

    rows = np.random.default_rng(0).permutation(len(pairs.labels))[:count]
    lefts, rights = ([pairs.texts[int(i)] for i in side[rows]] for side in (pairs.left, pairs.right))
    report = compare_export(twin, fast, lefts, rights, np.asarray(pairs.labels)[rows])
    return {
        "pairs": report.pairs, "cosine_min": report.cosine_min, "cosine_mean": report.cosine_mean,
        "average_precision": report.average_precision, "points_lost": report.points_lost,
    }  # fmt: skip


def run_int8(texts, rounds, pairs, spread):
    """Compare the exports with the twin in torch; returns one row of the results."""
    from textsiam.data.pairs import read_pairs
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin

    train, test = (read_pairs(DATA / f"{name}.tsv.gz") for name in ("train", "dev"))
    plain = Twin.from_pretrained(MINILM, device="cpu")
    twins = {"textsiam": plain}
    with tempfile.TemporaryDirectory() as scratch:
        for graph_format in FORMATS:
            fast = exported(graph_format, Path(scratch) / graph_format, train)
            twins |= {} if fast is None else {f"{graph_format} int8": fast}
        seen = {name: [] for name in twins}
        for turn in range(rounds + 1):  # the first one warms up
            for name, twin in twins.items():
                started = time.perf_counter()
                twin.encode(texts)
                if turn:
                    seen[name].append(len(texts) / (time.perf_counter() - started))
                    print(f"{name}: {seen[name][-1]:.0f} texts/s", flush=True)
        lost = {name: loss(plain, twin, test, pairs) for name, twin in twins.items() if twin is not plain}
    ours = seen["textsiam"]
    return {
        "texts": len(texts), "cores": os.cpu_count(), "rounds": rounds,
        "texts_per_second": {name: spread(rates) for name, rates in seen.items()},
        "ratio_to_textsiam": {
            name: spread([a / b for a, b in zip(seen[name], ours, strict=True)]) for name in lost
        },
        "lost": lost,
    }  # fmt: skip
