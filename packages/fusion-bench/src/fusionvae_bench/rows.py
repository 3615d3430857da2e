"""The rows of the paper's Tables 1–5: which model each of them is, and which results belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from fusionvae_bench.paper import TABLES
from fusionvae_bench.results import Result


@dataclass(frozen=True)
class Row:
    """One model of the paper.

    Attributes:
        title: the paper's name of it.
        kind: as ``fusionvae train --model`` and the results have it.
        posterior: what q may see, for FusionVAE: "y" or "xy".
        aggregation: how FusionVAE fuses its inputs.
    """

    title: str
    kind: str
    posterior: str = "y"
    aggregation: str = "max-add"

    @property
    def options(self) -> tuple[str, ...]:
        """What ``fusionvae train`` is to be told; defaults are left out."""
        words = ["--model", self.kind]
        if self.posterior != "y":
            words += ["--posterior", self.posterior]
        if self.aggregation != "max-add":
            words += ["--aggregation", self.aggregation]
        return tuple(words)

    @property
    def slug(self) -> str:
        """A name for files; the same model has the same one in every table."""
        parts = [self.kind]
        if self.posterior != "y":
            parts.append(self.posterior)
        if self.aggregation != "max-add":
            parts.append(self.aggregation)
        return "-".join(parts)

    def owns(self, result: Result) -> bool:
        """Tell whether a result is of this model; FusionVAE's variants differ by their configuration."""
        if result.model_kind != self.kind or self.kind != "fusionvae":
            return result.model_kind == self.kind
        config = result.config
        return (config.get("posterior", "y"), config.get("aggregation", "max-add")) == (
            self.posterior,
            self.aggregation,
        )


_ARCHITECTURES = (
    Row("FCN", "fcn"),
    Row("FCN+S", "fcn-skip"),
    Row("CVAE", "cvae"),
    Row("CVAE+S", "cvae-skip"),
    Row("FusionVAE", "fusionvae"),
)

ROWS = MappingProxyType(
    {
        1: _ARCHITECTURES,
        2: _ARCHITECTURES,
        3: _ARCHITECTURES,
        4: (Row("q(x,y)", "fusionvae", posterior="xy"), Row("q(y)", "fusionvae")),
        5: (
            Row("MaxAggAdd", "fusionvae"),
            Row("MeanAggAdd", "fusionvae", aggregation="mean-add"),
            Row("BayAggAdd", "fusionvae", aggregation="bayes-add"),
            Row("MaxAggAll", "fusionvae", aggregation="max-all"),
            Row("MeanAggAll", "fusionvae", aggregation="mean-all"),
            Row("BayAggAll", "fusionvae", aggregation="bayes-all"),
        ),
    }
)
"""Number of the table → its rows, in the paper's order (Tables 1–3: Sec. 5.3; 4 and 5: Sec. 6.3)."""

TRIVIAL_TITLES = MappingProxyType(
    {"visible-merge": "visible merge", "training-mean": "training mean", "nearest-image": "nearest image"}
)
"""Kind of a baseline without training → its row, which Tables 1–3 get below the paper's."""


def row_title(result: Result, number: int) -> str | None:
    """Return the row of a table that a result belongs to.

    Args:
        result: any.
        number: of the table, 1–5.

    Returns:
        The paper's name; below its rows a name of their own for others in Tables 1–3; None for what has no place
        in the table.
    """
    if result.benchmark != TABLES[number].benchmark:
        return None
    for row in ROWS[number]:
        if row.owns(result):
            return row.title
    if number > 3:
        return None
    if result.benchmark == TABLES[4].benchmark and any(row.owns(result) for n in (4, 5) for row in ROWS[n]):
        return None  # an ablation of the paper's: Tables 4 and 5
    return model_title(result)


def model_title(result: Result) -> str:
    """Return the paper's name of a model, or its own where the paper knows none; ablations say what differs."""
    for row in _ARCHITECTURES:
        if row.owns(result):
            return row.title
    for number in (4, 5):
        for row in ROWS[number]:
            if row.owns(result):
                return f"FusionVAE {row.title}"
    return TRIVIAL_TITLES.get(result.model_kind, result.model_name)
