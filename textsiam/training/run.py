"""The moving parts of a training run: what is prepared, logged, validated and saved around the visible step."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import AutocastKwargs, DistributedType, set_seed
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from textsiam.data.pairs import Pairs
from textsiam.inference.inputs import Prepared
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import Batch, TrainingPairs
from textsiam.training.batches.crew import shareable
from textsiam.training.batches.sampling import make_sampler, usable_rows
from textsiam.training.batches.sets import MixedBatches, TrainingSet, acquainted
from textsiam.training.batches.teacher import Taught
from textsiam.training.batches.token_store import stored_tokens
from textsiam.training.checkpoints import RunState, check_identity, list_checkpoints, run_identity, save_checkpoint
from textsiam.training.distributed import broadcast, check_shardable, make_accelerator
from textsiam.training.losses.objective import Embedded, Objective, Objectives
from textsiam.training.mining.each_epoch import EpochMiner
from textsiam.training.reporting.log import RunLog, not_finite
from textsiam.training.reporting.result import TrainResult
from textsiam.training.settings import Settings
from textsiam.training.weights.averaging import WeightAverage
from textsiam.training.weights.parameters import freeze_unused, make_optimizer, make_schedule
from textsiam.training.weights.served import ServedTwin

# More tokens than any batch has.
_ONE_CHUNK = 2**40
# Seconds after which several processes ask each other again whether to stop.
_AGREE = 1.0


class Run:
    """The moving parts of one run; `textsiam.training.loop.train` says in which order they move."""

    def __init__(
        self,
        twin: Twin,
        pairs: Pairs,
        objective: Objective,
        output: Path,
        settings: Settings,
        validation: Pairs | None,
        more: Sequence[TrainingSet] = (),
    ) -> None:
        if validation is not None and not validation.both_labels:
            raise ValueError(f"{validation.source}: validation needs labelled pairs, duplicates and others")
        self.settings, self.output, self.validation = settings, output, validation
        self.accelerator = make_accelerator(settings, output)
        set_seed(settings.seed, device_specific=True)
        self._sharded = check_shardable(self.accelerator, settings, twin)
        for each in more:
            each.check()
        self.threads = self._threads(twin)
        if self.threads:  # a weight that two threads cast for each other would be rounded as chance has it
            self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)  # pyright: ignore
        sets = acquainted([TrainingSet(pairs, objective), *more])
        parts = [self._ready(twin, each, settings if each is sets[0] else settings.of_further_set()) for each in sets]
        self.data = MixedBatches(parts, [each.weight for each in sets], seed=settings.seed)
        self.steps_per_epoch = self.data.steps // settings.gradient_accumulation_steps
        whole = settings.epochs * self.steps_per_epoch
        self.total_steps = whole if settings.max_steps is None else settings.max_steps
        self.identity = run_identity(twin, pairs, objective, settings, validation, more)
        self.twin, self.served = twin, ServedTwin(twin, trained_share=settings.trained_share)
        freeze_unused(twin, parts[0].collate(usable_rows(pairs, objective)[:2]))
        self._prepare(twin, Objectives([each.objective for each in sets]) if more else objective)
        self.state = RunState()
        self.runlog = RunLog(self.accelerator, self.state, output)
        trained = nn.ModuleList([self.model, self.objective])
        self.average = None if settings.ema_decay is None else WeightAverage(trained, settings.ema_decay)
        self.miner = None if settings.mine is None else EpochMiner(settings.mine, pairs, settings.seed)
        for part in (self.state, self.scheduler, self.average, self.miner):
            if part is not None:
                self.accelerator.register_for_checkpointing(part)
        self.stopped_early = self.interrupted = False
        self._agreed: tuple[float, int] | None = None  # when the processes last agreed to go on, and at which step
        self._agree_next = 0

    def _ready(self, twin: Twin, given: TrainingSet, settings: Settings) -> TrainingPairs:
        """Return the pairs of a set, made ready for training."""
        objective, world = given.objective, self.accelerator.num_processes
        if objective.encodes_twice and not any(isinstance(m, nn.Dropout) and m.p for m in twin.left.modules()):
            raise ValueError("simcse: the tower has no dropout, so that a text is encoded alike both times")
        return TrainingPairs(
            given.pairs,
            twin,
            make_sampler(given.pairs, settings, objective, world=world),
            # Every call of a shard is a meeting of all processes, so all must make the same number of calls: one.
            token_budget=_ONE_CHUNK if self._sharded else settings.budget_on(self.accelerator.device, self.threads),
            seed=settings.seed,
            negatives=objective.needs_negatives,
            twice=objective.encodes_twice,
            grades=given.grades,
            rank=self.accelerator.process_index,
            world=world,
            threads=max(self.threads, 1),
            prepare=self._prepared,
            taught=Taught.by(objective.teacher, twin, given.pairs.texts) if objective.reads_teacher else None,
        )

    def _prepared(self, tower: SentenceTransformer, names: Sequence[str]) -> Prepared:
        with self.accelerator.local_main_process_first():  # the others read what it wrote
            inputs = stored_tokens(tower, names, self.output / "tokens")
        augment = self.settings.augmentations
        return inputs.augmented(augment) if augment else inputs

    def _threads(self, twin: Twin) -> int:
        """Return among how many threads of one core each a step is shared; 0 leaves the cores to torch."""
        settings, kind = self.settings, self.accelerator.distributed_type
        apart = settings.gradient_checkpointing or settings.compile
        whole = kind in (DistributedType.NO, DistributedType.MULTI_CPU) and twin.right is None
        known = self.accelerator.mixed_precision in ("no", "bf16")
        if self.accelerator.device.type != "cpu" or not whole or not known or apart:
            return 0
        return torch.get_num_threads() if shareable(twin.left) else 0

    def _prepare(self, twin: Twin, objective: Objective | Objectives) -> None:
        settings = self.settings
        for tower in twin.towers:
            if settings.gradient_checkpointing:
                tower.gradient_checkpointing_enable()
            if settings.compile:
                tower.compile(dynamic=True)
        objective.allocate(twin.dim)
        optimizer = make_optimizer(twin, objective, settings)
        self.objective = self._owners = objective.to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(twin, optimizer)
        if list(objective.parameters()):
            self.objective = self.accelerator.prepare(objective)
        elif objective.state_dict():  # a memory without weights
            self.accelerator.register_for_checkpointing(objective)
        # The scheduler is not prepared: Accelerate would step it once for each process.
        self.scheduler = make_schedule(self.optimizer.optimizer, settings, self.total_steps)
        flat = {k: str(v) if isinstance(v, (dict, list)) else v for k, v in settings.to_dict().items() if v is not None}
        self.accelerator.init_trackers("logs", config=flat)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if self.accelerator.is_main_process:
            for stale in self.output.glob(".best.*.tmp"):  # what a killed process was writing
                shutil.rmtree(stale, ignore_errors=True)
        found = list_checkpoints(self.output / "checkpoints")
        if found:
            check_identity(found[-1], self.identity)
            self.accelerator.load_state(str(found[-1]))
            self.runlog.restore_window()

    def remaining_batches(self) -> Iterator[Batch]:
        """Yield the batches that are still to come, from where the run stands."""
        accumulated = self.settings.gradient_accumulation_steps
        while self.state.step < self.total_steps:
            epoch, within = divmod(self.state.step, self.steps_per_epoch)
            batches = self.data.epoch(epoch, start=within * accumulated)
            for _ in range((self.steps_per_epoch - within) * accumulated):
                yield next(batches).to(self.accelerator.device)
                if self.state.step >= self.total_steps:
                    return

    def count(self, loss: Tensor, embedded: Embedded) -> None:
        """Note what came of a batch, and move the schedule and the running mean on where it ends an optimizer step."""
        self.runlog.note(loss, embedded)
        if self.accelerator.sync_gradients:
            self.scheduler.step()
            self.state.step += 1
            if self.average is not None:
                self.average.update()

    def log(self) -> None:
        """Record losses, learning rate and pace, where a log line is due."""
        if self.state.step % self.settings.log_every == 0 or self.state.step == self.total_steps:
            self.runlog.write_line(self.scheduler.get_last_lr()[0], self.settings.batch_size)

    def validate(self) -> None:
        """Score the validation pairs, where that is due, and keep the weights when they are the best so far."""
        every, pairs = self.settings.validate_every or self.steps_per_epoch, self.validation
        if pairs is None or (self.state.step % every and self.state.step != self.total_steps):
            return
        self.runlog.check_losses()
        with self.runlog.untimed():
            twin, score = self._current(), torch.zeros(1, dtype=torch.float64)
            if self.accelerator.is_main_process:
                similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
                finite = np.isfinite(similarity).all()
                score[0] = average_precision_score(pairs.labels, similarity) if finite else math.nan
            score = broadcast(self.accelerator, score).item()
            self._check_finite(math.isfinite(score))
            self.runlog.record({"step": self.state.step, "validation_ap": score})
            if self.state.best is None or score > self.state.best:
                self.state.best, self.state.best_step, self.state.stale = score, self.state.step, 0
                if self.accelerator.is_main_process:
                    twin.save_pretrained(self.output / "best")
            else:
                self.state.stale += 1

    def mine(self) -> None:
        """Mine negatives when an epoch that is due begins: before its first checkpoint, which holds them."""
        epoch = self.state.step // self.steps_per_epoch
        if self.miner is None or self.state.step >= self.total_steps:
            return
        if self.miner.due(epoch):
            with self.runlog.untimed():
                twin = self._current()
                if self.accelerator.is_main_process:
                    self.miner.mine(twin, epoch)
                self.miner.share(self.accelerator, epoch)
                self.runlog.record({"step": self.state.step, "mined_share": self.miner.found})
        self.data.parts[0].mined = self.miner.negatives.numpy()

    def _current(self) -> Twin:
        """Return the twin with the present weights, or their running mean."""
        self.served.update(self.accelerator, self.model, self.average)
        return self.served.twin

    def checkpoint(self) -> None:
        """Write a checkpoint, where one is due, and after the last step: what follows may take long, too."""
        every = self.settings.checkpoint_every or self.settings.validate_every or self.steps_per_epoch
        if self.state.step % every == 0 or self.state.step == self.total_steps:
            self._save_checkpoint()

    def stopping(self, requested: bool) -> bool:
        """Return whether the run ends here: patience ran out, or a signal asked for it."""
        patience = self.settings.patience
        self.stopped_early = patience is not None and self.state.stale >= patience
        if self.accelerator.num_processes > 1:
            requested = self._anybody(requested)
        if requested:
            self.interrupted = True
            self._save_checkpoint()
        return self.stopped_early or self.interrupted

    def _anybody(self, requested: bool) -> bool:
        """Return whether any process is asked to stop: all must stop at one step, so they agree, about once a second.

        A launcher kills what has not stopped after half a minute.
        """
        if self.state.step < self._agree_next:
            return False
        now = time.perf_counter()
        then, since = self._agreed or (now, self.state.step)
        steps = max(1.0, _AGREE * (self.state.step - since) / (now - then)) if now > then else 1.0
        both = torch.tensor([float(requested), steps], device=self.accelerator.device)
        asked, steps = self.accelerator.reduce(both, reduction="mean").tolist()  # pyright: ignore
        self._agreed, self._agree_next = (now, self.state.step), self.state.step + int(steps)
        return asked > 0

    def finish(self, seconds: float) -> TrainResult:
        """Give the twin the weights that were kept, free what Accelerate holds, and say what happened."""
        state, best = self.state, self.output / "best"
        if state.best is None and not self.interrupted:  # no validation has chosen any
            twin, state.best_step = self._current(), state.step
            self._check_finite(all(weight.isfinite().all() for weight in twin.parameters()))
            if self._sharded and self.accelerator.is_main_process:  # the others have none of them
                twin.save_pretrained(best)
        if not self.interrupted and (state.best is not None or self._sharded):
            self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
            self.served.twin.load_state_dict(Twin.from_pretrained(best, device="cpu").state_dict())
        # While the processes are still connected: a reducer of torch that outlives its process group takes the group's
        # threads down with it while it holds the interpreter's lock, which one of them may be waiting for, a deadlock.
        self.model, self.objective, self.optimizer, self.scheduler = self.accelerator.free_memory(
            self.model, self.objective, self.optimizer, self.scheduler
        )
        self.accelerator.end_training()
        for module in (self.twin, self._owners):  # Accelerate leaves its number format in `forward`
            for name in ("forward", "_original_forward"):
                vars(module).pop(name, None)
        self.served.hand_back(self.twin, sharded=self._sharded)
        self.twin.to(self.accelerator.device).eval()
        return TrainResult(
            steps=state.step,
            best_step=state.best_step,
            best_average_precision=state.best,
            history=state.history,
            stopped_early=self.stopped_early,
            interrupted=self.interrupted,
            seconds=seconds,
        )

    def _check_finite(self, finite: bool) -> None:
        """Stop, as the main process finds, where the weights are no numbers, which only the next loss would show."""
        if not broadcast(self.accelerator, torch.tensor([float(finite)])).item():
            raise not_finite("weights are", self.state.step)

    def _save_checkpoint(self) -> None:
        self.runlog.check_losses()
        self.runlog.store_window()
        folder, keep = self.output / "checkpoints", self.settings.keep_checkpoints
        save_checkpoint(self.accelerator, folder, self.state, self.identity, keep=keep)
