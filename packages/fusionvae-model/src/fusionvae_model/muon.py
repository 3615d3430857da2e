"""Muon: momentum whose singular values are made equal before it moves a weight matrix."""

import math
from collections.abc import Mapping
from itertools import groupby

import torch
from torch import Tensor

from fusionvae_model.adamax import Adamax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al. 2024: the steepest quintic at 0 that stays near 1
ITERATIONS = 5
RMS = 0.2  # of Liu et al. 2025: about that of Adam's steps


class Muon(Adamax):
    """Muon (Jordan et al. 2024) for weights of convolutions that mix channels, AdaMax for all other parameters.

    Such a weight ``[out, in, h, w]`` is a matrix ``out × in·h·w``. Its average of gradients, one step looked ahead
    (Nesterov), moves it once its singular values have been brought near 1, times
    ``0.2 · sqrt(max(out, in·h·w))``: a step of about the size that Adam's has (Liu et al. 2025), so that both kinds of
    parameters share a learning rate. Directions that many gradients agree on thus do not drown the others.

    Weights of one shape lie beside each other in the vector of all parameters and are moved in one batch.

    Args:
        parameters: As :class:`~fusionvae_model.adamax.Adamax` takes them.
        eps: Likewise.
        weight_decay: Likewise.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, eps: float, weight_decay: float) -> None:
        shapes = {
            name: (len(tensor), tensor[0].numel()) for name, tensor in parameters.items() if _mixes_channels(tensor)
        }
        matrices = sorted(shapes, key=shapes.__getitem__)
        ordered = {name: parameters[name] for name in [*matrices, *parameters]}  # a key keeps its first place
        super().__init__(ordered, eps=eps, weight_decay=weight_decay)
        self._stacks = [(len(list(alike)), *shape) for shape, alike in groupby(matrices, key=shapes.__getitem__)]

    def _moves(self, gradient: Tensor, accepted: Tensor) -> Tensor:
        moves = super()._moves(gradient, accepted)
        ahead = torch.lerp(self.state["average"], gradient, 1 - self._betas[0])
        rates = torch.where(accepted, self.learning_rate, 0.0)
        start = first = 0
        for count, rows, columns in self._stacks:
            part = slice(start, start + count * rows * columns)
            scale = rates[first : first + count, None, None] * (RMS * math.sqrt(max(rows, columns)))
            step = orthogonalised(ahead[part].view(count, rows, columns)) * scale
            moves[part] = step.reshape(-1)
            start, first = part.stop, first + count
        return moves


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices to 0.65 … 1.25, all that exceed a hundredth of a matrix's Frobenius norm.

    The Newton–Schulz iteration ``X ← a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X`` is a polynomial in ``X·Xᵀ`` of the first ``X``;
    so it is computed on that small square alone, and ``X`` is multiplied once.

    Args:
        matrices: ``[n, rows, columns]``.

    Returns:
        ``[n, rows, columns]``, zero where a matrix is.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    start = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-12)
    gram = start @ start.mT
    product = _factor(gram)
    gram = product @ gram @ product
    for _ in range(ITERATIONS - 1):
        factor = _factor(gram)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ start


def _factor(gram: Tensor) -> Tensor:
    """Return ``a + b·G + c·G²``."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def _mixes_channels(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[:2]) > 1
