"""What adapters save on a backbone too large to train whole: memory and processor time of a step, with and without.

    python benchmarks/lora.py run                     # BERT-large's shape, random weights; a process for each method
    python benchmarks/lora.py run --layers 2 --width 128
    python benchmarks/lora.py table

Both train on the same pairs. A step is timed by the processor time of a longer run less that of one of two steps, since
the machine may be shared; memory is the peak of the whole process, torch and the copy that is saved included. What was
trained is saved, opened again and compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from encode import child_of
from quality import finished, keep, stored

RESULTS = Path(__file__).parent / "results" / "lora.json"
METHODS = ("whole", "lora")
BATCH_SIZE, TARGETS = 16, ["query", "value"]


def build(folder, layers, width):
    """Write a BERT of this shape with random weights and MiniLM's tokenizer as a SentenceTransformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    from textsiam.inference.encoders import text_encoder

    tokenizer = text_encoder().tokenizer
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": max(width // 64, 1)}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=4 * width, **shape)
    BertModel(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    backbone = Transformer(str(folder / "backbone"), max_seq_length=64)
    SentenceTransformer(modules=[backbone, Pooling(width)]).save(str(folder / "model"))


def learn(twin, steps):
    """Train for so many steps; returns the processor time in seconds."""
    from textsiam import read_pairs
    from textsiam.training.loop import train
    from textsiam.training.losses import InfoNCELoss
    from textsiam.training.losses.objective import Objective
    from textsiam.training.settings import Settings

    pairs = read_pairs("sample:forum")
    pairs = pairs.select(range(min(len(pairs), BATCH_SIZE * steps)))
    rate = 1e-4 if twin.lora else 1e-5
    settings = Settings(max_steps=steps, batch_size=BATCH_SIZE, learning_rate=rate, tracker="none")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as output:
        finished(train(twin, pairs, Objective({"c": InfoNCELoss()}), output=output, settings=settings, quiet=True))
    return time.process_time() - started


def one(method, folder, steps):
    """Return what a method takes, and whether what it saves opens as it was."""
    import numpy as np

    from textsiam import Twin
    from textsiam.inference.lora import LoraConfig

    twin = Twin.from_pretrained(folder / "model", device="cpu")
    texts = ["How old are you?", "What is your age?", "Which drywall anchors hold a mirror?"]
    numbers, before = sum(p.numel() for p in twin.parameters()), twin.encode(texts, precision="fp32")
    if method == "lora":
        twin.lora = LoraConfig(rank=8, target_modules=TARGETS)
    short = learn(twin, 2)
    seconds = (learn(twin, 2 + steps) - short) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    vectors = twin.encode(texts, precision="fp32")
    twin.save_pretrained(folder / method)
    again = Twin.from_pretrained(folder / method, device="cpu").encode(texts, precision="fp32")
    return {
        "parameters": numbers,
        "cpu_seconds_per_step": seconds,
        "peak_mib": peak,
        "learned": bool((vectors != before).any()),
        "opens_equal": bool(np.array_equal(vectors, again)),
    }


def run(layers, width, steps):
    """Measure both methods; adds a row."""
    row = {"layers": layers, "width": width, "steps": steps, "batch_size": BATCH_SIZE, "rank": 8, "targets": TARGETS}
    with tempfile.TemporaryDirectory() as made:
        build(Path(made), layers, width)
        for method in METHODS:
            row[method] = child_of(__file__, "one", method, made, "--steps", steps)
            print(method, json.dumps(row[method]), flush=True)
    keep(RESULTS, [row])


def table():
    """Print the rows as Markdown."""
    print("| backbone | trained | processor time of a step, s | peak memory, MiB | opens equal |\n|" + " --- |" * 5)
    for row in stored(RESULTS)["rows"]:
        shape = f"{row['layers']} layers of {row['width']}, {row['whole']['parameters'] / 1e6:.0f} M numbers"
        for method in METHODS:
            cell = row[method]
            print(f"| {shape} | {method} | {cell['cpu_seconds_per_step']:.1f} | {cell['peak_mib']:,.0f} | "
                  f"{'yes' if cell['opens_equal'] else 'no'} |")  # fmt: skip


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner, part = commands.add_parser("run"), commands.add_parser("one")
    part.add_argument("method", choices=METHODS)
    part.add_argument("folder", type=Path)
    runner.add_argument("--layers", type=int, default=24)
    runner.add_argument("--width", type=int, default=1024)
    for command in (runner, part):
        command.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    if given.command == "table":
        table()
    elif given.command == "one":
        print(json.dumps(one(given.method, given.folder, given.steps)))
    else:
        run(given.layers, given.width, given.steps)


if __name__ == "__main__":
    main()
