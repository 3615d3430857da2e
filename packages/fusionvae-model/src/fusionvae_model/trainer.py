"""The training loop: one run's steps, its log, its checkpoints, and how it ends."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionvae_model import __version__
from fusionvae_model.batch_statistics import reestimate_batch_norm, train_eval_gap
from fusionvae_model.checkpoint import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, first_non_finite, read_json
from fusionvae_model.data import Batch, TrainingSet
from fusionvae_model.device import device_name
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.event_files import EventFiles
from fusionvae_model.guard import MOST_CONSECUTIVE_SKIPS
from fusionvae_model.held_out import held_out_bound, is_measured, measurements
from fusionvae_model.initial_weights import InitialWeights, extinct_channels
from fusionvae_model.interruption import StopRequest
from fusionvae_model.processes import ALONE, Processes
from fusionvae_model.progress import Progress, note
from fusionvae_model.run import Run
from fusionvae_model.run_checkpoints import (
    last_good_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from fusionvae_model.sheets import write_samples
from fusionvae_model.step import TrainingStep
from fusionvae_model.training_log import TrainingLog

LOG_FILE = "log.jsonl"
EVENTS_FOLDER = "tensorboard"
SHEETS_FOLDER = "sheets"
SHEET_ROWS = 6
STATISTICS_BATCHES_PER_KIND = 20
"""Batches, for each number of inputs, from which the final batch statistics are estimated."""
GAP_BATCHES_PER_KIND = 2
"""Batches, for each number of inputs, on which the gap between train and eval mode is measured, before and after."""
MOST_MEASUREMENTS = 3
"""So often is a time measured while other programs take the cores."""
LEAST_SHARE_OF_A_CORE = 0.75
"""Computing time per time of the clock below which others took the cores."""


class Trainer:
    """One run and where it stands.

    Args:
        run: What to compute.
        data: Training targets on the device.
        output: The run's folder.
        device: Where to compute.
        processes: Among whom each batch is shared.
        initial: What it starts from, where that is a trained model; the one whose digest the run names.
    """

    def __init__(
        self,
        run: Run,
        data: TrainingSet,
        output: Path,
        device: torch.device,
        processes: Processes = ALONE,
        initial: InitialWeights | None = None,
    ) -> None:
        self.run = run
        self.data = data
        self.output = output
        self.device = device
        self.processes = processes
        self.step = 0
        self.seconds = 0.0
        self.initial = initial
        self.state = TrainingStep(run, device, processes, None if initial is None else initial.tensors)
        self.model = self.state.model
        self.log = TrainingLog(output / LOG_FILE)
        self._held_out: float | None = None

    def standing(self) -> str:
        """Return a digest of the run, of where it stands, and of the weights there."""
        run = self.run.to_dict() | {"images_seen_before": None}  # which follows from the weights, where it is known
        sha = hashlib.sha256(json.dumps([run, self.step], sort_keys=True).encode())
        for tensor in (*self.model.state_dict().values(), *self.state.tensors().values()):
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def set_total_steps(self, total_steps: int) -> None:
        """Fix the length of the run, on which the schedules depend."""
        self.run = self.state.run = dataclasses.replace(self.run, total_steps=total_steps)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one optimiser step; return what the log wants, as tensors on the device."""
        return self.state.take(batch, step)

    def batch(self, step: int, num_inputs: int | None = None) -> Batch:
        """Return the batch of a step, of so many inputs; with every number of them in each step, of the most."""
        config = self.run.train
        if config.every_k:
            num_inputs = config.max_inputs
        return self.data.batch(step, config.batch_size, max_inputs=config.max_inputs, num_inputs=num_inputs)

    def train(
        self,
        *,
        log_every: int,
        checkpoint_seconds: float,
        tensorboard: bool = False,
        sheet_every: int | None = None,
    ) -> None:
        """Run to the end from where it stands; write log and checkpoints on the way.

        Args:
            log_every: Steps between two lines of the log.
            checkpoint_seconds: Least time between two checkpoints.
            tensorboard: Write event files beside the log.
            sheet_every: Steps between two sheets of samples; none by default.

        Raises:
            FusionVAEError: If it is asked to stop, diverges, or the disk refuses; what was saved stays.
        """
        total, writes = self.run.total_steps, self.processes.writes
        events = None
        if writes:
            lines = self.log.rewind(self.step)
            events = EventFiles(self.output / EVENTS_FOLDER, lines) if tensorboard else None
        saved = time.monotonic()
        started = saved - self.seconds
        with (
            contextlib.closing(events) if events else contextlib.nullcontext(),
            self._progress("training", total, "steps", done=self.step) as progress,
            StopRequest(speaks=writes) as stop,
        ):
            while self.step < total:
                batch = self.batch(self.step)
                self.log.add(self.train_step(batch, self.step), len(batch.target), batch.inputs.shape[1])
                self.step += 1
                self.seconds = time.monotonic() - started
                logs = self.step % log_every == 0 or self.step == total or self._measures()
                progress.advance(self._write_log_line(events) if logs else "")
                if writes and sheet_every is not None and self.step % sheet_every == 0:
                    self.write_sheet()
                stopped = self.processes.any(stop.received)
                must = stopped or self.step == total
                if writes and (must or time.monotonic() - saved >= checkpoint_seconds) and self.save_checkpoint(must):
                    saved = time.monotonic()
                if stopped and self.step < total:
                    raise self._interrupted()
            if self.processes.any(stop.received):
                raise self._interrupted()

    def _measures(self) -> bool:
        total = self.run.total_steps
        return bool(self.run.hold_out) and is_measured(self.step, total, self._measurements(total))

    def _measurements(self, total_steps: int) -> int:
        config = self.run.train
        kinds = config.max_inputs + 1
        per_step = config.batch_size * (kinds if config.every_k else 1)
        return measurements(total_steps, per_step, self.run.hold_out * kinds) if self.run.hold_out else 0

    def held_out_bound(self) -> float:
        """Return the bound of the images held out, in nats, in float32 and by the weights as they stand."""
        with torch.no_grad(), self.state.weights.in_place():
            return held_out_bound(self.model, self.data, max_inputs=self.run.train.max_inputs, processes=self.processes)

    def _interrupted(self) -> FusionVAEError:
        return FusionVAEError(
            f"interrupted after step {self.step} of {self.run.total_steps}, which is saved; continue with --resume"
        )

    def _progress(self, title: str, total: int, unit: str, *, done: int = 0) -> Progress:
        return Progress(title, total, unit=unit, done=done, quiet=not self.processes.writes)

    def _write_log_line(self, events: EventFiles | None) -> str:
        """Write a line; return what the progress should say."""
        self._report_skips()
        extinct = extinct_channels(self.model, self.model.state_dict())
        line = self.log.write(
            keep=self.processes.writes,
            step=self.step,
            epoch=self.step / self.data.steps_per_epoch(self.run.train.batch_size),
            seconds=self.seconds,
            seconds_left=self.seconds / self.step * (self.run.total_steps - self.step),
            beta=self.state.beta(self.step - 1),
            learning_rate=float(self.state.optimizer.learning_rate),
            group_sizes=self.state.group_sizes,
            extinct_channels=sum(int(channels.sum()) for channels in extinct.values()),
            **({"held_out_elbo_nats": self.held_out_bound()} if self._measures() else {}),
        )
        if events is not None:
            events.add(line)
        if self.run.hold_out:
            self._held_out = line.get("held_out_elbo_nats", self._held_out)
        said = f"bound {line['elbo_nats']:.1f} nats" if line["loss"] is not None else "every step skipped"
        return said if self._held_out is None else f"{said}, held out {self._held_out:.1f}"

    def write_sheet(self) -> None:
        """Show what the model makes of a few training images, the same ones each time."""
        batch = self.batch(self.run.total_steps, num_inputs=self.run.train.max_inputs)
        path = self.output / SHEETS_FOLDER / f"step-{self.step:08d}.png"
        try:
            write_samples(path, self.model, batch.target[:SHEET_ROWS], batch.inputs[:SHEET_ROWS])
        except FusionVAEError as error:  # no reason to stop
            note(f"no sheet after step {self.step}: {error}")

    def _report_skips(self) -> None:
        """Say which steps were skipped and why; stop after too many in a row."""
        guard = self.state.guard
        skips = guard.report()
        if self.processes.writes:
            for skip in skips:
                note(f"step {skip.step} was skipped and left no trace: {skip.culprit} was not finite")
        if guard.consecutive >= MOST_CONSECUTIVE_SKIPS:
            raise FusionVAEError(
                f"the training diverged: the last {guard.consecutive} steps up to {self.step} were skipped, at last "
                f"because {skips[-1].culprit} was not finite; {self._last_good()}; start anew with a lower "
                "learning_rate, another seed, a larger batch or precision 32"
            )

    def _last_good(self) -> str:
        good = last_good_checkpoint(self.output)
        return f"{good} is from before" if good else "no checkpoint had been saved"

    def finish(self) -> dict[str, Any]:
        """Re-estimate the batch statistics, write the finished model and return the summary of the training."""
        config, total = self.run.train, self.run.total_steps
        kinds = config.max_inputs + 1
        statistics, held = _finishing_batches(total, kinds)
        if self.state.average is not None:
            self.state.parameters.values.copy_(self.state.average.state["weights"])
        with self._progress("batch statistics", statistics + 2 * held, "batches") as progress:
            seed, processes = config.seed, self.processes

            def batches(first: int, count: int) -> Iterator[Batch]:
                for i in range(first, first + count):
                    yield self.batch(total + i, num_inputs=i % kinds)
                    progress.advance()

            def gap() -> float:
                num_inputs = range(kinds) if config.every_k else None
                held_out = batches(statistics, held)
                return train_eval_gap(self.model, held_out, seed=seed, num_inputs=num_inputs, processes=processes)

            with torch.no_grad(), self.state.weights.in_place():
                gap_before = gap()
                reestimate_batch_norm(self.model, batches(0, statistics), seed=seed, processes=processes)
                gap_after = gap()
        held_out: dict[str, float] = {}
        if self.run.hold_out:
            held_out = {"held_out_images": self.run.hold_out, "held_out_elbo_nats": round(self.held_out_bound(), 3)}
        summary = {
            "preset": self.run.preset,
            "minutes": self.run.minutes,
            "epochs": round(total / self.data.steps_per_epoch(config.batch_size), 3),
            "steps": total,
            "batch_size": config.batch_size,
            "images_seen": total * config.batch_size,
            "initial_weights": self.run.initial_weights,
            "images_seen_before": 0 if self.run.initial_weights is None else self.run.images_seen_before,
            "steps_skipped": self.state.guard.total,
            **held_out,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "processes": self.processes.count,
            "precision": self.run.precision,
            "seed": config.seed,
            "train_eval_gap_nats": round(gap_before, 3),
            "train_eval_gap_nats_after_reestimation": round(gap_after, 3),
            "versions": {"fusionvae-model": __version__, "torch": torch.__version__},
            "dataset_digest": self.run.data["digest"],
            "dataset_source": self.run.data["source"],
            "dataset_stand_in": self.run.data["stand_in"],
            "train_config": config.to_dict(),
            "history": LOG_FILE,
        }
        if self.processes.writes:
            prune_checkpoints(self.output)  # whoever wrote the last one may have been killed before
            self.model.save_pretrained(self.output, training=summary)
        return summary

    def finished_summary(self) -> dict[str, Any] | None:
        """Return the summary that :meth:`finish` wrote, if this run has come to its end before."""
        path = self.output / TRAINING_FILE
        summary = read_json(path) if path.exists() else {}
        complete = all((self.output / name).exists() for name in (CONFIG_FILE, WEIGHTS_FILE))
        return summary if complete and summary.get("steps") == self.run.total_steps else None

    def save_checkpoint(self, must: bool = True) -> bool:
        """Write everything that decides how the run goes on, unless a weight is no longer finite.

        Args:
            must: Also while steps are being skipped, when what stands may be what makes them fail.

        Returns:
            Whether it was written.
        """
        self._report_skips()
        if self.state.guard.consecutive and not must:
            return False
        if (name := first_non_finite(self.model.state_dict())) is not None:
            raise FusionVAEError(
                f"the training diverged by step {self.step}, {name} is no longer finite; {self._last_good()}; "
                "start anew with a lower learning_rate, another seed, a larger batch or precision 32"
            )
        tensors = self.state.tensors() | {f"log/{name}": tensor for name, tensor in self.log.sums.items()}
        guard = self.state.guard
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log.position,
            "skipped": {"consecutive": guard.consecutive, "total": guard.total},
        }
        write_checkpoint(self.output, self.model, tensors, state)
        return True

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from a checkpoint, bit for bit.

        Raises:
            FusionVAEError: If it is damaged.
        """
        weights, others, state = read_checkpoint(folder)
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in others.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        try:
            self.state.load(weights, parts)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FusionVAEError(f"{folder} holds tensors of another model ({reason}); remove it") from error
        self.log.go_on(state.get("log", {}), {name: t.to(self.device) for name, t in parts["log"].items()})
        skipped, guard = state.get("skipped", {}), self.state.guard
        guard.consecutive, guard.total = skipped.get("consecutive", 0), skipped.get("total", 0)
        self.step, self.seconds = state["step"], state["seconds"]

    def measure_step_seconds(self, *, seconds: float) -> float:
        """Return the time of a step, averaged over equal shares of each number of inputs, on a throw-away model."""
        config, probe = self.run.train, TrainingStep(self.run, self.device, self.processes)
        # While β rises the passes of a step need one more before them, and draws are not weighted yet.
        warms_up = config.beta_fraction if self.run.accumulate > 1 or config.importance_samples > 1 else 0.0

        def measured(first: int, share: float) -> float:
            if not share:
                return 0.0
            return share * self._measure(lambda batch, k: probe.take(batch, first + k)["loss"], share * seconds)

        return measured(0, warms_up) + measured(self.run.total_steps, 1 - warms_up)

    def measure_pass_seconds(self) -> float:
        """Return the time of a pass without gradient, of which a run makes :meth:`passes_beside`."""
        (rows, *_) = self.processes.shares(self.run.train.batch_size)
        with torch.no_grad(), self.state.weights.in_place():
            probe = copy.deepcopy(self.model).eval()
            return self._measure(lambda batch, _: probe(batch.target[rows], batch.inputs[rows]).nats.sum(), 0.0)

    def passes_beside(self, total_steps: int) -> float:
        """Return how many passes a run makes beside so many steps.

        These are both gaps in both modes, the statistics, and the images held out, with every number of inputs, on the
        way and once more at the end.
        """
        kinds = self.run.train.max_inputs + 1
        statistics, held = _finishing_batches(total_steps, kinds)
        once = self.run.hold_out * kinds / self.run.train.batch_size
        return statistics + 4 * held + once * (self._measurements(total_steps) + 1)

    def steps_within(self, seconds: float, *, step_seconds: float, pass_seconds: float) -> int:
        """Return how many steps, together with all that a run computes beside them, come nearest to some seconds.

        Args:
            seconds: Time for both; where it is too short, there is one step all the same.
            step_seconds: Time of a step.
            pass_seconds: Time of a pass without gradient.
        """

        def middle(steps: int) -> float:  # of the step, so that the nearest number is found
            return (steps - 0.5) * step_seconds + self.passes_beside(steps) * pass_seconds

        most = 1 + max(0, round(seconds / step_seconds))
        return max(1, bisect_right(range(1, most), seconds, key=middle))

    def _measure(self, work: Callable[[Batch, int], Tensor], seconds: float) -> float:
        """Return the time of some work on a batch, averaged over equal shares of each number of inputs.

        While other programs take the cores it is measured anew, and the shortest time counts: planned by a longer
        one, a run of some minutes would have a handful of steps.
        """
        kinds = self.run.train.max_inputs + 1

        def one_round() -> None:
            for k in range(kinds):
                work(self.batch(k, num_inputs=k), k).item()  # waits for the device

        one_round()
        shortest = math.inf
        for _ in range(MOST_MEASUREMENTS):
            rounds, started, computed = 0, time.monotonic(), time.process_time()
            while rounds == 0 or self.processes.any(time.monotonic() - started < seconds):
                one_round()
                rounds += 1
            elapsed = time.monotonic() - started
            shortest = min(shortest, elapsed / (rounds * kinds))
            share = (time.process_time() - computed) / elapsed
            if not self.processes.any(self.device.type == "cpu" and share < LEAST_SHARE_OF_A_CORE):
                break
        else:
            if self.processes.writes:
                note(
                    f"other programs took the cores while a step was timed, this one had {share:.0%} of one; "
                    f"the run is planned by {shortest:.2g} s, the shortest of {MOST_MEASUREMENTS} measurements"
                )
        return self.processes.agree(shortest)


def _finishing_batches(total_steps: int, kinds: int) -> tuple[int, int]:
    """Batches of the final statistics and of a gap, in equal shares: at least one of each, else no more than steps."""
    most = max(1, total_steps // kinds)
    return min(STATISTICS_BATCHES_PER_KIND, most) * kinds, min(GAP_BATCHES_PER_KIND, most) * kinds
