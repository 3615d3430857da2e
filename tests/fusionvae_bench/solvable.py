"""A hierarchical latent-variable model whose conditional likelihood is known in closed form.

    z₁ | x ~ N(C m(x), s₁² I)      m(x): the inputs' mean image, 0 where there are none
    z₂ | z₁ ~ N(A z₁, s₂² I)
    y | z₂  ~ N(B z₂, r² I)

so that y | x ~ N(B A C m(x), B (s₁² A Aᵀ + s₂² I) Bᵀ + r² I). The posterior is the exact one of k = 0 inputs, blurred
and shifted as asked, and factorises as q(z₁|y) q(z₂|z₁,y).
"""

import math

import torch
from torch import Tensor

DIMS = 4  # pixels of a 2 × 2 image
LATENTS = 3


def _gaussian_log_prob(value: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    difference = (value - mean).unsqueeze(-1)
    solved = torch.linalg.solve(covariance, difference)
    size = value.shape[-1]
    return -0.5 * ((difference * solved).sum((-1, -2)) + torch.logdet(covariance) + size * math.log(2 * math.pi))


class LinearGaussian:
    """Offers the joint form, one pass for all numbers of inputs; `blur` = 1 and `shift` = 0 is the exact posterior."""

    def __init__(self, blur: float = 1.0, shift: float = 0.0, s1: float = 1.0, s2: float = 0.7, r: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(1)

        def matrix(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)

        self.a, self.b, self.c = matrix(LATENTS, LATENTS), matrix(DIMS, LATENTS), 0.8 * matrix(LATENTS, DIMS)
        self.s1, self.s2, self.r = s1, s2, r
        self.blur, self.shift = blur, shift
        self.calls = 0

    def prior_mean(self, inputs: Tensor) -> Tensor:
        flat = inputs.double().flatten(2)
        mean = flat.mean(1) if flat.shape[1] else flat.new_zeros(len(flat), DIMS)
        return mean @ self.c.T

    def covariances(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(LATENTS, dtype=torch.float64)
        z2 = self.s1**2 * self.a @ self.a.T + self.s2**2 * eye
        return z2, self.b @ z2 @ self.b.T + self.r**2 * torch.eye(DIMS, dtype=torch.float64)

    def log_likelihood(self, target: Tensor, inputs: Tensor) -> Tensor:
        mean = self.prior_mean(inputs) @ self.a.T @ self.b.T
        return _gaussian_log_prob(target.double().flatten(1), mean, self.covariances()[1])

    def posterior(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q(z₁|y) as mean and covariance; q(z₂|z₁,y) as gains on y and z₁ and covariance."""
        y = target.double().flatten(1)
        _, y_cov = self.covariances()
        cross = self.s1**2 * (self.b @ self.a).T
        gain = cross @ torch.linalg.inv(y_cov)
        z1_cov = self.s1**2 * torch.eye(LATENTS, dtype=torch.float64) - gain @ cross.T
        precision = torch.eye(LATENTS, dtype=torch.float64) / self.s2**2 + self.b.T @ self.b / self.r**2
        z2_cov = torch.linalg.inv(precision)
        return y @ gain.T, z1_cov, z2_cov @ self.b.T / self.r**2, z2_cov @ self.a / self.s2**2, z2_cov

    def log_importance_weights(
        self, target: Tensor, inputs: Tensor, *, num_samples: int, num_inputs=None, generator=None
    ) -> Tensor:
        self.calls += 1
        y = target.double().flatten(1)[:, None]
        mean1, cov1, on_y, on_z1, cov2 = self.posterior(target)
        mean1 = mean1 + self.shift
        cov1, cov2 = self.blur**2 * cov1, self.blur**2 * cov2
        noise = torch.randn(2, num_samples, len(target), LATENTS, generator=generator, dtype=torch.float64)
        noise = noise.transpose(1, 2)
        z1 = mean1[:, None] + noise[0] @ torch.linalg.cholesky(cov1).T
        mean2 = y @ on_y.T + z1 @ on_z1.T
        z2 = mean2 + noise[1] @ torch.linalg.cholesky(cov2).T
        log_q = _gaussian_log_prob(z1, mean1[:, None], cov1) + _gaussian_log_prob(z2, mean2, cov2)
        eye = torch.eye(LATENTS, dtype=torch.float64)
        shared = (
            _gaussian_log_prob(y, z2 @ self.b.T, self.r**2 * torch.eye(DIMS, dtype=torch.float64))
            + _gaussian_log_prob(z2, z1 @ self.a.T, self.s2**2 * eye)
            - log_q
        )
        counts = (inputs.shape[1],) if num_inputs is None else num_inputs
        priors = [_gaussian_log_prob(z1, self.prior_mean(inputs[:, :k])[:, None], self.s1**2 * eye) for k in counts]
        weights = torch.stack([shared + prior for prior in priors], 1)
        return weights[:, 0] if num_inputs is None else weights


class OneAtATime:
    """The same model without the keyword `num_inputs`, as a third party may write it."""

    def __init__(self, model: LinearGaussian) -> None:
        self.model = model
        self.calls = 0

    def log_importance_weights(self, target, inputs, *, num_samples, generator=None):
        self.calls += 1
        return self.model.log_importance_weights(target, inputs, num_samples=num_samples, generator=generator)


def images(count: int, num_inputs: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(count, 1, 2, 2, generator=generator),
        torch.rand(count, num_inputs, 1, 2, 2, generator=generator),
    )
