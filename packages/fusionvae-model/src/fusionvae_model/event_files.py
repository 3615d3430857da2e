"""The training log as TensorBoard's event files."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fusionvae_model.atomic import stated_failure
from fusionvae_model.errors import FusionVAEError

AXES = ("step", "epoch", "seconds")


class EventFiles:
    """Event files that say what the log says, and nothing that it does not.

    Args:
        folder: For these files alone; what stands there is replaced, so that after an interruption no line is there
            twice.
        lines: What the log holds so far.

    Raises:
        FusionVAEError: If TensorBoard is not installed, or the disk refuses.
    """

    def __init__(self, folder: Path, lines: Iterable[dict[str, Any]]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise FusionVAEError(
                "event files need the package tensorboard; install it with: pip install tensorboard"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        with stated_failure(folder):
            self._writer = SummaryWriter(folder)
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Add one line of the log; a list becomes one curve per latent group."""
        for name, value in line.items():
            values = {name: value}
            if isinstance(value, list):
                values = {f"{name}/{l}": entry for l, entry in enumerate(value, start=1)}
            for tag, number in values.items():
                if name not in AXES and number is not None:
                    self._writer.add_scalar(tag, number, line["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
