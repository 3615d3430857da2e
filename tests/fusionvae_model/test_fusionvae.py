"""The laws of FusionVAE."""

import math

import pytest
import torch
from plain import plain_log_weights

from fusionvae_model import FusionVAE, FusionVAEError, build_model
from fusionvae_model.aggregation import InputSet
from fusionvae_model.distributions import normal_kl
from fusionvae_model.hierarchy import draw_from_posterior, draw_from_prior, fixed_latents, log_density_ratio


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def full_model():
    torch.manual_seed(0)
    return FusionVAE.from_preset("fusion-mnist").eval()


@pytest.fixture
def images(tiny_model):
    size = tiny_model.config.image_size
    generator = noise(7)
    target = torch.rand(4, 1, size, size, generator=generator)
    return target, torch.rand(4, 3, 1, size, size, generator=generator)


def test_colours_are_fused_scored_and_sampled():
    """The logistic mixture behind the same walk."""
    torch.manual_seed(0)
    model = FusionVAE.from_preset("fusion-celeba-small")
    target, inputs = torch.rand(2, 3, 64, 64), torch.rand(2, 2, 3, 64, 64)
    bound = model(target, inputs, generator=noise())
    bound.nats.sum().backward()
    assert bound.nats.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    samples = model.sample(inputs, num_samples=2, generator=noise())
    assert samples.shape == (2, 2, 3, 64, 64)
    assert 0 <= samples.min() <= samples.max() <= 1
    weights = model.log_importance_weights(target, inputs, num_samples=2, num_inputs=(0, 2), generator=noise())
    assert weights.shape == (2, 2, 2)
    assert weights.isfinite().all()


def test_a_repeated_input_adds_nothing(tiny_model, images):
    target, inputs = images
    tiny_model.eval()
    once = tiny_model.elbo(target, inputs[:, :1], generator=noise())
    torch.testing.assert_close(tiny_model.elbo(target, inputs[:, [0, 0, 0]], generator=noise()), once)


def test_no_inputs_means_the_standard_normal_at_the_top(tiny_model, images):
    walk = tiny_model.walk(draw_from_prior(noise()), batch_size=2, contexts=[[None] * tiny_model.config.num_groups])
    (prior,) = walk.steps[0].priors
    assert torch.equal(prior.loc, torch.zeros_like(prior.loc))
    assert torch.equal(prior.scale, torch.ones_like(prior.scale))


def test_kl_is_zero_when_the_posterior_is_the_prior(tiny_model, images):
    """With the prior's head in the place of the posterior's and one input equal to the target, q = p in group l
    wherever the ELU is the identity, i.e. for features ≥ 0."""
    target, _ = images
    tiny_model.eval()
    for group in tiny_model.walk.groups:
        group.posterior_head.load_state_dict(group.prior_head.state_dict())
    features = [f.relu() + 100 for f in tiny_model.encoder(target)]
    walk = tiny_model.walk(
        draw_from_posterior(noise()), batch_size=4, contexts=[[InputSet(f, 1) for f in features]], target=features
    )
    for step in walk.steps:
        torch.testing.assert_close(normal_kl(step.posterior, step.priors[0]), torch.zeros_like(step.z))
    torch.testing.assert_close(log_density_ratio(walk), torch.zeros(4, 1))


def test_without_inputs_only_the_first_prior_head_has_no_gradient(tiny_model, images):
    target, _ = images
    tiny_model.train()
    tiny_model.elbo(target, target.new_empty(4, 0, *target.shape[1:])).sum().backward()
    without = {name for name, p in tiny_model.named_parameters() if p.grad is None}
    assert without == {f"walk.groups.0.prior_head.{name}" for name in ("weight", "bias", "log_norm")}


def test_the_inputs_reach_the_image_through_z_alone(tiny_model, images):
    """Same latents, other inputs: the same image (the generator never sees x or y)."""
    target, inputs = images
    tiny_model.eval()
    features = tiny_model.encoder(target)
    of_input = tiny_model.encoder(inputs[:, 0])
    first = tiny_model.walk(
        draw_from_posterior(noise()), batch_size=4, contexts=[[InputSet(f, 1) for f in of_input]], target=features
    )
    latents = [step.z for step in first.steps]
    second = tiny_model.walk(fixed_latents(latents), batch_size=4, contexts=[[None] * len(latents)])
    assert torch.equal(first.state, second.state)
    torch.testing.assert_close(tiny_model.decode(latents), tiny_model.image_head(first.state).mean)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_log_weights_agree_with_a_plain_reference(full_model, k):
    target, inputs = torch.rand(3, 1, 32, 32), torch.rand(3, k, 1, 32, 32)
    ours = full_model.log_importance_weights(target, inputs, num_samples=1, generator=noise(3))[:, 0]
    with torch.no_grad():
        reference = plain_log_weights(full_model, target, inputs, noise(3))
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=5e-3)


def test_the_importance_estimate_tightens_with_more_samples(tiny_model, images):
    target, inputs = images
    log_weights = tiny_model.log_importance_weights(target, inputs, num_samples=4096, generator=noise())

    def estimate(samples):
        return (log_weights.unflatten(1, (-1, samples)).logsumexp(dim=2) - math.log(samples)).mean().item()

    estimates = [estimate(samples) for samples in (1, 4, 16, 64, 256)]
    assert estimates == sorted(estimates)


def test_the_same_seed_gives_the_same_samples_and_temperature_zero_gives_one(tiny_model, images):
    _, inputs = images
    first = tiny_model.sample(inputs, num_samples=3, generator=noise())
    assert torch.equal(first, tiny_model.sample(inputs, num_samples=3, generator=noise()))
    assert not torch.equal(first, tiny_model.sample(inputs, num_samples=3, generator=noise(1)))
    cold = tiny_model.sample(inputs, num_samples=2, temperature=0.0)
    torch.testing.assert_close(cold[:, 0], cold[:, 1])


def test_many_samples_do_not_change_their_shape_in_chunks(tiny_model, images, monkeypatch):
    _, inputs = images
    monkeypatch.setattr("fusionvae_model.fusionvae.PIXELS_PER_PASS", 8 * tiny_model.config.image_size**2)
    assert tiny_model.sample(inputs, num_samples=5, generator=noise()).shape[:2] == (4, 5)
    assert tiny_model.log_importance_weights(inputs[:, 0], inputs, num_samples=5, num_inputs=(0, 2)).shape == (4, 2, 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, y, x: m.elbo(y[:, :, :8], x), "target has shape"),
        (lambda m, y, x: m.elbo(y, x[:, 0]), "inputs have shape"),
        (lambda m, y, x: m.elbo(y, x[:2]), "inputs have shape"),
        (lambda m, y, x: m.sample(x, num_samples=0), "num_samples is 0"),
        (lambda m, y, x: m.sample(x, temperature=float("nan")), "temperature is nan; expected a finite number"),
        (lambda m, y, x: m.sample(x, temperature=-0.1), "temperature is -0.1; expected a finite number"),
        (lambda m, y, x: m.sample(x, batch_size=3), "inputs have shape"),
        (lambda m, y, x: m.log_importance_weights(y, x, num_samples=1, num_inputs=(4,)), "num_inputs is"),
        (lambda m, y, x: m.decode([y]), r"got latents of shapes \[\[4, 1, 16, 16\]\]; expected 3 groups of"),
        (lambda m, y, x: m.decode([]), r"got latents of shapes \[\]; expected 3 groups of"),
        (lambda m, y, x: m.sample(255 * x), r"the inputs: got values from .* to 25.*; expected \[0, 1\]: divide"),
        (lambda m, y, x: m.sample(x * torch.nan), "the inputs: got values from nan to nan"),
        (lambda m, y, x: m.log_importance_weights(2 * y - 1, x, num_samples=1), "the target: got values from -"),
        (lambda m, y, x: m.log_importance_weights(y, x - 0.01, num_samples=1), "the inputs: got values from -0.0"),
        (lambda m, y, x: m.sample(x.numpy()), "the inputs: got a ndarray; expected a tensor"),
        (lambda m, y, x: m.elbo(y, None), "the inputs: got a NoneType; expected a tensor"),
        (lambda m, y, x: m.elbo(y.tolist(), x), "the target: got a list; expected a tensor"),
        (lambda m, y, x: m.sample(x.to("meta")), "the inputs: got images on meta; this model is on cpu"),
        (lambda m, y, x: m.sample(x, num_samples=2.0), "num_samples is 2.0; expected a whole number"),
        (lambda m, y, x: m.sample(batch_size=-1), "batch_size is -1; expected at least 1"),
        (lambda m, y, x: m.sample(x, others=y), "others is one tensor"),
        (lambda m, y, x: m.sample(x, generator=0), "got 0 as generator; expected a torch.Generator"),
        (lambda m, y, x: m.log_importance_weights(y, x, num_samples=1, num_inputs=2), "num_inputs is 2; expected sev"),
        (lambda m, y, x: type(m)("fusion-mnist"), "got 'fusion-mnist' as the architecture of a FusionVAE"),
        (lambda m, y, x: type(m).from_pretrained("fusion-mnist", device="cpo"), "got device 'cpo'; expected one that"),
        (lambda m, y, x: build_model(m.config, posterior="xy"), "a complete configuration says which posterior"),
        (lambda m, y, x: type(m).from_preset("fusion-moon"), "unknown preset"),
        (lambda m, y, x: m.elbo((255 * y).byte(), x), r"the target: got images of type torch.uint8; .* / 255"),
        (lambda m, y, x: m.sample((255 * x).byte()), r"the inputs: got images of type torch.uint8"),
        (lambda m, y, x: m.log_importance_weights(y, x.double(), num_samples=1), "type torch.float64"),
        (lambda m, y, x: m.sample(x[:0]), "the inputs: got a batch of no images"),
        (lambda m, y, x: m.elbo(y[:0], x[:0]), "the target: got a batch of no images"),
        (lambda m, y, x: m(y, x, num_samples=0), "num_samples is 0"),
        (lambda m, y, x: m.folded().save_pretrained("nowhere"), "a folded copy cannot be saved"),
    ],
)
def test_wrong_shapes_and_numbers_are_refused_in_one_sentence(tiny_model, images, call, words):
    with pytest.raises(FusionVAEError, match=words) as caught:
        call(tiny_model, *images)
    assert "\n" not in str(caught.value)


def test_inference_leaves_every_part_in_the_mode_it_had(tiny_model, images):
    tiny_model.train()
    tiny_model.encoder.eval()  # as where its statistics are frozen
    modes = [module.training for module in tiny_model.modules()]
    tiny_model.sample(images[1])
    assert [module.training for module in tiny_model.modules()] == modes


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(tiny_model, images):
    target, inputs = images
    tiny_model.eval()
    features = tiny_model.encoder(target)
    walk = tiny_model.walk(
        draw_from_posterior(noise()), batch_size=4, contexts=[[InputSet(f, 1) for f in features]], target=features
    )
    latents = [step.z for step in walk.steps]
    on_cpu = tiny_model.decode(latents)
    on_gpu = tiny_model.cuda().decode([z.cuda() for z in latents]).cpu()
    torch.testing.assert_close(on_cpu, on_gpu, rtol=1e-3, atol=1e-4)
    assert tiny_model.elbo(target.cuda(), inputs.cuda()).isfinite().all()


def test_a_shade_beyond_the_range_is_rounding(tiny_model, images):
    target, inputs = images
    inputs[0, 0, 0, 0, :2] = torch.tensor([-0.0019, 1.0019])
    assert tiny_model.sample(inputs, generator=noise()).isfinite().all()
    target[0, 0, 0, 0] = 1.0019
    assert tiny_model.log_importance_weights(target, inputs, num_samples=2, generator=noise()).isfinite().all()


def test_threads_share_a_model_in_eval_mode(tiny_model, images, monkeypatch):
    """Nothing is switched where nothing has to be; parts in training are, and back."""
    tiny_model.eval()
    switched = []
    monkeypatch.setattr(torch.nn.Module, "train", lambda module, mode=True: switched.append(module))
    tiny_model.sample(images[1])
    tiny_model.walk.groups[0].training = True
    tiny_model.sample(images[1])
    assert not switched
    assert [module for module in tiny_model.modules() if module.training] == [tiny_model.walk.groups[0]]


def test_hypotheses_of_a_deterministic_model_are_tensors_of_their_own():
    hypotheses = build_model("fcn", preset="fusion-mnist-small").sample(torch.rand(1, 2, 1, 32, 32), num_samples=3)
    hypotheses[:, 0] = 0
    assert (hypotheses[:, 1:] > 0).all()
