"""How the features of several inputs become one: functions on the set dimension (paper Sec. 3.4)."""

from collections.abc import Sequence

from torch import Tensor


def max_aggregate(features: Tensor, *, dim: int = 1) -> Tensor:
    """Return the element-wise maximum ``f = max_i f_i`` over the set (Sec. 3.4).

    Args:
        features: ``[b, k, C, h, w]`` with ``k ≥ 1``.
        dim: The set dimension.

    Returns:
        ``[b, C, h, w]``, the same for every order of the set.
    """
    return features.amax(dim=dim)


def max_aggregate_prefixes(features: Tensor, sizes: Sequence[int]) -> list[Tensor | None]:
    """Aggregate the first ``k`` inputs for several ``k`` at once, each input visited once.

    Args:
        features: ``[b, k_max, C, h, w]``.
        sizes: Numbers of inputs, each in ``0…k_max``.

    Returns:
        For each size ``[b, C, h, w]``, or ``None`` where the set is empty.
    """
    running: list[Tensor | None] = [None]
    for element in features.unbind(dim=1)[: max(sizes, default=0)]:
        running.append(element if running[-1] is None else running[-1].maximum(element))
    return [running[size] for size in sizes]
