"""Record what the code does, and compare two records: a change of the house must change nothing that it says.

    python scripts/record_behaviour.py record OUT [--code FOLDER] [--only NAME ...]
    python scripts/record_behaviour.py compare OLD NEW

`record` runs the code of a checkout on what the package brings, on a CPU with one thread for each process, and writes
`OUT/behaviour.json`, and the vectors as `OUT/*.npy`. `compare` says of each item whether it is identical, leaving times
aside and names that changed (`RENAMED`), and fails where one differs. Both records must come from one machine: sums of
floats are not the same on other processors. OLD may be a `digests.json` too, the short form beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parents[1]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"

RENAMED = {
    "verifier": "reranker",
    "wording": "lexical_features",
    "accumulation": "gradient_accumulation_steps",
    "average": "ema_decay",
    "runs": "seeds",
    "leave_out": "cross_fit",
}
"""Keys that have another name in a newer record, in any place of a path."""

TIMES = re.compile(r"second|_time$|^time|per_second|duration")
"""Keys that no two runs agree about."""

_VECTORS = """\
import sys
import numpy as np
from textsiam import Twin, read_pairs
twin, texts = Twin.from_pretrained(sys.argv[1], device="cpu"), read_pairs("sample:forum").texts[:2000]
for precision in ("fp32", "auto"):
    np.save(f"{sys.argv[2]}/vectors_{precision}.npy", twin.encode(texts, precision=precision))
"""


class Code:
    """A checkout that is run, each time in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def said(self, *arguments: str) -> str:
        """Run Python with arguments, in a folder of no checkout; return what it wrote to standard output."""
        with tempfile.TemporaryDirectory() as elsewhere:
            done = subprocess.run(
                [sys.executable, *arguments], env=self.environment, cwd=elsewhere, text=True, stdout=subprocess.PIPE
            )
        if done.returncode:
            raise SystemExit(f"error: {' '.join(arguments[:4])} … ended with status {done.returncode}")
        return done.stdout

    def trained(self, *launcher: str) -> dict[str, Any]:
        """Train 60 steps of the quickstart; return its history and a digest of its weights."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            script = str(self.folder / "scripts" / "train.py")
            self.said(*launcher, script, "--output", str(output), "--training.max_steps", "60")
            history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
            return {"history": history, "weights": weights_digest(output / "model")}


def one_process(code: Code, out: Path) -> dict[str, Any]:
    """Train on one process."""
    return code.trained()


def two_processes(code: Code, out: Path) -> dict[str, Any]:
    """Train on two processes of one CPU."""
    config = str(code.folder / "configs" / "accelerate" / "ddp_cpu.yaml")
    return code.trained("-m", "accelerate.commands.launch", "--config_file", config)


def vectors(code: Code, out: Path) -> dict[str, Any]:
    """Encode 2,000 texts of the sample, in fp32 and in the number format that the processor has."""
    code.said("-c", _VECTORS, MODEL, str(out.resolve()))
    return {precision: array_digest(np.load(out / f"vectors_{precision}.npy")) for precision in ("fp32", "auto")}


def flag(code: Code, out: Path) -> dict[str, Any]:
    """Find the duplicates of the sample."""
    return json.loads(code.said("-m", "textsiam.cli", "flag", MODEL, "sample:forum", "--json"))


def evaluation(code: Code, out: Path) -> dict[str, Any]:
    """Measure the packaged model on the pairs of the sample."""
    return json.loads(code.said("-m", "textsiam.cli", "evaluate", MODEL, "sample:forum", "--json"))


ITEMS: dict[str, Callable[[Code, Path], dict[str, Any]]] = {
    "vectors": vectors,
    "flag": flag,
    "evaluation": evaluation,
    "one_process": one_process,
    "two_processes": two_processes,
}


def record(out: Path, folder: Path, only: list[str] | None) -> None:
    """Run the items, and write them into `out`; items that are there and not named stay."""
    code, file = Code(folder), out / "behaviour.json"
    out.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text(encoding="utf-8"))["items"] if file.exists() else {}
    used = code.said("-c", "import textsiam; print(textsiam.__file__)").strip()
    if not Path(used).is_relative_to(code.folder):
        raise SystemExit(f"error: {code.folder} holds no package textsiam: {used} was imported")
    for name in only or ITEMS:
        print(f"recording {name}", file=sys.stderr)
        found[name] = ITEMS[name](code, out)
        written = json.dumps({"machine": machine(), "items": found}, indent=1, ensure_ascii=False)
        file.write_text(written + "\n", encoding="utf-8")
    short = json.dumps({"machine": machine(), "digests": digests(found)}, indent=1)
    (out / "digests.json").write_text(short + "\n", encoding="utf-8")


def digests(items: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each part of the items, by its name in the table."""
    parts = {f"{name}: {part}": value for name, parts in items.items() for part, value in parts.items()}
    return {
        name: hashlib.sha256(json.dumps(sorted(leaves(value))).encode()).hexdigest() for name, value in parts.items()
    }


def compare_digests(old: Path, new: Path) -> bool:
    """Print which parts have the digests of a file; return whether all have."""
    before = json.loads(old.read_text(encoding="utf-8"))
    after = json.loads((new / "behaviour.json").read_text(encoding="utf-8"))
    if before["machine"] != after["machine"]:
        print(f"warning: recorded on {before['machine']} and on {after['machine']}")
    one, other = before["digests"], digests(after["items"])
    for name in {**one, **other}:
        print(f"{name:36}{'identical' if one.get(name) == other.get(name) else 'differs'}")
    return one == other


def compare(old: Path, new: Path) -> bool:
    """Print what is identical and what differs; return whether all is identical."""
    if old.is_file():
        return compare_digests(old, new)
    before, after = (json.loads((folder / "behaviour.json").read_text(encoding="utf-8")) for folder in (old, new))
    if before["machine"] != after["machine"]:
        print(f"warning: recorded on {before['machine']} and on {after['machine']}")
    alike = True
    for name in sorted({*before["items"], *after["items"]}, key=[*ITEMS].index):
        for part in sorted({*before["items"].get(name, {}), *after["items"].get(name, {})}):
            there = [part in record["items"].get(name, {}) for record in (before, after)]
            if not all(there):
                alike = False
                print(f"{f'{name}: {part}':36}differs: recorded in {old if there[0] else new} only")
                continue
            one, other = (dict(leaves(record["items"][name][part])) for record in (before, after))
            different = [path for path in {**one, **other} if one.get(path, "nothing") != other.get(path, "nothing")]
            alike &= not different
            print(f"{f'{name}: {part}':36}{difference(old, new, name, part, different, one, other)}")
    return alike


def difference(
    old: Path, new: Path, name: str, part: str, paths: list[str], one: dict[str, Any], other: dict[str, Any]
) -> str:
    """Say in one line how many of the values differ, and which is the first."""
    if not paths:
        return f"identical ({len(one)} values)"
    if name == "vectors":
        u, v = (np.load(folder / f"vectors_{part}.npy") for folder in (old, new))
        return f"differs by up to {np.abs(u - v).max():.3g}" if u.shape == v.shape else "differs in shape"
    first = paths[0]
    return (
        f"differs in {len(paths)} of {len(one)}; {first}: {one.get(first, 'nothing')} -> {other.get(first, 'nothing')}"
    )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a tree by its path, names as they are now and without times."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not TIMES.search(key):
                yield from leaves(below, f"{path}.{RENAMED.get(key, key)}")
    elif isinstance(value, list):
        yield f"{path}.length", len(value)
        for place, below in enumerate(value):
            yield from leaves(below, f"{path}.{place}")
    else:
        yield path, value


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array: its type, shape and bytes."""
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def weights_digest(model: Path) -> str:
    """Return the SHA-256 of the weights in a folder, whatever the order in which files hold them."""
    digest = hashlib.sha256()
    for file in sorted(model.rglob("model.safetensors")):
        for name, array in sorted(load_file(file).items()):
            digest.update(f"{name} {array_digest(array)}\n".encode())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Return what floats depend on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE))
        known = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile"} & set(facts.get("flags", "").split())
        number = f"family {facts.get('cpu family')} model {facts.get('model')}"
        cpu = f"{facts.get('model name', cpu)}, {number}, {' '.join(sorted(known))}"
    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "scikit-learn")
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()} | {n: version(n) for n in names}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the code, and write what it says into a folder")
    recording.add_argument("out", type=Path)
    recording.add_argument("--code", type=Path, default=HERE, help="the checkout that is run")
    recording.add_argument("--only", nargs="+", choices=ITEMS, help="these items; the others stay as they are")
    comparing = commands.add_parser("compare", help="say what differs between two records")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.out, given.code, given.only)
    else:
        sys.exit(0 if compare(given.old, given.new) else 1)


if __name__ == "__main__":
    main()
