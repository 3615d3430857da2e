"""What a training run computes, and what its folder remembers of it."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionvae_model.atomic import stated_failure
from fusionvae_model.checkpoint import RUN_FILE, read_json
from fusionvae_model.config import ModelConfig, TrainConfig
from fusionvae_model.errors import FusionVAEError


@dataclass(frozen=True)
class Run:
    """Everything that decides what a training run computes; stored before its first step.

    Attributes:
        preset: Name of the preset it started from.
        model: The architecture.
        train: Objective, optimiser, schedules.
        minutes: The wall time asked for, or ``None`` where epochs decide.
        total_steps: Fixed once; schedules are fractions of it.
        precision: ``"32"`` or ``"bf16"``.
        data: Benchmark, digest and source of the data.
        accumulate: Passes of each process that make up one step.
        compile: Whether the model's code is compiled; the same numbers up to rounding.
        initial_weights: Digest of the weights it starts from, or of each whose mean it starts from; ``None`` for
            random ones.
        images_seen_before: Images that the trainings of these weights have seen; ``None`` if unknown.
        hold_out: Training images that are not trained on, and whose bound is measured on the way.
    """

    preset: str
    model: ModelConfig
    train: TrainConfig
    minutes: float | None
    total_steps: int
    precision: str
    data: dict[str, Any]
    accumulate: int = 1
    compile: bool = False
    initial_weights: str | None = None
    images_seen_before: int | None = None
    hold_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def stored_total_steps(output: Path, wanted: Run, *, resume: bool) -> int | None:
    """Return the total steps of the run that stands in the folder, or ``None`` if there is none.

    Raises:
        FusionVAEError: If the folder holds anything else, a run of other settings, or a run and ``resume`` is not
            asked for.
    """
    path = output / RUN_FILE
    if output.exists() and not output.is_dir():
        raise FusionVAEError(f"{output} is a file; expected a folder for the run, choose another --output")
    if not path.exists():
        # Hidden entries are what a kill may leave behind before run.json stands.
        if output.exists() and any(not entry.name.startswith(".") for entry in output.iterdir()):
            raise FusionVAEError(f"{output} is not empty and holds no training run; choose another --output")
        return None
    if not resume:
        raise FusionVAEError(f"{output} already holds a training run; continue it with --resume or choose another")
    asked, stored = wanted.to_dict(), read_json(path)
    for part, kind in ((stored, Run), (stored.get("model"), ModelConfig), (stored.get("train"), TrainConfig)):
        if isinstance(part, dict):
            _fill_defaults(part, kind)
    total_steps = stored.get("total_steps")
    if not isinstance(total_steps, int) or total_steps < 1:
        raise FusionVAEError(f"{path} has total_steps {total_steps!r}; expected at least 1: choose another --output")
    if wanted.minutes is not None:  # they became a number of steps when the run began
        asked["total_steps"] = total_steps
    for part in (stored, asked):  # it follows from the weights
        part.pop("images_seen_before", None)
    differences = sorted(_differences(stored, asked))
    if differences:
        raise FusionVAEError(
            f"the run in {output} has other settings ({'; '.join(differences)}); ask for the same ones to continue it, "
            f"or choose another --output; a run that is done is trained on by --init {output}"
        )
    return total_steps


def _fill_defaults(stored: dict[str, Any], kind: type) -> None:
    """Add the settings that a run from before they existed could not state; their defaults are what it did."""
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            stored.setdefault(field.name, json.loads(json.dumps(field.default)))


def _differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in stored.keys() | asked.keys():
        there, here = stored.get(key), asked.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{key}.")
        elif there != here:
            found.append(f"{prefix}{key}: {json.dumps(there)} there, {json.dumps(here)} asked for")
    return found


@contextlib.contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Make the folder and keep a second process from training in it; the lock ends with the process, however it ends.

    Raises:
        FusionVAEError: If another process is at work there.
    """
    with stated_failure(output):
        output.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(output, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FusionVAEError(
                    f"another process is training in {output}; wait for it or choose another --output"
                ) from None
        yield
    finally:
        os.close(descriptor)
