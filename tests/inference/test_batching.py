from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from textsiam.inference import batching as inference
from textsiam.inference.batching import encode, encode_stream
from textsiam.inference.fast import fast_tower
from textsiam.inference.fast.fast_tower import FastTower, Weights, fast_dtype
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.inference.tokens import tokenise
from textsiam.models.twin import Twin

TOLERANCE = 1e-5  # what `encode` promises in fp32


class Spy(FastTower):
    """Counts what reaches the backbone, and runs out of memory above a size."""

    def __init__(
        self, tower: SentenceTransformer, *, room: int | None = None, error: type[BaseException] = MemoryError
    ) -> None:
        super().__init__(tower, torch.float32)
        self.shapes: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []
        self.room, self.error = room, error

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        rows, longest = features["input_ids"].shape
        if self.room is not None and rows * longest > self.room:
            self.refused.append((rows, longest))
            raise self.error("no memory left")
        self.shapes.append((rows, longest))
        return super().__call__(features)


def plain(tower: SentenceTransformer) -> FastTower:
    return FastTower(tower, torch.float32)


def cosines(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)


# --- equal to sentence-transformers ---------------------------------------------------------------


def test_equals_the_tower(tower: SentenceTransformer, sentences: list[str]) -> None:
    texts = [*sentences, "", "  ", "Ünïcode ☃", sentences[3]]
    found = encode(plain(tower), texts)
    assert found.dtype == np.float32
    assert found.shape == (len(texts), 32)
    np.testing.assert_allclose(found, tower.encode(texts), atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=TOLERANCE)


def test_equals_the_tower_with_a_default_prompt(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    before = encode(plain(fresh_tower), sentences)
    fresh_tower.prompts, fresh_tower.default_prompt_name = {"ask": "how do I "}, "ask"
    found = encode(plain(fresh_tower), sentences)
    np.testing.assert_allclose(found, fresh_tower.encode(sentences), atol=TOLERANCE)
    assert np.abs(found - before).max() > 0.01


def test_equals_the_tower_with_truncation(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    before = encode(plain(fresh_tower), sentences)
    fresh_tower.max_seq_length = 5
    found = encode(plain(fresh_tower), sentences)
    np.testing.assert_allclose(found, fresh_tower.encode(sentences), atol=TOLERANCE)
    assert np.abs(found - before).max() > 0.01


def test_equals_the_tower_with_a_projection(sentences: list[str]) -> None:
    tower = scratch_text_encoder(sentences, vocabulary=300, hidden=32, dim=12, max_tokens=32, device="cpu").eval()
    found = encode(plain(tower), sentences)
    assert found.shape == (48, 12)
    np.testing.assert_allclose(found, tower.encode(sentences), atol=TOLERANCE)


def test_equals_minilm(minilm: SentenceTransformer, sentences: list[str]) -> None:
    np.testing.assert_allclose(encode(plain(minilm), sentences), minilm.encode(sentences), atol=TOLERANCE)


# --- each distinct text once ----------------------------------------------------------------------


def test_distinct_texts_are_tokenised_and_encoded_once(
    tower: SentenceTransformer, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[str] = []

    def spy(tower: SentenceTransformer, texts: list[str], **options: object) -> object:
        tokenised.extend(texts)
        return tokenise(tower, texts, **options)

    monkeypatch.setattr("textsiam.inference.inputs.tokenise", spy)
    fast = Spy(tower)
    texts = sentences * 4
    found = encode(fast, texts)
    assert sum(rows for rows, _ in fast.shapes) == 48
    assert tokenised == sentences
    repeats = found.reshape(4, 48, -1)
    for again in repeats[1:]:
        np.testing.assert_array_equal(again, repeats[0])


def test_batches_stay_within_the_token_budget(tower: SentenceTransformer, sentences: list[str]) -> None:
    fast = Spy(tower)
    encode(fast, sentences, token_budget=64)
    assert len(fast.shapes) > 5
    assert max(rows * longest for rows, longest in fast.shapes) <= 64
    longest = [length for _, length in fast.shapes]
    assert longest == sorted(longest, reverse=True)


def test_vector_of_a_text_hardly_depends_on_its_company(tower: SentenceTransformer, sentences: list[str]) -> None:
    together = encode(plain(tower), [*sentences, "word " * 30], token_budget=10_000)
    for i in (0, 17, 47):
        np.testing.assert_allclose(encode(plain(tower), [sentences[i]])[0], together[i], atol=TOLERANCE)
    for budget in (1, 50, 200):
        np.testing.assert_allclose(encode(plain(tower), sentences, token_budget=budget), together[:-1], atol=TOLERANCE)


def test_nothing_to_encode(tower: SentenceTransformer) -> None:
    found = encode(plain(tower), [])
    assert found.shape == (0, 32)
    assert found.dtype == np.float32


def test_progress_counts_distinct_texts(tower: SentenceTransformer, sentences: list[str]) -> None:
    calls: list[tuple[int, int]] = []
    encode(plain(tower), sentences * 2, token_budget=100, progress=lambda *c: calls.append(c))
    done = [d for d, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == 48
    assert {total for _, total in calls} == {48}


def test_mode_of_the_tower_is_put_back(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    expected = encode(plain(fresh_tower), sentences)
    fresh_tower.train()
    np.testing.assert_array_equal(encode(plain(fresh_tower), sentences), expected)  # no dropout
    assert fresh_tower.training
    with pytest.raises(MemoryError):
        encode(Spy(fresh_tower, room=0), sentences)
    assert fresh_tower.training


@pytest.mark.parametrize(("wrong", "name"), [(None, "NoneType"), (3, "int"), (["a"], "list"), (b"a", "bytes")])
def test_only_texts_are_encoded(tower: SentenceTransformer, wrong: object, name: str) -> None:
    with pytest.raises(TypeError, match=f"^input 1 is {name}, expected str$"):
        encode(plain(tower), ["fine", wrong])


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_budget_is_halved_until_it_fits(
    tower: SentenceTransformer, sentences: list[str], error: type[BaseException]
) -> None:
    expected = encode(plain(tower), sentences)
    fast = Spy(tower, room=70, error=error)
    calls: list[tuple[int, int]] = []
    found = encode(fast, sentences * 2, token_budget=512, progress=lambda *c: calls.append(c))
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), atol=TOLERANCE)
    assert sum(rows for rows, _ in fast.shapes) == 48  # nothing twice, nothing left out
    assert calls[-1] == (48, 48)
    # 512, 256 and 128 do not fit, 64 does: the budget stays there, later batches do not fail again.
    assert len(fast.refused) == 3
    assert max(rows * longest for rows, longest in fast.shapes) <= 64


def test_one_text_that_does_not_fit_is_an_error(tower: SentenceTransformer) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        encode(Spy(tower, room=5, error=torch.OutOfMemoryError), ["why", "why is the sky blue and the sea green"])


# --- several workers ------------------------------------------------------------------------------


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Three cores, whatever the machine has; small jobs are shared out too."""
    monkeypatch.setattr(inference, "_SMALL_JOB", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_workers_give_the_vectors_of_one(
    tower: SentenceTransformer, sentences: list[str], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[int] = []
    threads: set[int] = set()
    both = threading.Event()

    class Noting(FastTower):
        def __call__(self, features: dict[str, Tensor]) -> Tensor:
            alone.append(torch.get_num_threads())
            threads.add(threading.get_ident())
            if len(threads) > 1:
                both.set()
            if len(threads) < 2:
                both.wait(30)  # the first batch waits until another worker has one, even where there is one core
            return super().__call__(features)

    calls: list[tuple[int, int]] = []
    found = encode(Noting(tower, torch.float32), sentences, token_budget=64, progress=lambda *c: calls.append(c))
    np.testing.assert_allclose(found, tower.encode(sentences), atol=TOLERANCE)
    assert len(threads) > 1
    assert set(alone) == {1}
    assert torch.get_num_threads() == cores
    assert [d for d, _ in calls] == sorted({d for d, _ in calls})
    assert calls[-1] == (48, 48)


def test_several_devices_share_the_work(twin: Twin, sentences: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_SMALL_JOB", 16)
    monkeypatch.setattr(inference, "_GRAIN", 16)  # batches for all workers, however many cores there are
    expected = twin.encode(sentences, precision="fp32")
    both, used = threading.Event(), set()
    call = FastTower.__call__

    def noting(self: FastTower, features: dict[str, Tensor]) -> Tensor:
        used.add(self)
        if len(used) > 1:
            both.set()
        both.wait(30)  # the first device waits until the other one has work too
        return call(self, features)

    monkeypatch.setattr(FastTower, "__call__", noting)
    found = twin.encode(sentences, precision="fp32", devices=["cpu", "cpu"])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert len(used) == 2
    with torch.no_grad():
        next(twin.parameters()).mul_(-1)
    again = twin.encode(sentences, precision="fp32", devices=["cpu", "cpu"])
    assert np.abs(again - found).max() > 0.01
    with pytest.raises(RuntimeError, match="nonsense"):
        twin.encode(sentences, devices=["nonsense"])
    with pytest.raises(ValueError, match="devices is empty"):
        twin.encode(sentences, devices=[])


def test_workers_halve_the_budget_together(tower: SentenceTransformer, sentences: list[str], cores: int) -> None:
    fast = Spy(tower, room=40)
    found = encode(fast, sentences, token_budget=512)
    np.testing.assert_allclose(found, tower.encode(sentences), atol=TOLERANCE)
    assert sum(rows for rows, _ in fast.shapes) == 48
    assert len(fast.refused) < 4 * cores


def test_the_error_of_a_worker_stops_the_others(tower: SentenceTransformer, sentences: list[str], cores: int) -> None:
    fast = Spy(tower, room=12, error=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="no memory left"):
        encode(fast, sentences * 2, token_budget=16)
    assert torch.get_num_threads() == cores


def test_the_best_budget_is_measured_once(
    tower: SentenceTransformer, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Spy(tower)
    encode(fast, sentences)
    assert sum(rows for rows, _ in fast.shapes) == 48  # no measurement for a small job
    monkeypatch.setattr(inference, "_LARGE_JOB", 100)
    monkeypatch.setattr(fast_tower, "_BUDGETS", {"cpu": (64, 32)})
    fast.shapes.clear()
    encode(fast, sentences)
    measured = fast.shapes[:6]
    assert measured == [(4, 16)] * 3 + [(2, 16)] * 3
    assert fast.best_budget in (32, 64)
    fast.shapes.clear()
    encode(fast, sentences)
    assert sum(rows for rows, _ in fast.shapes) == 48


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 48, 1000])
def test_a_stream_gives_the_vectors_of_the_list(tower: SentenceTransformer, sentences: list[str], block: int) -> None:
    texts = [*sentences, *sentences[:20]]
    blocks = list(encode_stream(plain(tower), iter(texts), block=block))
    assert [len(b) for b in blocks[:-1]] == [block] * (len(blocks) - 1)
    np.testing.assert_allclose(np.concatenate(blocks), encode(plain(tower), texts), atol=TOLERANCE)


def test_a_stream_reads_no_more_than_two_blocks_ahead(tower: SentenceTransformer) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"question {read}"

    stream = encode_stream(plain(tower), endless(), block=5)
    for done in range(1, 4):
        assert next(stream).shape == (5, 32)
        assert read <= 5 * (done + 1)
    stream.close()


def test_blocks_are_encoded_once_each(
    tower: SentenceTransformer, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BLOCK", 20)
    fast = Spy(tower)
    calls: list[tuple[int, int]] = []
    found = encode(fast, sentences * 2, progress=lambda *c: calls.append(c))
    assert sum(rows for rows, _ in fast.shapes) == 48
    assert calls[-1] == (48, 48)
    np.testing.assert_allclose(found, np.tile(encode(plain(tower), sentences), (2, 1)), atol=TOLERANCE)


def test_a_stream_of_something_else_is_an_error(tower: SentenceTransformer) -> None:
    assert list(encode_stream(plain(tower), [])) == []
    stream = encode_stream(plain(tower), ["a", "b", "c", 4, "d"], block=2)  # pyright: ignore
    with pytest.raises(TypeError, match=r"^input 3 is int, expected str$"):
        list(stream)
    with pytest.raises(ValueError, match="block must be >= 1, got 0"):
        next(encode_stream(plain(tower), ["a"], block=0))


# --- number formats -------------------------------------------------------------------------------


def test_fast_dtype() -> None:
    cpu = torch.device("cpu")
    assert fast_dtype(cpu, "fp32") == torch.float32
    assert fast_dtype(cpu, "bf16") == torch.bfloat16
    assert fast_dtype(cpu) in (torch.float32, torch.bfloat16)
    assert fast_dtype(torch.device("meta")) == torch.float32
    with pytest.raises(ValueError, match="precision must be 'auto', 'fp32' or 'bf16', got 'fp8'"):
        fast_dtype(cpu, "fp8")


def test_auto_is_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert fast_dtype(torch.device("cpu")) == (torch.bfloat16 if native else torch.float32)


def test_bf16_keeps_the_direction_of_minilm(minilm: SentenceTransformer, sentences: list[str]) -> None:
    exact = encode(plain(minilm), sentences)
    found = encode(FastTower(minilm, torch.bfloat16), sentences)
    assert np.abs(found - exact).max() > TOLERANCE  # it is another format indeed
    assert cosines(found, exact).min() >= 0.9999  # the bound that `fast_dtype` states
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=TOLERANCE)  # normalised in fp32


def test_bf16_keeps_the_direction_of_a_tower_from_scratch(tower: SentenceTransformer, sentences: list[str]) -> None:
    # 0.999 and not 0.9999: over 32 random dimensions less of the rounding averages out.
    found = encode(FastTower(tower, torch.bfloat16), sentences * 2)
    assert cosines(found[:48], encode(plain(tower), sentences)).min() >= 0.999
    np.testing.assert_array_equal(found[:48], found[48:])


def test_bf16_copy_leaves_the_tower_alone(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    before = copy.deepcopy(fresh_tower.state_dict())
    encode(FastTower(fresh_tower, torch.bfloat16), sentences)
    for name, weight in fresh_tower.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("how", ["value", "storage", "parameter", "module", "buffer"])
def test_weights_notice_every_change(fresh_tower: SentenceTransformer, how: str) -> None:
    dense = nn.Linear(8, 80)
    dense.weight = nn.Parameter(torch.randn(8, 80).T)  # its first values in memory are no row
    dense.register_buffer("seen", torch.zeros(()))
    fresh_tower.dense, fresh_tower.twice = dense, dense
    weights = Weights(fresh_tower)
    assert not weights.changed
    if how == "value":
        dense.weight.data[3, 0] += 1  # among the first in memory; `data` leaves no trace in `_version`
    elif how == "storage":
        dense.weight.data = dense.weight.data.clone()
    elif how == "parameter":
        dense.bias = nn.Parameter(dense.bias.detach().clone())
    elif how == "module":
        fresh_tower.dense = copy.deepcopy(dense)
    else:
        dense.seen += 1
    assert weights.changed
    assert not Weights(fresh_tower).changed


@pytest.mark.parametrize("how", ["fused", "foreach", "single", "load", "data"])
def test_bf16_copy_is_renewed_when_the_weights_change(twin: Twin, sentences: list[str], how: str) -> None:
    before = twin.encode(sentences, precision="bf16")
    fast = twin._fast_tower("left", "bf16")
    assert not fast.stale
    assert twin._fast_tower("left", "bf16") is fast
    if how == "load":
        twin.load_state_dict({k: v * (1 - 3 * (v.ndim > 1)) for k, v in twin.state_dict().items()})
    elif how == "data":
        for parameter in twin.parameters():
            parameter.data.mul_(1.5)
    else:
        optimizer = torch.optim.AdamW(twin.parameters(), lr=0.05, fused=how == "fused", foreach=how == "foreach")
        u, _ = twin([tokenise(twin.left, sentences).collate(np.arange(48))])
        u[:, 0].sum().backward()
        optimizer.step()
    assert fast.stale
    after = twin.encode(sentences, precision="bf16")
    assert np.abs(after - before).max() > 0.01
    assert cosines(after, twin.encode(sentences, precision="fp32")).min() >= 0.999


def test_fp32_needs_no_copy(twin: Twin, sentences: list[str]) -> None:
    before = twin.encode(sentences, precision="fp32")
    with torch.no_grad():
        twin.left[0].model.embeddings.word_embeddings.weight.mul_(-1)
    after = twin.encode(sentences, precision="fp32")
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, twin.left.encode(sentences), atol=TOLERANCE)


def test_modules_after_the_backbone_run_in_fp32(tower: SentenceTransformer) -> None:
    seen: list[torch.dtype] = []
    fast = FastTower(tower, torch.bfloat16)
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["token_embeddings"].dtype))
        for module in list(tower)[1:]
    ]
    try:
        encode(fast, ["why"])
    finally:
        for handle in handles:
            handle.remove()
    assert isinstance(tower[-1], Normalize)
    assert seen == [torch.float32, torch.float32]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_gives_the_vectors_of_the_cpu(tower, sentences) -> None:
    there = copy.deepcopy(tower).to("cuda")
    expected = encode(FastTower(tower, torch.float32), sentences)
    assert np.abs(encode(FastTower(there, torch.float32), sentences) - expected).max() < 1e-4
    half = encode(FastTower(there, fast_dtype(torch.device("cuda"))), sentences)
    assert (half * expected).sum(1).min() > 0.999


# --- torch.compile --------------------------------------------------------------------------------


def test_a_compiled_backbone_gives_the_same_vectors(
    fresh_tower: SentenceTransformer, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def traced(self: nn.Module, **knobs: Any) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", **knobs)  # no compiler is needed

    monkeypatch.setattr(nn.Module, "compile", traced)
    fresh_tower[0].model.config.hidden_act = "gelu_new"  # pyright: ignore
    twin = Twin(fresh_tower)
    plain = twin.encode(sentences, precision="fp32")
    assert compiled == []
    found = twin.encode(sentences, precision="fp32", compiled=True)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert len(compiled) == 1
    assert compiled[0] is not fresh_tower[0]  # training goes on with the backbone as it was
    np.testing.assert_array_equal(
        np.concatenate([*twin.encode_stream(sentences, precision="fp32", compiled=True)]), found
    )
    assert len(compiled) == 1


def test_a_fused_backbone_is_not_compiled(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: pytest.fail("compiled"))
    Twin(tower).encode(["a text"], compiled=True)
