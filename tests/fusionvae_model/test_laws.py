"""What holds for every model of the paper, whatever its kind, posterior or aggregation."""

import copy
import dataclasses
import math

import pytest
import torch
from plain import plain_log_weights
from torch import nn
from variants import TINY, VARIANTS, with_spoiled_statistics

from fusionvae_model import FusionVAEError, build_model, load_model
from fusionvae_model.hierarchy import draw_from_prior
from fusionvae_model.layers import EncoderCell, SqueezeExcitation

ALL = list(VARIANTS)
WITH_LATENTS = [name for name in ALL if not name.startswith("fcn")]
ONE_PASS = [name for name in WITH_LATENTS if name.endswith(("add", "all"))]


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(request):
    """An untrained model of 16×16 grey images, in double precision; the test names its variant."""
    torch.manual_seed(0)
    return build_model(dataclasses.replace(TINY, **VARIANTS[request.param])).double()


@pytest.fixture
def images():
    generator = noise(7)
    target = torch.rand(4, 1, 16, 16, generator=generator, dtype=torch.double)
    return target, torch.rand(4, 8, 1, 16, 16, generator=generator, dtype=torch.double)


def every(names):
    return pytest.mark.parametrize("model", names, indirect=True)


@every(ALL)
@pytest.mark.parametrize("training", [True, False])
def test_the_order_of_the_inputs_does_not_matter(model, images, training):
    target, inputs = images
    model.train(training)
    there = model(target, inputs[:, :3], generator=noise()).nats
    back = model(target, inputs[:, [2, 0, 1]], generator=noise()).nats
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9)
    samples = [model.sample(x, num_samples=2, generator=noise()) for x in (inputs, inputs.flip(1))]
    torch.testing.assert_close(*samples, rtol=1e-9, atol=1e-9)


@every(ALL)
@pytest.mark.parametrize("k", [0, 1, 3, 8])
def test_any_number_of_inputs_works_and_each_is_looked_at(model, images, k):
    target, inputs = images
    bound = model(target, inputs[:, :k])
    assert bound.nats.isfinite().all()
    assert bound.kl.shape == (4, model.config.num_groups)
    samples = model.sample(inputs[:, :k], num_samples=3, generator=noise())
    assert samples.shape == (4, 3, *target.shape[1:])
    assert 0 <= samples.min() <= samples.max() <= 1
    if k:
        other = inputs[:, :k].clone()
        other[:, -1] = 1 - other[:, -1]
        assert not torch.allclose(samples, model.sample(other, num_samples=3, generator=noise()), rtol=0, atol=1e-9)


@every(ALL)
def test_every_parameter_gets_a_gradient(model, images):
    """From the bounds with and without inputs: a constant stands for missing inputs in an FCN."""
    target, inputs = images
    model.train()
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.ones_(module.squeeze.bias)  # no ReLU of its four starts dead
    (model(target, inputs).nats.sum() + model(target, inputs[:, :0]).nats.sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@every(ALL)
def test_recomputed_activations_change_no_number(model, images):
    target, inputs = images
    seen = []
    for enabled in (False, True):
        twin = copy.deepcopy(model).train()
        twin.recompute_activations(enabled)
        calls = []
        cell = next(module for module in twin.modules() if isinstance(module, EncoderCell))
        cell.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        twin(target, inputs, generator=noise()).nats.sum().backward()
        gradients = {f"gradient of {name}": p.grad for name, p in twin.named_parameters() if p.grad is not None}
        seen.append((gradients | dict(twin.named_buffers()), len(calls)))
    (remembered, once), (recomputed, twice) = seen
    assert (once, twice) == (1, 2)
    assert remembered.keys() == recomputed.keys()
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in remembered.items())


@every(WITH_LATENTS)
@pytest.mark.parametrize("k", [0, 2])
def test_kl_is_positive_where_the_posterior_differs_from_the_prior(model, images, k):
    target, inputs = images
    assert model.eval()(target, inputs[:, :k], generator=noise()).kl.min() > 0


@every(WITH_LATENTS)
@pytest.mark.parametrize("k", [0, 1, 4])
def test_log_weights_are_exact(model, images, k):
    target, inputs = images
    ours = model.log_importance_weights(target, inputs[:, :k], num_samples=1, generator=noise(3))[:, 0]
    with torch.no_grad():
        reference = plain_log_weights(model.eval(), target, inputs[:, :k], noise(3))
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-3)  # heads and likelihood are float32


@every(WITH_LATENTS)
def test_several_numbers_of_inputs_at_once_equal_one_call_each(model, images):
    target, inputs = images
    settings = {"num_samples": 3}
    together = model.log_importance_weights(target, inputs, num_inputs=(0, 1, 5), generator=noise(), **settings)
    assert together.shape == (4, 3, 3)
    for column, k in enumerate((0, 1, 5)):
        alone = model.log_importance_weights(target, inputs[:, :k], generator=noise(), **settings)
        torch.testing.assert_close(together[:, column], alone, rtol=1e-6, atol=1e-3)


@every(WITH_LATENTS)
def test_only_a_posterior_of_the_target_alone_takes_one_pass_for_all(model, images, request):
    walks = []
    model.walk.register_forward_hook(lambda *_: walks.append(1))
    model.log_importance_weights(*images, num_samples=2, num_inputs=(0, 1, 5))
    assert len(walks) == (1 if request.node.callspec.params["model"] in ONE_PASS else 3)


@every(WITH_LATENTS)
def test_the_mean_log_weight_is_the_elbo(model, images):
    """E_q[log w] = ELBO where all pixels are scored; the closed-form KL and the drawn one agree in the mean."""
    target, inputs = images[0][:1], images[1][:1, :2]
    log_weights = model.log_importance_weights(target, inputs, num_samples=100, generator=noise())
    model.eval()
    with torch.no_grad():
        many = model.elbo(target.expand(100, -1, -1, -1), inputs.expand(100, -1, -1, -1, -1), generator=noise())
    error = math.hypot(*(float(values.std()) / math.sqrt(100) for values in (log_weights, many)))
    assert abs(float(log_weights.mean() - many.mean())) < 5 * error


@every(ALL)
def test_a_folder_brings_the_same_model_back(model, images, tmp_path):
    model.float().eval().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert all(torch.equal(there, here) for there, here in zip(loaded.parameters(), model.parameters(), strict=True))
    inputs = images[1].float()
    model.to(memory_format=torch.channels_last)  # as it was loaded; another layout rounds in another order
    assert torch.equal(loaded.sample(inputs, generator=noise()), model.sample(inputs, generator=noise()))


@every(ALL)
def test_a_folded_model_is_the_same_function(model, images):
    _, inputs = images
    folded = with_spoiled_statistics(model).folded()
    ours, theirs = (m.sample(inputs, num_samples=2, generator=noise()) for m in (folded, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    if model.config.num_groups:
        ours, theirs = (m.log_importance_weights(*images, num_samples=2, generator=noise()) for m in (folded, model))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-3)


@every(ALL)
def test_inference_leaves_mode_and_batch_statistics_alone(model, images):
    target, inputs = images
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.sample(inputs)
    if model.config.num_groups:
        model.log_importance_weights(target, inputs, num_samples=1)
    assert model.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@every(["fcn", "fcn-skip"])
@pytest.mark.parametrize("method", ["elbo", "log_importance_weights", "decode"])
def test_an_fcn_says_that_it_has_no_likelihood(model, method):
    assert not hasattr(model, method)
    with pytest.raises(FusionVAEError, match=f"an FCN has no {method}.*no latent variable") as caught:
        getattr(model, method)
    assert "\n" not in str(caught.value)


@every(["fcn", "fcn-skip"])
def test_an_fcn_gives_one_image(model, images):
    samples = model.sample(images[1], num_samples=3, generator=noise())
    assert torch.equal(samples, samples[:, :1].expand_as(samples))


@pytest.mark.cuda
@every(ALL)
def test_cuda_agrees_with_the_cpu(model, images):
    target, inputs = (image.float() for image in images)
    model.float().eval()
    cold = {"num_samples": 1, "temperature": 0.0}
    on_cpu = model.sample(inputs, **cold)
    on_gpu = model.cuda().sample(inputs.cuda(), **cold).cpu()
    torch.testing.assert_close(on_cpu, on_gpu, rtol=1e-3, atol=1e-3)
    assert model(target.cuda(), inputs.cuda()).nats.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_multiplies_the_priors_scale(temperature):
    mean, scale = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) + 0.1
    draw = draw_from_prior(torch.Generator().manual_seed(5), temperature=temperature)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        draw(0, torch.distributions.Normal(mean, scale), None), mean + temperature * scale * noise
    )


BOUNDS = {
    "max-add": (-194.476, -189.500),
    "mean-add": (-192.880, -187.995),
    "bayes-add": (-244.716, -241.484),
    "max-all": (-191.159, -186.247),
    "mean-all": (-188.366, -183.488),
    "bayes-all": (-284.025, -282.556),
    "pool-add": (-192.936, -188.061),
    "max-add q(x, y)": (-194.186, -189.079),
    "mean-add q(x, y)": (-192.262, -187.432),
    "max-all q(x, y)": (-191.425, -186.509),
    "cvae": (-185.306, -179.528),
    "cvae-skip": (-178.340, -178.266),
    "fcn": (-176.624, -178.031),
    "fcn-skip": (-178.675, -177.886),
}
"""Nats of two images; variant of TINY → what it says of them."""


def pattern(*shape):
    """Images in [0, 1] that no generator decides."""
    return 0.5 + 0.5 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) ** 1.5).float().reshape(shape)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_function_is_the_one_that_published_weights_were_trained_for(name):
    """No equation says how images enter an encoder or where it ends; other weights than ours would not notice a change.

    The numbers are of commit 8b95959, whose whole computation had been written out again from the specification.
    """
    torch.manual_seed(11)
    model = with_spoiled_statistics(build_model(dataclasses.replace(TINY, **VARIANTS[name])))
    target, inputs = pattern(2, 1, 16, 16), pattern(2, 2, 1, 16, 16).flip(-1)
    noise = torch.linspace(-2, 2, 2 * 2 * 16 * 16)

    def fixed(mean):
        return noise[: mean.numel()].reshape(mean.shape)

    with torch.no_grad():
        found = model(target, inputs, generator=fixed).nats
    assert found.tolist() == pytest.approx(BOUNDS[name], abs=0.01)
