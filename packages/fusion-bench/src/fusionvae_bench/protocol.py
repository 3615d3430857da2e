"""What a model must offer to be scored. Nothing to inherit from: the methods are enough.

Glossary of shapes: b images, k inputs, c channels, h × w pixels, S samples, n numbers of inputs.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fusion_datasets import FusionDatasetsError
from fusionvae_bench.errors import BenchError, ModelError
from fusionvae_model import FusionModel, FusionVAEError
from fusionvae_model.device import Precision


@runtime_checkable
class LikelihoodModel(Protocol):
    """A model whose conditional likelihood can be estimated by importance sampling.

    It may also take ``num_inputs=(0, 1, 2, 3)`` and return [b, n, S]: the same latents weighed under the
    prior of each number of inputs. Where the posterior ignores the inputs, as FusionVAE's q(z|y) does, that is one
    pass instead of n.
    """

    def log_importance_weights(
        self, target: Tensor, inputs: Tensor, *, num_samples: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return ``log p(y|x,z) + log p(z|x) - log q(z|·)`` for draws from q, [b, S] nats.

        Args:
            target: [b, c, h, w] in [0, 1].
            inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
            num_samples: S.
            generator: source of all randomness.
        """
        ...


@runtime_checkable
class SamplingModel(Protocol):
    """A model that proposes fused images."""

    def sample(self, inputs: Tensor, *, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return means of p(y|x,z) for draws z ~ p(z|x), [b, S, c, h, w] in [0, 1].

        A method that also takes ``masks`` is told where the inputs show the target, bool [b, k, h, w]. A model
        whose attribute ``deterministic`` is true is asked for one draw, all others being the same.

        Args:
            inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
            num_samples: S.
            generator: source of all randomness.
        """
        ...


@runtime_checkable
class FoldableModel(Protocol):
    """A model that has a faster form of itself for inference; optional."""

    def folded(self) -> Any:
        """Return an equal model that offers the same methods."""
        ...


def for_inference(model: Any) -> Any:
    """Return the model's faster form, or itself where it has none."""
    return model.folded() if isinstance(model, FoldableModel) else model


@contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """Hold an `nn.Module` in eval mode, so that no image's score depends on others, and restore what was frozen."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if modes:
        model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def has_likelihood(model: Any) -> bool:
    """Tell whether a model's likelihood can be estimated; one may deny it by ``has_likelihood = False``."""
    return isinstance(model, LikelihoodModel) and bool(getattr(model, "has_likelihood", True))


def is_deterministic(model: Any) -> bool:
    """Tell whether a model states that all its draws are the same, as those without latent variables do."""
    return bool(getattr(model, "deterministic", False))


def offers(method: Callable[..., Any], keyword: str) -> bool:
    """Tell whether a method names this keyword; one that passes any keyword on may hand it to what knows nothing."""
    return keyword in inspect.signature(method).parameters


@contextmanager
def stated_by(model: Any, doing: str) -> Iterator[None]:
    """Turn what somebody else's code raises into one sentence that says where.

    Args:
        model: the model, or what shall become one; the package's own models state what fails, and else have a bug.
        doing: what was asked of it.

    Raises:
        ModelError: in place of any other exception.
    """
    try:
        yield
    except (BenchError, FusionDatasetsError, FusionVAEError):
        raise
    except Exception as error:
        if _is_of_this_project(model):
            raise
        here = str(Path(__file__).parent)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((here, "<"))]
        own = [f for f in frames if not {"site-packages", "importlib"} & set(Path(f.filename).parts)]
        where = f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{doing} failed{where} ({type(error).__name__}: {said}); mend it and call again") from error


def _is_of_this_project(model: Any) -> bool:
    """Tell whether a model's code is; a class that somebody derives from one of ours is not."""
    return type(model).__module__.partition(".")[0] == FusionModel.__module__.partition(".")[0]


def _lent(model: Any, images: Tensor) -> Tensor:
    """Return images to hand to a model: to somebody else's, a copy, which it may write into."""
    return images if _is_of_this_project(model) else images.clone()


def _check_type(doing: str, returned: Any, images: Tensor) -> None:
    if not isinstance(returned, Tensor):
        raise ModelError(f"{doing} returned a {type(returned).__name__}, expected a tensor; make the model return one")
    if returned.layout != torch.strided or returned.dtype == torch.bool or returned.is_complex():
        raise ModelError(
            f"{doing} returned a tensor of {returned.dtype} and {returned.layout}, expected real numbers, dense"
        )
    if returned.device != images.device:
        raise ModelError(
            f"{doing} returned a tensor on {returned.device} for images on {images.device}; expected it beside them"
        )


def _computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Round by autocast, or leave it as the caller has it."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def weigh(
    model: LikelihoodModel,
    target: Tensor,
    inputs: Tensor,
    *,
    num_samples: int,
    num_inputs: Sequence[int],
    generator: torch.Generator,
    precision: Precision = "32",
) -> Tensor:
    """Draw log importance weights for several numbers of inputs, in one pass where the model can.

    A model without the keyword ``num_inputs`` is called once per number of inputs, each time from the same state of
    the generator, so that differences between numbers of inputs stay paired.

    Args:
        model: the model.
        target: [b, c, h, w] in [0, 1].
        inputs: [b, k, c, h, w] in [0, 1].
        num_samples: S.
        num_inputs: numbers of inputs, each ≤ k; the first ones of the set are used.
        generator: source of all randomness, on the device of the images.
        precision: what the model computes in.

    Returns:
        [b, n, S] nats.

    Raises:
        ModelError: if the weights come in another shape.
    """
    doing = f"{type(model).__name__}.log_importance_weights"

    def weigh_once(given: Tensor, **options: Any) -> Tensor:
        returned = model.log_importance_weights(
            _lent(model, target), _lent(model, given), num_samples=num_samples, generator=generator, **options
        )
        _check_type(doing, returned, target)
        return returned

    with in_eval_mode(model), _computing_in(precision, target.device), stated_by(model, doing):
        if offers(model.log_importance_weights, "num_inputs"):
            log_weights = weigh_once(inputs, num_inputs=tuple(num_inputs))
        else:
            state, separate = generator.get_state(), []
            for k in num_inputs:
                generator.set_state(state)
                separate.append(weigh_once(inputs[:, :k]))
            log_weights = torch.stack(separate, 1)
    expected = (len(target), len(num_inputs), num_samples)
    if tuple(log_weights.shape) != expected:
        raise ModelError(
            f"log_importance_weights returned the shape {tuple(log_weights.shape)}, expected {expected} "
            "(images, numbers of inputs, samples); make the model return one log weight per image and sample"
        )
    return log_weights


def draw(
    model: SamplingModel,
    inputs: Tensor,
    *,
    num_samples: int,
    generator: torch.Generator,
    masks: Tensor | None = None,
    precision: Precision = "32",
) -> Tensor:
    """Draw fused images.

    Args:
        model: the model.
        inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
        num_samples: S.
        generator: source of all randomness, on the device of the images.
        masks: where the inputs show the target, bool [b, k, h, w]; None where that is not known.
        precision: what the model computes in.

    Returns:
        [b, S, c, h, w] in [0, 1].

    Raises:
        ModelError: if shape or range are not kept, or the model needs masks and there are none.
    """
    method: Callable[..., Tensor] = model.sample
    if offers(method, "masks"):
        if masks is None:
            raise ModelError(
                f"{type(model).__name__} needs masks, and there are none for {inputs.shape[1]} inputs; "
                "give them as masks, bool [b, k, h, w]"
            )
        method = partial(method, _lent(model, inputs), masks=_lent(model, masks))
    elif inputs.shape[1] == 0 and offers(method, "batch_size"):
        method = partial(method, batch_size=len(inputs))
    else:
        method = partial(method, _lent(model, inputs))
    doing = f"{type(model).__name__}.sample"
    with in_eval_mode(model), _computing_in(precision, inputs.device), stated_by(model, doing):
        samples = method(num_samples=num_samples, generator=generator)
    _check_type(doing, samples, inputs)
    if precision != "32":
        samples = samples.float()
    expected = (len(inputs), num_samples, *inputs.shape[2:])
    if tuple(samples.shape) != expected:
        raise ModelError(
            f"sample returned the shape {tuple(samples.shape)}, expected {expected} "
            "(images, samples, channels, height, width); make the model return one image per sample"
        )
    lowest, highest = (float(v) for v in torch.aminmax(samples))
    if not (lowest >= 0 and highest <= 1):  # NaN fails both
        image, sample = ((samples < 0) | (samples > 1) | samples.isnan()).flatten(2).any(2).nonzero()[0].tolist()
        raise ModelError(
            f"sample returned values from {lowest:.4g} to {highest:.4g}, first in image {image}, sample {sample}, "
            "expected means of p(y|x,z) in [0, 1]; apply the likelihood's mean before returning, and see that the "
            "weights are finite"
        )
    return samples
