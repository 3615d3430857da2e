"""The checkpoints of a run: folders from which it goes on, bit for bit, as if it had never stopped."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from fusionvae_model.atomic import remove_folder, replace_folder, stated_failure
from fusionvae_model.checkpoint import WEIGHTS_FILE, read_json, read_tensors, write_json, write_tensors
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.model import FusionModel
from fusionvae_model.progress import note

CHECKPOINTS = "checkpoints"
CHECKPOINTS_KEPT = 2
STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"


def finished_checkpoints(output: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted((output / CHECKPOINTS).glob("step-*"))


def write_checkpoint(output: Path, model: FusionModel, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint under a hidden name, give it its own, and remove what is older than the one before it.

    Args:
        output: The run's folder.
        model: Its parameters and buffers; the checkpoint is also a folder for ``from_pretrained``.
        tensors: Whatever else has to be restored.
        state: JSON-ready; ``state["step"]`` names the checkpoint.

    Raises:
        FusionVAEError: If the disk refuses; the earlier checkpoints stay.
    """
    folder = output / CHECKPOINTS / f"step-{state['step']:08d}"
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        model.save_pretrained(partial)
        write_tensors(partial / OPTIMIZER_FILE, tensors)
        write_json(partial / STATE_FILE, state)
        replace_folder(partial, folder)
    finally:
        prune_checkpoints(output)


def prune_checkpoints(output: Path) -> None:
    """Remove what is older than the two newest checkpoints of a run, and what a killed process left half-written.

    The last one from before steps were skipped stays.

    Raises:
        FusionVAEError: If the disk refuses.
    """
    folder = output / CHECKPOINTS
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with stated_failure(folder):
        older, good = finished_checkpoints(output)[:-CHECKPOINTS_KEPT], last_good_checkpoint(output)
        for folder in older:
            if folder != good:
                remove_folder(folder)


def last_good_checkpoint(output: Path) -> Path | None:
    """Return the newest checkpoint that was not taken while steps were being skipped, if there is one."""
    for folder in reversed(finished_checkpoints(output)):
        with contextlib.suppress(FusionVAEError, AttributeError):
            if not read_json(folder / STATE_FILE).get("skipped", {}).get("consecutive"):
                return folder
    return None


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote: the model's tensors, the other tensors, the state.

    Raises:
        FusionVAEError: If any of it is missing or damaged.
    """
    state = read_json(folder / STATE_FILE)
    if not isinstance(state.get("step"), int) or not isinstance(state.get("seconds"), int | float):
        raise FusionVAEError(f"{folder / STATE_FILE} does not say where the run stands; remove {folder}")
    return read_tensors(folder / WEIGHTS_FILE), read_tensors(folder / OPTIMIZER_FILE), state


def restore_newest(output: Path, restore: Callable[[Path], None]) -> None:
    """Restore the newest checkpoint that can be read; without any, do nothing.

    A run depends on its settings alone, so an older checkpoint costs time and nothing else.

    Raises:
        FusionVAEError: If there are checkpoints and none can be read.
    """
    checkpoints = finished_checkpoints(output)
    for folder in reversed(checkpoints):
        try:
            restore(folder)
            return
        except FusionVAEError as error:
            if folder == checkpoints[0]:
                raise
            note(f"{error}; going on from the checkpoint before it")
