"""The paper's Tables 1–12, as printed (Duffhauss et al., ECCV 2022); a test reads them back from its text.

NLL is in 10⁻² bits per dimension, MSE_min in 10⁻². Rows and columns keep the paper's names and order. The column
"avg" stands as printed: it often is not the plain mean of its four neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

COLUMNS = ("0", "1", "2", "3", "avg")
"""Numbers of inputs, and the paper's average over them."""

Metric = Literal["nll", "mse_min"]
Values = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class ScoreTable:
    """Tables 1–5: the best of three training runs (App. E).

    Attributes:
        number: of the table.
        caption: as printed.
        benchmark: its name in files.
        nll: row → values over `COLUMNS`; rows without a likelihood are missing.
        mse_min: row → values over `COLUMNS`.
        nll_decimals: digits printed after the point; MSE_min has two.
    """

    number: int
    caption: str
    benchmark: str
    nll: MappingProxyType[str, Values]
    mse_min: MappingProxyType[str, Values]
    nll_decimals: int

    def best(self, metric: Metric, column: int) -> float:
        """Return the value that the paper prints in bold in this column: the least one."""
        rows: MappingProxyType[str, Values] = getattr(self, metric)
        return min(values[column] for values in rows.values())


@dataclass(frozen=True)
class SpreadTable:
    """Tables 7–12: mean and standard deviation over three training runs (App. E).

    Attributes:
        number: of the table.
        caption: as printed.
        benchmark: its name in files.
        metric: what the numbers are.
        rows: row → (mean, standard deviation) over `COLUMNS`.
    """

    number: int
    caption: str
    benchmark: str
    metric: Metric
    rows: MappingProxyType[str, tuple[tuple[float, float], ...]]


def _scores(text: str) -> MappingProxyType[str, Values]:
    return MappingProxyType({row: _five(cells) for row, *cells in map(str.split, text.strip().splitlines())})


def _five(cells: list[str]) -> Values:
    a, b, c, d, e = map(float, cells)
    return a, b, c, d, e


def _spreads(text: str) -> MappingProxyType[str, tuple[tuple[float, float], ...]]:
    rows = {}
    for row, *cells in map(str.split, text.strip().splitlines()):
        numbers = [float(cell) for cell in cells if cell != "±"]
        rows[row] = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return MappingProxyType(rows)


TABLES = MappingProxyType(
    {
        1: ScoreTable(
            1,
            "Results on FusionMNIST.",
            "fusion-mnist",
            nll=_scores("""
                CVAE       17.81  15.01  14.07  13.61  15.23
                CVAE+S     18.43  14.57  13.18  12.30  14.77
                FusionVAE  15.93  14.17  13.70  13.48  14.39
            """),
            mse_min=_scores("""
                FCN        10.99   5.81   5.78   5.79   7.25
                FCN+S       5.80   3.74   2.54   1.78   3.56
                CVAE        3.83   1.72   1.05   0.80   1.93
                CVAE+S      3.62   1.75   1.19   0.97   1.95
                FusionVAE   3.14   0.99   0.74   0.65   1.45
            """),
            nll_decimals=2,
        ),
        2: ScoreTable(
            2,
            "Results on FusionCelebA.",
            "fusion-celeba",
            nll=_scores("""
                CVAE       446.0  280.1  273.5  266.5  316.7
                CVAE+S     525.0  270.1  233.5  203.5  308.3
                FusionVAE  248.1  227.6  231.2  228.7  233.9
            """),
            mse_min=_scores("""
                FCN        13.77  14.82  13.10  11.24  13.23
                FCN+S      12.56   8.96   6.06   4.09   7.92
                CVAE        9.23   3.46   2.27   1.55   4.14
                CVAE+S     11.08   5.49   3.66   2.57   5.71
                FusionVAE   5.11   0.88   0.86   0.84   1.93
            """),
            nll_decimals=1,
        ),
        3: ScoreTable(
            3,
            "Results on FusionT-LESS.",
            "fusion-tless",
            nll=_scores("""
                CVAE       25.24  23.73  22.70  23.13  23.71
                CVAE+S     26.08  24.94  23.98  23.95  24.75
                FusionVAE  24.18  23.07  22.23  22.88  23.10
            """),
            mse_min=_scores("""
                FCN        5.83  3.34  2.37  1.82  3.35
                FCN+S      8.06  1.84  1.13  0.74  2.97
                CVAE       5.57  1.54  0.77  0.37  2.08
                CVAE+S     4.95  2.50  1.77  1.19  2.62
                FusionVAE  4.11  0.59  0.32  0.19  1.32
            """),
            nll_decimals=2,
        ),
        4: ScoreTable(
            4,
            "Posterior ablation on the FusionCelebA dataset.",
            "fusion-celeba",
            nll=_scores("""
                q(x,y)  309.2  246.8  211.1  180.5  237.0
                q(y)    248.1  227.6  231.2  228.7  233.9
            """),
            mse_min=_scores("""
                q(x,y)  5.04  1.50  0.95  0.66  2.04
                q(y)    5.11  0.88  0.86  0.84  1.93
            """),
            nll_decimals=1,
        ),
        5: ScoreTable(
            5,
            "Aggregation ablation on the FusionCelebA dataset.",
            "fusion-celeba",
            nll=_scores("""
                MaxAggAdd   248.1  227.6  231.2   228.7  233.9
                MeanAggAdd  270.9  223.3  216.4   214.4  231.3
                BayAggAdd   970.7  294.0  291.4   291.5  462.6
                MaxAggAll   249.6  236.0  223.9   212.7  230.6
                MeanAggAll  252.7  235.2  222.2   213.5  230.9
                BayAggAll   255.6  568.3  414.7  1376.9  653.3
            """),
            mse_min=_scores("""
                MaxAggAdd   5.11  0.88  0.86  0.84  1.93
                MeanAggAdd  5.41  1.00  0.79  0.70  1.98
                BayAggAdd   6.03  5.17  5.10  5.12  5.36
                MaxAggAll   6.15  2.82  1.84  1.30  3.03
                MeanAggAll  6.19  2.39  1.52  1.13  2.81
                BayAggAll   5.10  4.24  1.96  1.39  3.18
            """),
            nll_decimals=1,
        ),
    }
)

HYPERPARAMETERS = MappingProxyType(
    {
        "# latent groups per scale": ("5, 2", "10, 5, 2", "10, 5, 2"),
        "spatial dimensions of z_l per scale": ("4², 8²", "8², 16², 32²", "8², 16², 32²"),
        "# channels in z_l": ("10", "20", "20"),
        "# GPUs": ("2", "4", "2"),
        "# training epochs": ("400", "90", "500"),
        "batch size": ("800", "32", "32"),
        "Training time": ("4h", "48h", "28h"),
    }
)
"""Table 6, FusionMNIST, FusionCelebA, FusionT-LESS. Its first row runs fine to coarse, its second coarse to fine."""

SPREADS = MappingProxyType(
    {
        7: SpreadTable(
            7,
            "Mean and standard deviation of the FusionMNIST NLL results in 10⁻² BPD.",
            "fusion-mnist",
            "nll",
            _spreads("""
                CVAE       17.67 ± 0.10  15.11 ± 0.07  14.19 ± 0.08  13.71 ± 0.07  15.27 ± 0.02
                CVAE+S     18.45 ± 0.02  14.64 ± 0.06  13.22 ± 0.03  12.32 ± 0.02  14.81 ± 0.03
                FusionVAE  15.91 ± 0.03  14.13 ± 0.07  13.64 ± 0.09  13.41 ± 0.10  14.34 ± 0.07
            """),
        ),
        8: SpreadTable(
            8,
            "Mean and standard deviation of the FusionMNIST MSE_min results in 10⁻².",
            "fusion-mnist",
            "mse_min",
            _spreads("""
                FCN        10.84 ± 0.37  5.96 ± 0.11  6.02 ± 0.18  6.13 ± 0.25  7.38 ± 0.11
                FCN+S       6.21 ± 0.65  3.79 ± 0.04  2.64 ± 0.07  1.88 ± 0.08  3.73 ± 0.22
                CVAE        3.87 ± 0.03  1.76 ± 0.03  1.09 ± 0.03  0.83 ± 0.02  1.97 ± 0.03
                CVAE+S      3.53 ± 0.06  1.77 ± 0.01  1.23 ± 0.04  1.02 ± 0.04  1.96 ± 0.01
                FusionVAE   3.14 ± 0.01  1.04 ± 0.06  0.77 ± 0.04  0.67 ± 0.03  1.47 ± 0.03
            """),
        ),
        9: SpreadTable(
            9,
            "Mean and standard deviation of the FusionCelebA NLL results in 10⁻² BPD.",
            "fusion-celeba",
            "nll",
            _spreads("""
                CVAE       456.9 ±  9.42  289.1 ±  6.53  278.9 ±  4.51  270.3 ±  3.66  324.0 ±  5.17
                CVAE+S     487.4 ± 27.45  355.4 ± 60.39  280.7 ± 35.12  230.9 ± 22.59  338.8 ± 22.99
                FusionVAE  251.0 ±  2.06  222.3 ±  3.71  226.8 ±  3.16  224.0 ±  3.36  231.0 ±  2.05
            """),
        ),
        10: SpreadTable(
            10,
            "Mean and standard deviation of the FusionCelebA MSE_min results in 10⁻².",
            "fusion-celeba",
            "mse_min",
            _spreads("""
                FCN        13.07 ± 0.87  20.00 ± 3.77  17.87 ± 3.42  15.56 ± 3.08  16.62 ± 2.48
                FCN+S      11.94 ± 0.52  18.58 ± 7.02  14.90 ± 6.59  11.19 ± 5.39  14.15 ± 4.65
                CVAE        8.70 ± 0.42   6.25 ± 2.16   4.33 ± 1.77   3.02 ± 1.37   5.58 ± 1.21
                CVAE+S      9.87 ± 1.10   9.60 ± 3.34   7.30 ± 3.07   5.57 ± 2.64   8.09 ± 2.19
                FusionVAE   5.82 ± 0.52   1.10 ± 0.16   0.93 ± 0.06   0.84 ± 0.03   2.18 ± 0.17
            """),
        ),
        11: SpreadTable(
            11,
            "Mean and standard deviation of the FusionT-LESS NLL results in 10⁻² BPD.",
            "fusion-tless",
            "nll",
            _spreads("""
                CVAE       25.27 ± 0.04  24.00 ± 0.25  22.98 ± 0.24  23.34 ± 0.19  23.90 ± 0.17
                CVAE+S     26.12 ± 0.23  25.29 ± 0.27  24.27 ± 0.25  24.15 ± 0.20  24.97 ± 0.16
                FusionVAE  24.32 ± 0.10  23.09 ± 0.02  22.25 ± 0.02  22.90 ± 0.02  23.15 ± 0.04
            """),
        ),
        12: SpreadTable(
            12,
            "Mean and standard deviation of the FusionT-LESS MSE_min results in 10⁻².",
            "fusion-tless",
            "mse_min",
            _spreads("""
                FCN        5.88 ± 0.04  3.32 ± 0.10  2.50 ± 0.09  1.96 ± 0.10  3.43 ± 0.06
                FCN+S      8.83 ± 1.05  1.95 ± 0.14  1.28 ± 0.15  0.86 ± 0.14  3.26 ± 0.37
                CVAE       5.49 ± 0.11  1.73 ± 0.22  0.95 ± 0.18  0.44 ± 0.07  2.18 ± 0.13
                CVAE+S     4.87 ± 0.06  2.98 ± 0.29  2.06 ± 0.19  1.27 ± 0.09  2.81 ± 0.12
                FusionVAE  4.15 ± 0.03  0.62 ± 0.03  0.33 ± 0.03  0.20 ± 0.02  1.34 ± 0.02
            """),
        ),
    }
)

NUM_SAMPLES = MappingProxyType({"fusion-mnist": 1000, "fusion-celeba": 100, "fusion-tless": 100})
"""Importance samples of the paper's evaluation (Sec. 5.5)."""

NUM_DIMS = MappingProxyType({"fusion-mnist": 28 * 28, "fusion-celeba": 3 * 64 * 64, "fusion-tless": 64 * 64})
"""What its bits per dimension divide by; inferred, as the paper does not say."""
