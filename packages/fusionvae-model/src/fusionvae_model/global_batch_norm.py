"""Batch norm over the batch of all processes, on any device; :class:`torch.nn.SyncBatchNorm` needs CUDA."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class _GatheredStatistics(torch.autograd.Function):
    """Every process's rows side by side, ``[C] → [processes, C]``; the gradient finds its way back to each."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine.contiguous())
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' equal shares together."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``[b, C, h, w]``."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        exact = features.float()
        own_variance, own_mean = torch.var_mean(exact, dim=(0, 2, 3), correction=0)
        means, variances = _GatheredStatistics.apply(torch.stack((own_mean, own_variance))).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        with torch.no_grad():
            count = dist.get_world_size() * (features.numel() // features.shape[1])
            self.num_batches_tracked += 1
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / (count - 1)), share)
        shift = self.bias - mean * gain
        return (exact * gain[:, None, None] + shift[:, None, None]).to(features.dtype)


def globalise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of a model count the whole batch; parameters, buffers and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
