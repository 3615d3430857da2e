"""All that a step touches lies on the device, and nothing waits for it: told without one, by tensors without numbers.

A tensor on PyTorch's device "meta" has shape, type and layout alone. It refuses to meet a tensor that lies elsewhere,
and whatever asks it for a number, as a wait for a GPU would: ``item``, ``tolist``, a copy to the CPU, an ``if``.
"""

import contextlib

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fusion_datasets.spec import BENCHMARKS
from fusion_datasets.torch.rendering import render_inputs, render_targets
from fusionvae_model import FusionVAE

META = torch.device("meta")


class Generator(torch.Generator):
    """A generator that says that it is on the device for which it was asked."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls, "cpu")
        generator.where = torch.device(device)
        return generator

    device = property(lambda self: self.where)


class WithoutNumbers(TorchFunctionMode):
    """Lets random numbers, of which there are none, come from a generator on their device, and from no other.

    Attributes:
        sets_up: Whether numbers may still be brought from the device and to it, as they are once, before a training.
    """

    sets_up = True

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is not None:
            made_of = args[0] if args and isinstance(args[0], Tensor) else None
            device = torch.device(kwargs.get("device") or ("cpu" if made_of is None else made_of.device))
            assert generator.device == device, f"{function.__name__} on {device} by a generator on {generator.device}"
            if device == META:
                del kwargs["generator"]
        if self.sets_up and function is Tensor.cpu and args[0].is_meta:
            return torch.zeros(args[0].shape)
        return function(*args, **kwargs)


@pytest.fixture
def without_numbers(monkeypatch):
    """The mode, at work; the device knows no autocast, and needs none to tell where tensors lie."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device, *rest, **more: contextlib.nullcontext() if device == "meta" else autocast(device, *rest, **more),
    )
    with WithoutNumbers() as mode:
        yield mode


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2},
        {"overrides": ("aggregation=bayes-all", "ema=0", "likelihood=logistic-mixture", "recompute_activations=true")},
        {
            "overrides": ("optimizer=muon", "every_k=true", "importance_samples=2", "prior_draws=2", "beta_fraction=0"),
            "accumulate": 2,
        },
    ],
)
def test_a_step_stays_on_the_device_and_never_waits(options, quick_trainer, without_numbers):
    trainer = quick_trainer(device=META, **options)
    without_numbers.sets_up = False
    for k in range(4):
        batch = trainer.batch(1, num_inputs=k)
        values = trainer.train_step(batch, 1)
        assert all(tensor.is_meta for tensor in (batch.target, batch.inputs, *values.values()))
        trainer.log.add(values, len(batch.target), k)
    assert all(parameter.is_meta for parameter in trainer.model.parameters())


@pytest.mark.parametrize("spec", BENCHMARKS.values(), ids=BENCHMARKS)
def test_batches_are_rendered_on_the_device(spec, without_numbers):
    without_numbers.sets_up = False
    channels = 1 if spec.grey else spec.channels
    height, width, _ = spec.target_shape("train")
    generator = Generator(META)
    stored = torch.rand(5, channels, height, width, device=META)
    target = render_targets(stored, spec, generator=generator)
    pool = torch.empty(7, channels + 1, spec.height, spec.width, dtype=torch.uint8, device=META)
    rendered = render_inputs(target, 2, spec, generator=generator, occluders=pool)
    assert rendered.inputs.shape == (5, 2, channels, spec.height, spec.width)
    assert rendered.inputs.is_meta
    assert rendered.masks.is_meta


def test_a_model_samples_and_scores_on_the_device(tiny_model, without_numbers, monkeypatch):
    monkeypatch.setattr(FusionVAE, "_check_range", lambda *_: None)  # the one look at its values that a call takes
    models = [model.to(META) for model in (tiny_model.eval().folded(), tiny_model)]
    without_numbers.sets_up = False
    target, inputs = torch.rand(2, 1, 16, 16, device=META), torch.rand(2, 3, 1, 16, 16, device=META)
    for finished in models:
        generator = Generator(META)
        assert finished.sample(inputs, num_samples=4, generator=generator).is_meta
        weights = finished.log_importance_weights(
            target, inputs, num_samples=4, num_inputs=(0, 1, 2, 3), generator=generator
        )
        assert weights.shape == (2, 4, 4)
        assert weights.is_meta
