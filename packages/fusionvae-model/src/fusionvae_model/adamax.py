"""AdaMax whose steps can be declined, and the moving average of what it moves."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fusionvae_model.flat_tensors import FlatTensors


class Adamax:
    """AdaMax (Kingma & Ba 2015, Alg. 2) with L2 weight decay, whose step a flag on the device can decline.

    A declined step leaves no trace in parameters, averages and counts, and nobody waits for the device to know.
    A parameter without gradient keeps its state.

    Args:
        parameters: By name; all on one device.
        eps: Added to every absolute gradient.
        weight_decay: L2 added to every gradient.
        betas: Decay of the average and of the norm.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        eps: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters = FlatTensors(parameters)
        self._eps, self._weight_decay, self._betas = eps, weight_decay, betas
        device = self.parameters.tensors[0].device
        self._sizes = torch.tensor(self.parameters.sizes, device=device)
        self._presence: dict[tuple[bool, ...], Tensor] = {}
        self.learning_rate = torch.zeros((), device=device)
        self.state = {
            "average": torch.zeros(len(self.parameters), device=device),
            "norm": torch.full((len(self.parameters),), float(eps), device=device),  # its least, so that 0 / 0 never is
            "counts": torch.zeros(len(self.parameters.names), device=device),
        }

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.tensors:
            parameter.grad = None

    @torch.no_grad()
    def step(self, gradient: Tensor, accept: Tensor) -> None:
        """Move every parameter that has a gradient.

        Args:
            gradient: Of all parameters, ``[n]``, as :meth:`FlatTensors.gradient` gathers it.
            accept: Whether to move at all, bool ``[]``.
        """
        average, norm, counts = self.state["average"], self.state["norm"], self.state["counts"]
        accepted = self._present() & accept
        counts += accepted
        # Arithmetic with zeros and ones from here on, several times faster than selection; so NaNs must go first.
        gradient = torch.where(accept, gradient, 0.0).add_(self.parameters.values, alpha=self._weight_decay)
        moves = self._spread(accepted.float())
        average.add_(torch.sub(gradient, average).mul_(moves), alpha=1 - self._betas[0])
        norm.mul_(1 - (1 - self._betas[1]) * moves)
        torch.maximum(norm, gradient.abs().add_(self._eps).mul_(moves), out=norm)
        self.parameters.values.sub_(self._moves(gradient, accepted))

    def _moves(self, gradient: Tensor, accepted: Tensor) -> Tensor:
        """Return what is taken from every value, ``[n]``; 0 for parameters that are not ``accepted``."""
        average, norm, counts = self.state["average"], self.state["norm"], self.state["counts"]
        rate = torch.where(accepted, self.learning_rate / (1 - self._betas[0] ** counts), 0.0)
        return self._spread(rate).mul_(average).div_(norm)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :attr:`state` held.

        Raises:
            KeyError: If a part is missing.
            RuntimeError: If one has another shape.
        """
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _present(self) -> Tensor:
        pattern = tuple(parameter.grad is not None for parameter in self.parameters.tensors)
        if pattern not in self._presence:
            self._presence[pattern] = torch.tensor(pattern, device=self._sizes.device)
        return self._presence[pattern]

    def _spread(self, per_parameter: Tensor) -> Tensor:
        return per_parameter.repeat_interleave(self._sizes, output_size=len(self.parameters))


class WeightAverage:
    """Exponential moving average of the weights, a better estimate of where training wanders than its last step.

    Its memory grows with the steps, ``min(decay, (1 + t) / (10 + t))``, so that it soon forgets the untrained weights.

    Args:
        parameters: Their present values are its first.
        decay: Share of the past that is kept per step, in [0, 1).
    """

    def __init__(self, parameters: FlatTensors, *, decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.state = {"weights": parameters.values.clone()}

    @torch.no_grad()
    def update(self, step: int, accept: Tensor) -> None:
        """Take in the weights after an accepted step, counted from 0."""
        average, weights = self.state["weights"], self._parameters.values
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        average.copy_(torch.where(accept, average.lerp(weights, share), average))
