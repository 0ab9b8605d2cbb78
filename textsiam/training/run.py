"""The moving parts of a training run: what each step, validation and checkpoint does."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate.utils import DistributedType, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from transformers import get_scheduler

from textsiam.data.pairs import Pairs
from textsiam.models.halves import shared_layers
from textsiam.models.inputs import Prepared
from textsiam.models.saving import SaveError
from textsiam.models.twin import Twin
from textsiam.training.alarm import shuffled_cosine, warn_if_collapsed
from textsiam.training.averaging import WeightAverage
from textsiam.training.batches import Batch, TrainingPairs
from textsiam.training.checkpoints import RunState, check_identity, list_checkpoints, run_identity, save_checkpoint
from textsiam.training.epoch_miner import EpochMiner
from textsiam.training.gradient_cache import encoded
from textsiam.training.objective import Objective
from textsiam.training.parameters import freeze_unused, parameter_groups
from textsiam.training.processes import broadcast, gather_batch, make_accelerator
from textsiam.training.result import TrainResult
from textsiam.training.settings import Settings
from textsiam.training.token_store import stored_tokens

# More tokens than any batch has.
_ONE_CHUNK = 2**40


class Run:
    """The moving parts of one run; `textsiam.training.loop.train` says in which order they move."""

    def __init__(
        self, twin: Twin, pairs: Pairs, objective: Objective, output: Path, settings: Settings, validation: Pairs | None
    ) -> None:
        self.settings, self.output, self.validation = settings, output, validation
        if validation is not None and not validation.both_labels:
            raise ValueError(f"{validation.source}: validation needs labelled pairs, duplicates and others")
        self.accelerator = make_accelerator(settings, output)
        set_seed(settings.seed, device_specific=True)
        self._sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.data = TrainingPairs(
            pairs,
            twin,
            batch_size=settings.batch_size // settings.accumulation,
            # Every call of a shard is a meeting of all processes, so all must make the same number of calls: one.
            token_budget=_ONE_CHUNK if self._sharded else settings.budget_on(self.accelerator.device),
            seed=settings.seed,
            negatives=objective.needs_negatives,
            positives_only=objective.positives_only,
            duplicate_share=settings.duplicate_share,
            mined_share=0.0 if settings.mine is None else settings.mine.as_pairs,
            per_cluster=settings.per_cluster,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            prepare=self._prepared,
        )
        self.steps_per_epoch = self.data.steps_per_epoch // settings.accumulation
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{pairs.source}: {len(self.data.rows)} pairs make {self.data.steps_per_epoch} batches of "
                f"{self.data.batch_size}, fewer than accumulation {settings.accumulation}: lower it"
            )
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        self.identity = {
            **run_identity(pairs, validation, objective),
            "parameters": sum(p.numel() for p in twin.parameters()),
            "processes": self.accelerator.num_processes,
            **settings.identity(),
        }
        self.twin = twin
        self.served = copy.deepcopy(twin)  # what is validated and saved: whole weights, never sharded or wrapped
        self.served.verifier = None  # combined with the weights before
        self._head, twin.head = twin.head, None  # trained by the objective, whose term owns it
        if self._sharded and settings.average is not None:
            raise ValueError("average keeps a mean of whole weights: it cannot be used with FSDP")
        if self._sharded and settings.gradient_cache:  # every call of a shard is a meeting of all processes
            raise ValueError("gradient_cache encodes as many chunks as a process has: it cannot be used with FSDP")
        if self._sharded and self._head is not None:
            raise ValueError("a head is not gathered from shards: it cannot be trained with FSDP")
        if self._sharded and shared_layers(twin.left, twin.right) is not None:  # a shard has one owner
            raise ValueError("the sides of this half-twin share layers, which FSDP cannot shard: use DDP")
        self._prepare(twin, objective)
        self.state = RunState()
        trained = nn.ModuleList([self.model, self.objective])
        self.average = None if settings.average is None else WeightAverage(trained, settings.average)
        self.miner = None if settings.mine is None else EpochMiner(settings.mine, pairs, settings.seed)
        if settings.mine is not None and not (objective.needs_negatives or settings.mine.as_pairs):
            raise ValueError("mine: no loss of this run reads negatives; set as_pairs, or name a loss of triplets")
        for part in (self.state, self.scheduler, self.average, self.miner):
            if part is not None:
                self.accelerator.register_for_checkpointing(part)
        self.finished_step = False
        self.stopped_early = self.interrupted = False
        self._losses: list[Tensor] = []
        self._cosines: list[Tensor] = []
        self._clock, self._clock_step = time.perf_counter(), 0

    def _prepared(self, tower: SentenceTransformer, names: Sequence[str]) -> Prepared:
        with self.accelerator.local_main_process_first():  # the others read what it wrote
            inputs = stored_tokens(tower, names, self.output / "tokens")
        augment = self.settings.augmentations
        return inputs.augmented(augment) if augment else inputs

    def _prepare(self, twin: Twin, objective: Objective) -> None:
        settings = self.settings
        freeze_unused(twin, self.data.collate(self.data.rows[:2]))
        if settings.gradient_checkpointing:
            for tower in twin.towers:
                tower.gradient_checkpointing_enable()
        if settings.compile:
            for tower in twin.towers:
                tower.compile(dynamic=True)
        objective.allocate(twin.dim)
        groups = parameter_groups(twin, objective, settings.weight_decay)
        fused = all(p.device.type in ("cpu", "cuda") for p in twin.parameters())
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        self.objective = self._owners = objective.to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(twin, optimizer)
        if list(objective.parameters()):
            self.objective = self.accelerator.prepare(objective)
        elif objective.state_dict():  # a memory without weights
            self.accelerator.register_for_checkpointing(objective)
        # The scheduler is not prepared: Accelerate would step it once for each process.
        self.scheduler = get_scheduler(
            settings.schedule,
            self.optimizer.optimizer,
            num_warmup_steps=round(settings.warmup * self.total_steps),
            num_training_steps=self.total_steps,
        )
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
            window = (torch.tensor(w, device=self.accelerator.device) for w in self.state.window)
            self._losses, self._cosines = map(list, window)
            self._clock_step = self.state.step

    def remaining_batches(self) -> Iterator[Batch]:
        """Yield the batches that are still to come, from where the run stands."""
        accumulation = self.settings.accumulation
        while self.state.step < self.total_steps:
            epoch, within = divmod(self.state.step, self.steps_per_epoch)
            batches = self.data.epoch(epoch, start=within * accumulation)
            for _ in range((self.steps_per_epoch - within) * accumulation):
                yield next(batches).to(self.accelerator.device)
                if self.state.step >= self.total_steps:
                    return

    def step(self, batch: Batch) -> None:
        """Learn from one batch; with accumulation, several of them make an optimizer step."""
        accelerator = self.accelerator
        self.model.train()
        self.objective.train()
        with accelerator.accumulate(self.model, self.objective):
            with encoded(accelerator, self.model, batch, cached=self.settings.gradient_cache) as (left, right):
                embedded = gather_batch(accelerator, batch, left, right)
                loss = self.objective(embedded)
                accelerator.backward(loss)
            if accelerator.sync_gradients and self.settings.max_gradient_norm is not None:
                trained = [*self.model.parameters(), *self.objective.parameters()]
                accelerator.clip_grad_norm_(trained, self.settings.max_gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self._losses.append(loss.detach())
        self._cosines.append(shuffled_cosine(embedded))
        self.finished_step = accelerator.sync_gradients
        if self.finished_step:
            self.scheduler.step()
            self.state.step += 1
            if self.average is not None:
                self.average.update()

    def log(self) -> None:
        """Record losses, learning rate and pace, where a log line is due."""
        if self.state.step % self.settings.log_every and self.state.step != self.total_steps:
            return
        self._check_losses()
        now = time.perf_counter()
        record = {
            "step": self.state.step,
            "loss": torch.stack(self._losses).mean().item(),
            "learning_rate": self.scheduler.get_last_lr()[0],
            "random_pair_cosine": torch.stack(self._cosines).mean().item(),
            "pairs_per_second": (self.state.step - self._clock_step) * self.settings.batch_size / (now - self._clock),
        }
        self._losses, self._cosines, self._clock, self._clock_step = [], [], now, self.state.step
        self._record(record)
        if self.accelerator.is_main_process:
            warn_if_collapsed(record)

    def validate(self) -> None:
        """Score the validation pairs, where that is due, and keep the weights when they are the best so far."""
        every = self.settings.validate_every or self.steps_per_epoch
        if self.validation is None or (self.state.step % every and self.state.step != self.total_steps):
            return
        self._check_losses()
        started = time.perf_counter()
        self._serve_current_weights()
        score = torch.zeros(1, dtype=torch.float64)
        if self.accelerator.is_main_process:
            pairs = self.validation
            scores = self.served.pair_similarity(pairs.texts, pairs.left, pairs.right)
            score[0] = average_precision_score(pairs.labels, scores)
        score = broadcast(self.accelerator, score)
        self._record({"step": self.state.step, "validation_ap": score.item()})
        if self.state.best is None or score.item() > self.state.best:
            self.state.best, self.state.best_step, self.state.stale = score.item(), self.state.step, 0
            if self.accelerator.is_main_process:
                self.served.save_pretrained(self.output / "best")
        else:
            self.state.stale += 1
        self._clock += time.perf_counter() - started  # validations are not training time

    def mine(self) -> None:
        """Mine negatives when an epoch that is due begins: before its first checkpoint, which holds them."""
        epoch = self.state.step // self.steps_per_epoch
        if self.miner is None or self.state.step >= self.total_steps:
            return
        if self.miner.due(epoch):
            started = time.perf_counter()
            self._serve_current_weights()
            if self.accelerator.is_main_process:
                self.miner.mine(self.served, epoch)
            self.miner.share(self.accelerator, epoch)
            self._record({"step": self.state.step, "mined_share": self.miner.found})
            self._clock += time.perf_counter() - started
        self.data.mined = self.miner.negatives.numpy()

    def checkpoint(self) -> None:
        """Write a checkpoint, where one is due."""
        every = self.settings.checkpoint_every or self.settings.validate_every or self.steps_per_epoch
        if self.state.step % every == 0 and self.state.step < self.total_steps:
            self._save_checkpoint()

    def stopping(self, requested: bool) -> bool:
        """Return whether the run ends here: patience ran out, or a signal asked for it."""
        patience = self.settings.patience
        self.stopped_early = patience is not None and self.state.stale >= patience
        if self.accelerator.num_processes > 1:
            # All processes must stop at the same step: ask the others, but not at every step.
            if requested:
                self.accelerator.set_trigger()
            due = self.state.step % self.settings.log_every == 0
            requested = due and self.accelerator.check_trigger()
        if requested and self.state.step < self.total_steps:
            self.interrupted = True
            self._save_checkpoint()
        return self.stopped_early or self.interrupted

    def finish(self, seconds: float) -> TrainResult:
        """Give the twin the weights that were kept, free what Accelerate holds, and say what happened."""
        if self.validation is None and not self.interrupted:
            self._serve_current_weights()
            self.state.best_step = self.state.step
            if self._sharded and self.accelerator.is_main_process:  # the others have none of them
                self.served.save_pretrained(self.output / "best")
        if not self.interrupted and (self.validation is not None or self._sharded):
            self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
            self.served.load_state_dict(Twin.from_pretrained(self.output / "best", device="cpu").state_dict())
        self._let_go()
        self.twin.head = self._head
        self.accelerator.end_training()
        for module in (self.twin, self._owners):  # Accelerate leaves its number format in `forward`
            for name in ("forward", "_original_forward"):
                vars(module).pop(name, None)
        if self._sharded:  # whole weights do not fit into shards: the twin becomes what is served
            vars(self.twin).clear()
            self.twin.__class__ = type(self.served)
            vars(self.twin).update(vars(self.served))
        else:
            self.twin.load_state_dict(self.served.state_dict())
        self.twin.to(self.accelerator.device).eval()
        state = self.state
        return TrainResult(
            steps=state.step,
            best_step=state.best_step,
            best_average_precision=state.best,
            history=state.history,
            stopped_early=self.stopped_early,
            interrupted=self.interrupted,
            seconds=seconds,
        )

    @contextmanager
    def progress(self, quiet: bool) -> Iterator[Callable[[], None]]:
        """Show a bar with pace and time to go; what is yielded moves it by a step."""
        show = self.accelerator.is_main_process and not quiet
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, disable=not show, console=Console(stderr=True)) as bars:
            task = bars.add_task("", total=self.total_steps, completed=self.state.step, note="")
            started, first = time.perf_counter(), self.state.step

            def advance() -> None:
                rate = (self.state.step - first) * self.settings.batch_size / (time.perf_counter() - started)
                best = "" if self.state.best is None else f", best AP {self.state.best:.4f}"
                bars.update(task, completed=self.state.step, note=f"{rate:.0f} pairs/s{best}")

            yield advance

    def _let_go(self) -> None:
        """Free what Accelerate wrapped while the processes are still connected.

        A reducer of torch that outlives its process group takes the group's threads down with it while it holds the
        interpreter's lock, which one of them may be waiting for: a deadlock at the end of a run. Groups that are
        destroyed on their own give the lock up first.
        """
        self.model, self.objective, self.optimizer, self.scheduler = self.accelerator.free_memory(
            self.model, self.objective, self.optimizer, self.scheduler
        )

    def _check_losses(self) -> None:
        """Stop before weights that are no numbers are validated or replace a good checkpoint."""
        if self._losses and not torch.stack(self._losses).isfinite().all():
            raise ValueError(
                f"the loss is no finite number at step {self.state.step} or shortly before: lower the learning "
                "rate, or use precision bf16 or fp32; earlier checkpoints are intact"
            )

    def _save_checkpoint(self) -> None:
        self._check_losses()
        self.state.window = [torch.stack(w).tolist() if w else [] for w in (self._losses, self._cosines)]
        save_checkpoint(
            self.accelerator,
            self.output / "checkpoints",
            self.state,
            self.identity,
            keep=self.settings.keep_checkpoints,
        )

    def _serve_current_weights(self) -> None:
        with nullcontext() if self.average is None else self.average.applied():
            weights = self.accelerator.get_state_dict(self.model)  # the live tensors: copy them before they change back
            if self.accelerator.is_main_process or weights:
                whole = {k.removeprefix("_orig_mod."): v for k, v in weights.items()}
                if self._head is not None:
                    whole |= {f"head.{k}": v for k, v in self._head.state_dict().items()}
                self.served.load_state_dict(whole)

    def _record(self, record: dict[str, float]) -> None:
        self.state.history.append(record)
        if self.accelerator.is_main_process:
            self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=int(record["step"]))
            try:
                lines = "".join(json.dumps(r) + "\n" for r in self.state.history)
                (self.output / "history.jsonl").write_text(lines)
            except OSError as error:
                raise SaveError(f"cannot write {self.output / 'history.jsonl'}: {error.strerror}") from error
