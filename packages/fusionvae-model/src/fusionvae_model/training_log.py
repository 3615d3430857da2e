"""The log of a training run: one JSON object per line, averages over the steps since the last."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fusionvae_model.atomic import stated_failure, write_file

ACTIVE_VARIANCE = 0.01


class TrainingLog:
    """A JSONL file of averages over the steps since its last line. Nothing is written before :meth:`rewind`.

    Steps that were skipped enter no average. The rate of the code is ``kl_nats``, its distortion
    ``reconstruction_nats``, the bound of one draw their sum with the other sign; where several draws are weighted, a
    step maximises ``importance_bound_nats``; what the best draw from the prior explains, where some are drawn, is
    ``best_of_prior_nats``. The bound of images held out is no average but measured for its line, as
    ``held_out_elbo_nats``. A latent is active where the variance of its posterior mean over images exceeds 0.01 (Burda
    et al. 2016), here over a whole batch, however it is cut. A hidden channel of the decoder's cells is extinct where
    :func:`~fusionvae_model.initial_weights.extinct_channels` says so.

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

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines after a step, which are about to be written again, and the one that a kill cut off.

        Returns:
            The lines that stay.
        """
        if not self._path.exists():
            return []
        with stated_failure(self._path):
            lines = self._path.read_bytes().splitlines()
        kept = []
        for line in lines:
            try:
                values = json.loads(line)
                if values["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(values)
        write_file(self._path, b"".join(line + b"\n" for line in lines[: len(kept)]))
        return kept

    def add(self, values: dict[str, Tensor], images: int, num_inputs: int) -> None:
        """Add one step's values without waiting for the device."""
        for name, value in values.items():
            self.sums[name] = value.float() if name not in self.sums else self.sums[name] + value
        for name, count in (("steps", 1), ("images", images), ("num_inputs", num_inputs)):
            self._counts[name] += count

    def write(self, *, group_sizes: Sequence[int], keep: bool = True, **extra: float) -> dict[str, Any]:
        """Append one line and return it; where no step was accepted, its averages are ``None``.

        Args:
            group_sizes: Latents of each group.
            keep: Whether this process writes.
            extra: The rest of the line.
        """
        steps = self._counts["steps"]
        accepted = round(float(self.sums["accepted"]))
        means: dict[str, Any] = {
            name: (value / accepted).tolist() if accepted else None for name, value in self.sums.items()
        }
        kl = sum(means["kl_per_group"]) if accepted else None
        bound = -means["reconstruction_nats"] - kl if accepted else None
        parts = (self.sums["posterior_variance"] / max(1, accepted)).split(list(group_sizes))
        line: dict[str, Any] = {
            **{key: extra[key] for key in ("step", "epoch", "seconds", "seconds_left")},
            "loss": means["loss"],
            "elbo_nats": bound,
            **{name: means[name] for name in ("importance_bound_nats", "best_of_prior_nats") if name in means},
            **{name: extra[name] for name in ("held_out_elbo_nats",) if name in extra},
            "reconstruction_nats": means["reconstruction_nats"],
            "kl_nats": kl,
            "kl_per_group": means["kl_per_group"],
            "active_units_per_group": [int((part > ACTIVE_VARIANCE).sum()) for part in parts],
            "extinct_channels": extra["extinct_channels"],
            **{key: extra[key] for key in ("beta", "learning_rate")},
            "gradient_norm": means["gradient_norm"],
            "num_inputs": self._counts["num_inputs"] / steps,
            "steps_skipped": steps - accepted,
            "images_per_second": self._counts["images"] / max(1e-9, time.monotonic() - self._since),
        }
        line = _rounded(line)
        if keep:
            with stated_failure(self._path), self._path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self._restart()
        return line


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
