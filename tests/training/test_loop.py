from __future__ import annotations

import json
import math
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.saving import SaveError
from textsiam.training import losses, run
from textsiam.training.loop import train
from textsiam.training.losses.objective import Embedded, Objective
from textsiam.training.mining.triplets import draw_negatives
from textsiam.training.reporting.collapse import CollapseWarning
from textsiam.training.settings import Settings
from textsiam.training.weights.parameters import make_optimizer


def settings(**knobs) -> Settings:
    return Settings(**{"precision": "fp32", "tracker": "none", "batch_size": 8, **knobs})


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def assert_close(left, right, *, atol: float) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.fixture
def task(driver: ModuleType) -> tuple[Pairs, Pairs]:
    return driver.keyword_pairs(48, seed=0), driver.keyword_pairs(24, seed=100)


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights of the twin after each optimizer step."""
    seen: list[dict[str, torch.Tensor]] = []
    count = run.Run.count

    def noting(self, *batch):
        count(self, *batch)
        if self.accelerator.sync_gradients:
            seen.append(weights(self.twin))

    monkeypatch.setattr(run.Run, "count", noting)
    return seen


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch):
    """Make validation return these scores, one after the other."""

    def script(*scores: float) -> None:
        left = list(scores)
        monkeypatch.setattr(run, "average_precision_score", lambda *_: left.pop(0))

    return script


def test_the_loss_falls_and_the_validation_ap_rises(driver, task, tmp_path):
    pairs, validation = driver.keyword_pairs(160), task[1]
    twin = driver.small_twin()
    before = average_precision_score(
        validation.labels, twin.pair_similarity(validation.texts, validation.left, validation.right)
    )
    result = train(
        twin,
        pairs,
        driver.build_objective(["online_contrastive", "info_nce"]),
        output=tmp_path,
        settings=settings(batch_size=16, epochs=12, learning_rate=5e-3, log_every=6),
        validation=validation,
        quiet=True,
    )
    seen = [record["loss"] for record in result.history if "loss" in record]
    assert seen[-1] < 0.5 * seen[0]
    assert before < 0.9
    assert result.best_average_precision > max(0.95, before + 0.05)
    after = average_precision_score(
        validation.labels, twin.pair_similarity(validation.texts, validation.left, validation.right)
    )
    assert after == pytest.approx(result.best_average_precision, abs=1e-12)
    assert not twin.training


def test_the_twin_keeps_the_weights_of_the_best_validation(driver, task, tmp_path, scripted, after_each_step):
    scripted(0.4, 0.9, 0.9, 0.3)
    twin = driver.small_twin()
    result = train(
        twin,
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(max_steps=8, validate_every=2, learning_rate=1e-3),
        validation=task[1],
        quiet=True,
    )
    assert (result.steps, result.best_step, result.best_average_precision) == (
        8,
        4,
        0.9,
    )  # a tie keeps the first
    assert_same(weights(twin), after_each_step[3])
    assert_same(weights(Twin.from_pretrained(tmp_path / "best", device="cpu")), after_each_step[3])
    with pytest.raises(AssertionError):
        assert_same(weights(twin), after_each_step[7])


def test_without_validation_the_last_weights_are_kept(driver, task, tmp_path, after_each_step):
    twin = driver.small_twin()
    result = train(
        twin,
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(),
        quiet=True,
    )
    assert (result.steps, result.best_step, result.best_average_precision) == (6, 6, None)
    assert_same(weights(twin), after_each_step[-1])
    assert not (tmp_path / "best").exists()


def test_patience_stops_early(driver, task, tmp_path, scripted):
    scripted(0.5, 0.6, 0.6, 0.55, 0.9)
    result = train(
        driver.small_twin(),
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(epochs=9, validate_every=1, patience=2),
        validation=task[1],
        quiet=True,
    )
    assert (result.steps, result.best_step, result.stopped_early) == (4, 2, True)


def test_a_run_whose_patience_had_run_out_ends_when_it_is_resumed(driver, task, tmp_path, scripted):
    scripted(0.5, 0.6, 0.6, 0.55, 0.9, 0.9)
    results = [
        train(
            driver.small_twin(), task[0], driver.build_objective(["contrastive"]), output=tmp_path, quiet=True,
            settings=settings(epochs=9, validate_every=1, patience=2), validation=task[1], resume=resume,
        )
        for resume in (False, True)
    ]  # fmt: skip
    whole, resumed = ((r.steps, r.best_step, r.stopped_early, r.history) for r in results)
    assert whole[:3] == (4, 2, True)
    assert resumed == whole


def test_no_step_keeps_the_weights_where_there_is_validation_too(driver, task, tmp_path):
    twin = driver.small_twin()
    before = weights(twin)
    result = train(
        twin, task[0], driver.build_objective(["contrastive"]), output=tmp_path, settings=settings(max_steps=0),
        validation=task[1], quiet=True,
    )  # fmt: skip
    assert (result.steps, result.best_step, result.best_average_precision) == (0, 0, None)
    assert_same(weights(twin), before)


def test_a_better_validation_renews_patience(driver, task, tmp_path, scripted):
    scripted(0.5, 0.4, 0.6, 0.5, 0.7, 0.1)
    result = train(
        driver.small_twin(),
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(max_steps=6, validate_every=1, patience=2),
        validation=task[1],
        quiet=True,
    )
    assert (result.steps, result.best_step, result.stopped_early) == (6, 5, False)


def test_accumulated_batches_give_the_gradient_of_the_whole(driver, task, tmp_path, gradients):
    for gradient_accumulation_steps in (1, 4):
        train(
            driver.small_twin(dropout=0),
            task[0],
            driver.build_objective(["contrastive"]),
            output=tmp_path / str(gradient_accumulation_steps),
            settings=settings(
                batch_size=16, gradient_accumulation_steps=gradient_accumulation_steps, max_gradient_norm=None
            ),
            quiet=True,
        )
    assert len(gradients) == 6
    for whole, summed in zip(gradients[:3], gradients[3:], strict=True):
        assert_close(whole, summed, atol=1e-6)


def test_clipping_scales_the_whole_gradient_down(driver, task, tmp_path, gradients):
    for limit in (None, 0.01):
        train(
            driver.small_twin(dropout=0),
            task[0],
            driver.build_objective(["contrastive", "head"]),
            output=tmp_path / str(limit),
            settings=settings(max_steps=1, max_gradient_norm=limit),
            quiet=True,
        )
    free, clipped = (torch.cat([g.flatten() for g in step]) for step in gradients)
    assert free.norm() > 0.1
    assert clipped.norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_the_learning_rate_follows_its_schedule(driver, task, tmp_path, monkeypatch, schedule):
    rates = []
    step = torch.optim.AdamW.step

    def noting(self, *args, **kwargs):
        rates.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    train(
        driver.small_twin(),
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(max_steps=10, warmup=0.2, schedule=schedule, learning_rate=1e-3),
        quiet=True,
    )
    fall = {
        "linear": lambda t: 1 - t,
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "constant_with_warmup": lambda _: 1.0,
    }[schedule]
    expected = [0, 0.5e-3, *(1e-3 * fall(i / 8) for i in range(8))]
    assert [rate for group in rates for rate in group] == pytest.approx(expected, abs=1e-12)


# sentence-transformers calls the transformers function that is on its way out.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_computes_twice_and_changes_nothing(driver, task, tmp_path, gradients):
    calls = []
    for on in (False, True):
        twin = driver.small_twin(dropout=0)
        layers = [m for m in twin.modules() if type(m).__name__ == "BertIntermediate"]
        assert len(layers) == 1
        calls.append([])
        layers[0].register_forward_hook(lambda *_: calls[-1].append(1))
        train(
            twin,
            task[0],
            driver.build_objective(["contrastive"]),
            output=tmp_path / str(on),
            settings=settings(max_steps=1, gradient_checkpointing=on, token_budget=10_000),
            quiet=True,
        )
    plain, again = gradients
    assert_close(plain, again, atol=1e-7)
    assert len(calls[1]) == len(calls[0]) + 1


def test_matrices_decay_and_biases_and_norms_do_not(driver):
    twin = driver.small_twin()
    objective = driver.build_objective(["contrastive", "head"])
    objective.allocate(16)
    next(twin.parameters()).requires_grad_(False)
    decayed, spared = make_optimizer(twin, objective, settings(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    names = {p: n for module in (twin, objective) for n, p in module.named_parameters()}
    assert len(decayed["params"]) + len(spared["params"]) == len(names) - 1
    assert all(names[p].endswith("bias") or "LayerNorm" in names[p] for p in spared["params"])
    assert not any(names[p].endswith("bias") or "LayerNorm" in names[p] for p in decayed["params"])
    assert "owners.head.16.classify.weight" in {names[p] for p in decayed["params"]}


def test_weight_decay_shrinks_the_matrices_by_its_rate(driver, task, tmp_path):
    """With the gradient of everything zero, AdamW leaves only `w ← (1 - lr · decay) w`."""
    twin = driver.small_twin()
    before = weights(twin)
    objective = Objective({"none": driver.Called(loss=lambda b: (b.u * 0).sum())})
    train(
        twin, task[0], objective, output=tmp_path, quiet=True,
        settings=settings(
            max_steps=2, warmup=0.0, schedule="constant_with_warmup", learning_rate=0.1, weight_decay=0.5
        ),
    )  # fmt: skip
    name = "left.0.model.encoder.layer.0.intermediate.dense"
    after = weights(twin)
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] * 0.95**2)
    assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"])


def test_the_average_is_the_moving_mean_of_the_weights(driver, task, tmp_path, after_each_step):
    twin = driver.small_twin()
    mean = weights(twin)
    result = train(
        twin,
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(ema_decay=0.25, learning_rate=1e-2, warmup=0.0),
        quiet=True,
    )
    for update, now in enumerate(after_each_step):
        decay = min(0.25, (1 + update) / (10 + update))
        mean = {n: decay * mean[n] + (1 - decay) * now[n] for n in mean}
    got = weights(twin)
    for name in mean:
        torch.testing.assert_close(got[name], mean[name], rtol=1e-5, atol=1e-6)
    assert result.best_step == 6
    with pytest.raises(AssertionError):
        assert_same(got, after_each_step[-1])


def test_the_average_is_what_is_validated(driver, task, tmp_path):
    twin = driver.small_twin()
    result = train(
        twin,
        task[0],
        driver.build_objective(["online_contrastive"]),
        output=tmp_path,
        settings=settings(ema_decay=0.9, learning_rate=1e-2),
        validation=task[1],
        quiet=True,
    )
    again = twin.pair_similarity(task[1].texts, task[1].left, task[1].right)
    assert average_precision_score(task[1].labels, again) == pytest.approx(result.best_average_precision, abs=1e-12)


def test_a_constant_tower_raises_the_collapse_alarm(driver, task, tmp_path):
    twin = driver.small_twin()
    with torch.no_grad():
        twin.left[0].model.embeddings.word_embeddings.weight.zero_()
    with pytest.warns(CollapseWarning, match=r"step 2: random pairs have a mean cosine of (0\.9|1\.0)"):
        result = train(
            twin,
            task[0],
            driver.build_objective(["contrastive"]),
            output=tmp_path,
            settings=settings(max_steps=2, learning_rate=1e-9),
            quiet=True,
        )
    assert result.history[-1]["random_pair_cosine"] > 0.95


def test_training_on_duplicates_only_collapses_and_says_so(driver, task, tmp_path):
    pairs = task[0].select(task[0].labels == 1)
    with pytest.warns(CollapseWarning):
        train(
            driver.small_twin(), pairs, driver.build_objective(["contrastive"]), output=tmp_path, quiet=True,
            settings=settings(epochs=30, learning_rate=1e-2, log_every=45),
        )  # fmt: skip


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(driver, task, tmp_path, log_every):
    steps = iter([1.0, 1.0, float("nan"), 1.0, 1.0])
    objective = Objective({"broken": driver.Called(loss=lambda batch: batch.u.sum() * next(steps))})
    with pytest.raises(ValueError, match=r"the loss is no finite number at step [34] .* lower the learning rate"):
        train(
            driver.small_twin(), task[0], objective, output=tmp_path, quiet=True,
            settings=settings(max_steps=5, log_every=log_every, checkpoint_every=2),
        )  # fmt: skip
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("validated", [False, True])
def test_weights_that_are_no_numbers_are_told_before_anything_is_measured(driver, task, tmp_path, validated):
    with pytest.raises(ValueError, match=r"the weights are no finite number at step 1 .* lower the learning rate"):
        train(
            driver.small_twin(), task[0], driver.build_objective(["contrastive"]), output=tmp_path, quiet=True,
            settings=settings(max_steps=1, learning_rate=1e38, weight_decay=1e38, warmup=0.0),
            validation=task[1] if validated else None,
        )  # fmt: skip
    assert not (tmp_path / "best").exists()


def test_a_healthy_run_raises_no_alarm(driver, task, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        result = train(
            driver.small_twin(), task[0], driver.build_objective(["online_contrastive"]), output=tmp_path, quiet=True,
            settings=settings(epochs=4, learning_rate=5e-3, log_every=6),
        )  # fmt: skip
    assert all(-1 <= r["random_pair_cosine"] < 0.95 for r in result.history)


def test_history_holds_a_line_for_each_log_and_each_validation(driver, task, tmp_path):
    result = train(
        driver.small_twin(),
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(max_steps=7, log_every=3, validate_every=5),
        validation=task[1],
        quiet=True,
    )
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == result.history
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [3, 6, 7]
    assert all(
        line.keys() == {"step", "loss", "learning_rate", "random_pair_cosine", "pairs_per_second"} for line in logged
    )
    assert all(line["pairs_per_second"] > 0 and line["loss"] > 0 for line in logged)
    checked = [line for line in lines if "validation_ap" in line]
    assert [line["step"] for line in checked] == [5, 7]
    assert all(0 <= line["validation_ap"] <= 1 for line in checked)


def test_the_logged_loss_is_the_mean_over_the_steps_since_the_last_line(driver, task, tmp_path):
    def run(every: int) -> list[float]:
        result = train(
            driver.small_twin(), task[0], driver.build_objective(["contrastive"]), output=tmp_path / str(every),
            settings=settings(log_every=every), quiet=True,
        )  # fmt: skip
        return [r["loss"] for r in result.history]

    single, double = run(1), run(2)
    assert double == pytest.approx([(a + b) / 2 for a, b in zip(single[::2], single[1::2], strict=True)], rel=1e-6)


def test_speed_counts_neither_validations_nor_steps_of_other_lines(driver, task, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    count = run.Run.count

    def slow_step(self, *batch):
        count(self, *batch)
        clock[0] += 2.0

    def slow_score(*_):
        clock[0] += 1000.0
        return 0.5

    monkeypatch.setattr(run.Run, "count", slow_step)
    monkeypatch.setattr(run, "average_precision_score", slow_score)
    result = train(
        driver.small_twin(), task[0], driver.build_objective(["contrastive"]), output=tmp_path, validation=task[1],
        settings=settings(max_steps=6, log_every=4, validate_every=3), quiet=True,
    )  # fmt: skip
    assert [r["pairs_per_second"] for r in result.history if "loss" in r] == pytest.approx([4.0, 4.0])


def test_tensorboard_gets_event_files(driver, task, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(
        driver.small_twin(),
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(tracker="tensorboard", log_every=2),
        validation=task[1],
        quiet=True,
    )
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    logged = [r["loss"] for r in result.history if "loss" in r]
    assert [e.step for e in events.Scalars("loss")] == [2, 4, 6]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(logged)
    assert [e.step for e in events.Scalars("validation_ap")] == [6]


def test_a_missing_tensorboard_is_named_when_it_is_asked_for(driver, task, tmp_path, monkeypatch):
    monkeypatch.setattr("textsiam.training.distributed.get_available_trackers", list)
    ask = {
        "pairs": task[0],
        "objective": driver.build_objective(["contrastive"]),
        "output": tmp_path,
        "quiet": True,
    }
    with pytest.raises(ValueError, match=r"pip install 'textsiam\[tracking\]'"):
        train(driver.small_twin(), settings=settings(tracker="tensorboard"), **ask)
    train(driver.small_twin(), settings=settings(tracker="auto", max_steps=1), **ask)
    assert not (tmp_path / "logs").exists()


def test_parameters_that_no_embedding_needs_are_frozen(driver, task, tmp_path):
    twin = driver.small_twin()
    before = weights(twin)
    pooler = [n for n, _ in twin.named_parameters() if "pooler" in n]
    assert pooler
    train(
        twin,
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(learning_rate=1e-2),
        quiet=True,
    )
    frozen = [n for n, p in twin.named_parameters() if not p.requires_grad]
    assert frozen == pooler
    after = weights(twin)
    assert all(torch.equal(before[n], after[n]) == (n in pooler) for n, _ in twin.named_parameters())


# One step against the plain way: each side encoded by itself, one padded batch, no dedup, no chunks.


def plain(tower, texts: list[str]) -> torch.Tensor:
    features = tower.tokenizer(texts, padding=True, return_tensors="pt")
    return tower({k: features[k] for k in ("input_ids", "attention_mask")})["sentence_embedding"]


def naive_info_nce(u, v, labels, left_clusters, right_clusters, *, shared: bool) -> torch.Tensor:
    def one_way(anchor, positive, own, across):
        terms = []
        for i in np.flatnonzero(labels == 1):
            scores = [anchor[i] @ positive[i] / 0.05]
            for j in range(len(positive)):
                if across[j] != own[i]:
                    scores.append(anchor[i] @ positive[j] / 0.05)
                if shared and own[j] != own[i]:
                    scores.append(anchor[i] @ anchor[j] / 0.05)
            terms.append(torch.stack(scores).logsumexp(0) - scores[0])
        return torch.stack(terms).mean()

    forth = one_way(u, v, left_clusters, right_clusters)
    return (forth + one_way(v, u, right_clusters, left_clusters)) / 2


def plain_loss(names: list[str], twin: Twin, pairs: Pairs, head: nn.Module | None) -> torch.Tensor:
    right_tower = twin.left if twin.right is None else twin.right
    clusters = cluster_ids(pairs)
    drawn = draw_negatives(pairs, clusters, seed=[0, 0])
    u, v = plain(twin.left, pairs.left_texts), plain(right_tower, pairs.right_texts)
    negative = plain(right_tower, [pairs.texts[i] for i in drawn])
    labels = torch.from_numpy(pairs.labels.astype(np.int64))
    same = labels == 1
    a, b = clusters[pairs.left], clusters[pairs.right]
    total = torch.zeros(())
    for place, name in enumerate(names):
        if name == "contrastive":
            term = losses.contrastive(u, v, labels)
        elif name == "squared":
            term = losses.contrastive(u, v, labels, form="squared_margin", margin=0.9)
        elif name == "online_contrastive":
            term = losses.online_contrastive(u, v, labels)
        elif name == "triplet":
            term = losses.triplet(u[same], v[same], negative[same])
        elif name == "info_nce":
            term = naive_info_nce(u, v, pairs.labels, a, b, shared=twin.right is None)
        else:
            assert head is not None
            term = head(Embedded(u, v, None, labels, torch.from_numpy(a), torch.from_numpy(b)))
        total = total + term / (1 + place)
    return total


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
@pytest.mark.parametrize(
    "names",
    [
        ["contrastive"],
        ["squared"],
        ["online_contrastive"],
        ["triplet"],
        ["info_nce"],
        ["head"],
        ["online_contrastive", "info_nce", "triplet", "head"],
    ],
    ids="+".join,
)
def test_one_step_has_the_loss_and_the_gradient_of_the_plain_way(driver, tmp_path, gradients, names, half):
    pairs = driver.keyword_pairs(20, seed=3)
    pairs = Pairs.concat([pairs, pairs.select([0, 1])])  # a text that comes twice
    twin, twin_again = (driver.small_twin(dropout=0, half=half) for _ in range(2))
    objective = driver.build_objective(names)
    # The plain way first: training changes the head.
    head = driver.Head() if "head" in names else None
    loss = plain_loss(names, twin_again, pairs, head)
    loss.backward()
    expected = {n: p.grad.clone() for n, p in twin_again.named_parameters() if p.grad is not None}
    from_head = [] if head is None else [p.grad.clone() for p in head.parameters()]
    objective.zero_grad()

    result = train(
        twin,
        pairs,
        objective,
        output=tmp_path,
        settings=settings(batch_size=22, max_steps=1, max_gradient_norm=None, token_budget=40),
        quiet=True,
    )
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    trained = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    assert trained.keys() == expected.keys()
    order = [*expected.values(), *from_head]
    order = [g for g in order if g.ndim > 1] + [g for g in order if g.ndim <= 1]  # that of the optimizer's groups
    largest = max(float(g.abs().max()) for g in order)
    assert largest > 1e-2
    assert_close(gradients[0], order, atol=1e-5 * largest)


def test_bf16_trains_fp32_weights_and_leaves_the_twin_as_it_was(driver, task, tmp_path):
    twin = driver.small_twin()
    train(
        twin,
        task[0],
        driver.build_objective(["contrastive", "head"]),
        output=tmp_path,
        settings=settings(precision="bf16", max_steps=2),
        quiet=True,
    )
    assert {p.dtype for p in twin.parameters()} == {torch.float32}
    fresh = driver.small_twin()
    fresh.load_state_dict(twin.state_dict())
    batch = [{k: t for k, t in plain_features(twin).items()}]
    assert torch.equal(twin(batch)[0], fresh(batch)[0])


def plain_features(twin: Twin) -> dict[str, torch.Tensor]:
    features = twin.left.tokenizer(["how bread", "why dog today"], padding=True, return_tensors="pt")
    return {k: features[k] for k in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(("precision", "launched", "expected"), [
    ("fp32", "bf16", "no"),
    ("bf16", "no", "bf16"),
    ("auto", "bf16", "bf16"),
])  # fmt: skip
def test_the_number_format(tmp_path, monkeypatch, precision, launched, expected):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    made = run.make_accelerator(settings(precision=precision), tmp_path)
    assert made.mixed_precision == expected


@pytest.mark.parametrize("native", [False, True])
def test_auto_takes_bf16_where_the_hardware_has_it(tmp_path, monkeypatch, native):
    dtype = torch.bfloat16 if native else torch.float32
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr("textsiam.training.distributed.fast_dtype", lambda _: dtype)
    made = run.make_accelerator(settings(precision="auto"), tmp_path)
    assert made.mixed_precision == ("bf16" if native else "no")


def test_fp16_scales_its_loss_and_trains(driver, task, tmp_path):
    twin = driver.small_twin()
    before = weights(twin)
    train(
        twin,
        task[0],
        driver.build_objective(["contrastive"]),
        output=tmp_path,
        settings=settings(precision="fp16", max_steps=3, learning_rate=1e-3, warmup=0.0),
        quiet=True,
    )
    after = weights(twin)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert max(float((after[n] - before[n]).abs().max()) for n in after) > 1e-4


def test_compiled_towers_have_the_same_gradient(driver, task, tmp_path, gradients, monkeypatch):
    # Traced as always, but run by torch: generating and building C++ would take half a minute.
    compiled = []
    compile_module = nn.Module.compile

    def traced(self, **knobs):
        compiled.append(knobs)
        compile_module(self, backend="eager", **knobs)

    monkeypatch.setattr(nn.Module, "compile", traced)
    for on in (False, True):
        train(
            driver.small_twin(dropout=0),
            task[0],
            driver.build_objective(["contrastive"]),
            output=tmp_path / str(on),
            settings=settings(max_steps=1, compile=on),
            quiet=True,
        )
    assert compiled == [{"dynamic": True}]
    assert_close(gradients[0], gradients[1], atol=1e-6)


def test_the_same_seed_gives_the_same_weights(driver, task, tmp_path):
    def run(seed: int, place: str) -> dict[str, torch.Tensor]:
        twin = driver.small_twin()
        train(
            twin,
            task[0],
            driver.build_objective(["contrastive"]),
            output=tmp_path / place,
            settings=settings(seed=seed),
            quiet=True,
        )
        return weights(twin)

    first, second, other = run(1, "a"), run(1, "b"), run(2, "c")
    assert_same(first, second)
    with pytest.raises(AssertionError):
        assert_same(first, other)


def test_data_that_cannot_be_trained_on_is_refused(driver, task, tmp_path):
    pairs, validation = task

    def attempt(pairs=pairs, names=("contrastive",), validation=None, **knobs):
        objective = driver.build_objective(list(names))
        train(
            driver.small_twin(), pairs, objective, output=tmp_path, settings=settings(**knobs), validation=validation,
            quiet=True,
        )  # fmt: skip

    unlabelled = Pairs.from_texts(["a"], ["b"], [-1], source="file.tsv")
    with pytest.raises(ValueError, match=r"file\.tsv: training needs labelled pairs"):
        attempt(unlabelled)
    with pytest.raises(ValueError, match="keywords-0: no pairs to train on"):
        attempt(pairs.select([]))
    with pytest.raises(
        ValueError, match="keywords-0: 3 pairs make 1 batches of 2, fewer than gradient_accumulation_steps 4"
    ):
        attempt(pairs.select([0, 1, 2]), gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match=r"file\.tsv: validation needs labelled pairs"):
        attempt(validation=unlabelled)
    with pytest.raises(ValueError, match="keywords-100: validation needs labelled pairs, duplicates and others"):
        attempt(validation=validation.select(validation.labels == 1))
    one = Pairs.from_texts(["a", "b"], ["b", "c"], [1, 1], source="one.tsv")
    with pytest.raises(ValueError, match=r"one\.tsv: all texts are duplicates of each other"):
        attempt(one, names=("triplet",))


def test_an_output_that_cannot_be_made_is_named(driver, task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*file/run"):
        train(
            driver.small_twin(), task[0], driver.build_objective(["contrastive"]), quiet=True,
            output=tmp_path / "file" / "run", settings=settings(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"patience": 0}, "patience must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm must be > 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0, got -0.1"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\), got 1.0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        (
            {"batch_size": 10, "gradient_accumulation_steps": 4},
            "batch_size 10 is not a multiple of gradient_accumulation_steps 4",
        ),
    ],
)
def test_settings_refuse_what_makes_no_sense(knobs, message):
    with pytest.raises(ValueError, match=message):
        Settings(**knobs)
