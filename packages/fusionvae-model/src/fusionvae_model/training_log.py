"""The log of a training run: one JSON object per line, averages over the steps since the last."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from fusionvae_model.atomic import stated_failure, write_file


class TrainingLog:
    """A JSONL file of averages over the steps since its last line. Nothing is written before :meth:`rewind`.

    Args:
        path: The file; continued if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._counts = {"steps": 0, "images": 0, "num_inputs": 0}
        self._since = time.monotonic()

    @property
    def position(self) -> dict[str, float]:
        """What, together with :attr:`sums`, a checkpoint between two lines must remember."""
        return {**self._counts, "seconds": time.monotonic() - self._since}

    def go_on(self, position: dict[str, float], sums: dict[str, Tensor]) -> None:
        """Continue between two lines, where a checkpoint was taken."""
        self._restart()
        self.sums = sums
        self._counts = {name: int(position.get(name, 0)) for name in self._counts}
        self._since -= position.get("seconds", 0.0)

    def rewind(self, step: int) -> None:
        """Drop the lines after a step, which are about to be written again, and the one that a kill cut off."""
        if not self._path.exists():
            return
        with stated_failure(self._path):
            lines = self._path.read_bytes().splitlines()
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(line + b"\n")
        write_file(self._path, b"".join(kept))

    def add(self, values: dict[str, Tensor], images: int, num_inputs: int) -> None:
        """Add one step's values without waiting for the device."""
        for name, value in values.items():
            self.sums[name] = value.float() if name not in self.sums else self.sums[name] + value
        for name, count in (("steps", 1), ("images", images), ("num_inputs", num_inputs)):
            self._counts[name] += count

    def is_finite(self) -> bool:
        """Tell whether every value since the last line was finite; waits for the device."""
        return all(math.isfinite(float(value.sum())) for value in self.sums.values())

    def write(self, **extra: float) -> float:
        """Append one line; return the mean bound in nats."""
        steps = self._counts["steps"]
        means: dict[str, Any] = {name: (value / steps).tolist() for name, value in self.sums.items()}
        kl = sum(means["kl_per_group"])
        line = {
            **{key: extra[key] for key in ("step", "epoch", "seconds")},
            "loss": means["loss"],
            "elbo_nats": -means["reconstruction_nats"] - kl,
            "reconstruction_nats": means["reconstruction_nats"],
            "kl_nats": kl,
            "kl_per_group": means["kl_per_group"],
            **{key: extra[key] for key in ("beta", "learning_rate", "gradient_norm")},
            "num_inputs": self._counts["num_inputs"] / steps,
            "images_per_second": self._counts["images"] / max(1e-9, time.monotonic() - self._since),
        }
        with stated_failure(self._path), self._path.open("ab") as file:
            file.write(json.dumps(_rounded(line)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._restart()
        return float(line["elbo_nats"])


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
