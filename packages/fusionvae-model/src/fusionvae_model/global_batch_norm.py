"""Batch norm over the batch of all processes, on any device; :class:`torch.nn.SyncBatchNorm` needs CUDA."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _NormalizedTogether(torch.autograd.Function):
    """``γ·(f − μ)/√(σ² + ε) + β`` with μ and σ² of all processes' equal shares; and these two.

    With ``f̂ = (f − μ)/√(σ² + ε)``, ``g`` the gradient that arrives and means over all pixels of all processes, the
    gradient is ``γ/√(σ² + ε) · (g − mean(g) − f̂·mean(g·f̂))``.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        means, variances = _side_by_side(torch.stack(_mean_and_variance(features))).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        ctx.save_for_backward(features, gamma, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(features, mean, variance, gamma, beta, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, gamma, mean, variance = ctx.saved_tensors
        # Of a batch norm in eval mode, whose μ and σ² are given, these are the sums of g·f̂ and of g.
        _, of_gamma, of_beta = torch.ops.aten.native_batch_norm_backward(
            gradient, features, gamma, mean, variance, None, None, False, ctx.eps, (False, True, True)
        )
        sums = torch.stack((of_gamma, of_beta))
        dist.all_reduce(sums)
        gain = gamma * torch.rsqrt(variance + ctx.eps)
        by_scale, by_shift = -gain * sums / (dist.get_world_size() * (features.numel() // features.shape[1]))
        of_features = F.batch_norm(features, mean, variance, by_scale, by_shift, eps=ctx.eps)
        return of_features.addcmul_(gradient, gain[:, None, None]), of_gamma, of_beta, None


def _mean_and_variance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of each channel of ``[b, C, h, w]``."""
    if features.device.type == "cpu":  # many times faster there than var_mean where channels come last
        nowhere = features.new_zeros(2, features.shape[1])
        mean, variance = torch.batch_norm_update_stats(features, nowhere[0], nowhere[1], 0.0)
        return mean, variance
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    return mean, variance


def _side_by_side(mine: Tensor) -> Tensor:
    """Return the tensors of all processes, stacked in front."""
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return torch.stack(everyone)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' equal shares together."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``[b, C, h, w]``."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        normalised, mean, variance = _NormalizedTogether.apply(features.float(), self.weight, self.bias, self.eps)
        count = dist.get_world_size() * (features.numel() // features.shape[1])
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)
        return normalised.to(features.dtype)


def globalise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of a model count the whole batch; parameters, buffers and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
