"""Which colour, mark and line stands for which model: the same in every figure, whatever else it shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from fusionvae_bench.figures import ACCENT, MUTED


@dataclass(frozen=True)
class Appearance:
    """How a model is drawn.

    Attributes:
        colour: told from the others by the colour-blind; legible on white and on black.
        marker: told from the others without colour.
        line: Matplotlib's name of a line style.
        filled: whether the marks are; those of baselines without training are hollow.
    """

    colour: str
    marker: str
    line: str = "-"
    filled: bool = True


_BLUE, _GREEN, _ORANGE, _PURPLE, _TEAL, _OCHRE, _ROSE = (
    "#1f77b4", "#2a9d5c", "#d97a24", "#7a5cc0", "#2a9aab", "#ad8b1d", "#d06ba8",
)  # fmt: skip

APPEARANCES: MappingProxyType[str, Appearance] = MappingProxyType(
    {
        "FusionVAE": Appearance(ACCENT, "o"),
        "CVAE+S": Appearance(_BLUE, "s"),
        "CVAE": Appearance(_GREEN, "^"),
        "FCN+S": Appearance(_ORANGE, "D"),
        "FCN": Appearance(_PURPLE, "v"),
        "visible merge": Appearance(MUTED, "s", ":", filled=False),
        "nearest image": Appearance(MUTED, "^", ":", filled=False),
        "training mean": Appearance(MUTED, "D", ":", filled=False),
        # Table 5: a colour for how the set is fused, dashes where u joins it ("all") instead of being added to it
        "FusionVAE MaxAggAll": Appearance(ACCENT, "o", "--"),
        "FusionVAE MeanAggAdd": Appearance(_TEAL, "P"),
        "FusionVAE MeanAggAll": Appearance(_TEAL, "P", "--"),
        "FusionVAE BayAggAdd": Appearance(_OCHRE, "X"),
        "FusionVAE BayAggAll": Appearance(_OCHRE, "X", "--"),
        "FusionVAE q(x,y)": Appearance(_ROSE, "h", "-."),
    }
)
"""Title of a model, as `rows.model_title` gives it → how it is drawn."""

_OTHERS = (
    Appearance("#8c6d46", "p"),
    Appearance("#c94f4f", "*"),
    Appearance("#4f8f8f", "<"),
    Appearance("#6f8f2f", ">"),
    Appearance("#9467bd", "d"),
)
_ROUNDS = (("-", True), ("--", False), (":", True), ("-.", False))
"""Lines and marks of the first five that the paper does not know, of the next five, and so on."""


def appearances(titles: Iterable[str]) -> dict[str, Appearance]:
    """Return how each model is drawn; those that the paper does not know take what is left, in order."""
    found, others = {}, 0
    for title in titles:
        if title in APPEARANCES:
            found[title] = APPEARANCES[title]
        elif title not in found:
            line, filled = _ROUNDS[others // len(_OTHERS) % len(_ROUNDS)]
            found[title] = replace(_OTHERS[others % len(_OTHERS)], line=line, filled=filled)
            others += 1
    return found
