"""Several trainings of one model that differ by their seed alone: the best of them, their mean and spread (App. E)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import mean, pstdev

from fusionvae_bench.results import AVERAGE, Result, Score


@dataclass(frozen=True)
class SeedGroup:
    """Results that only their training seed tells apart.

    Attributes:
        results: at least one, ascending in the seed.
    """

    results: tuple[Result, ...]

    @property
    def best(self) -> Result:
        """The one of least MSE_min on average, as the paper's tables take it; without MSE_min, of least NLL."""
        return min(self.results, key=_average)

    def spread(self, column: str, value: Callable[[Score], float | None]) -> tuple[float | None, float | None]:
        """Return mean and standard deviation over the seeds, the root of the mean squared deviation.

        So does the paper: of three values, none is further than √2 such deviations from their mean, and nearly all of
        its best runs keep that bound, but not the 2/√3 that dividing by n − 1 would set (DEVIATIONS.md).

        Args:
            column: number of inputs, or "avg".
            value: what to take from a score.

        Returns:
            None for the mean where a seed lacks the value; None for the deviation of a single seed.
        """
        scores = [result.score(column) for result in self.results]
        values = [value(score) if score else None for score in scores]
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return None, None
        return mean(known), pstdev(known) if len(known) > 1 else None


def seed_groups(results: Sequence[Result]) -> list[SeedGroup]:
    """Gather results that differ by their training seed alone, in the order of their first members.

    A training that was scored twice is no second training: its other results make groups of their own.
    """
    groups: dict[tuple[str, int], dict[int, Result]] = {}
    for result in results:
        identity = _identity(result)
        repeat = next(n for n in count() if _seed(result) not in groups.get((identity, n), {}))
        groups.setdefault((identity, repeat), {})[_seed(result)] = result
    return [SeedGroup(tuple(sorted(members.values(), key=_seed))) for members in groups.values()]


def _identity(result: Result) -> str:
    training = result.training or {}
    if "seed" not in training:
        alike: list[object] = [result.model_name, result.weights_digest]
    else:
        settings = {key: value for key, value in (training.get("train_config") or {}).items() if key != "seed"}
        # No two trainings of equal minutes take equally many steps.
        length = f"{minutes} min" if (minutes := training.get("minutes")) else round(training.get("epochs") or 0)
        keys = ("preset", "batch_size", "initial_weights", "dataset_digest", "precision")
        alike = [training.get(key) for key in keys] + [length, settings]
    scored = [result.dataset_digest, result.split, result.num_images, result.evenly_spaced, result.num_samples]
    scored += [result.precision, result.seed]
    return json.dumps([result.model_kind, result.config, alike, scored], sort_keys=True)


def _seed(result: Result) -> int:
    return int((result.training or {}).get("seed") or 0)


def _average(result: Result) -> float:
    score = result.score(AVERAGE) or next(iter(result.scores.values()))
    return next((v for v in (score.mse_min, score.nll_nats) if v is not None), float("inf"))
