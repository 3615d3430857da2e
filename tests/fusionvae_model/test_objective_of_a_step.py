"""Every number of inputs and several weighted draws in one step: the same bound, with less noise or tighter."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn
from variants import TINY, VARIANTS, with_spoiled_statistics

from fusionvae_model import Bound, FusionVAEError, build_model
from fusionvae_model import step as step_module
from fusionvae_model.layers import Cells, SqueezeExcitation
from fusionvae_model.objective import batch_norm_regularizer, negative_elbo

BOTH = ("every_k=true", "importance_samples=3", "beta_fraction=0.5")


@pytest.fixture
def images():
    noise = torch.Generator().manual_seed(3)
    return torch.rand(4, 1, 16, 16, generator=noise), torch.rand(4, 3, 1, 16, 16, generator=noise)


def seeded():
    return torch.Generator().manual_seed(7)


def variant(name):
    torch.manual_seed(0)
    return with_spoiled_statistics(build_model(dataclasses.replace(TINY, **VARIANTS[name])))


@pytest.mark.parametrize("name", [name for name, changes in VARIANTS.items() if "posterior" not in changes])
def test_every_number_of_inputs_is_the_mean_over_them(name, images):
    model, (target, inputs) = variant(name), images
    together = model(target, inputs, num_inputs=range(4), generator=seeded())
    alone = [model(target, inputs[:, :k], generator=seeded()) for k in range(4)]
    torch.testing.assert_close(together.kl, torch.stack([bound.kl for bound in alone]).mean(dim=0))
    torch.testing.assert_close(together.nats, torch.stack([bound.nats for bound in alone]).mean(dim=0))


@pytest.mark.parametrize("name", [name for name, changes in VARIANTS.items() if changes.get("posterior") != "none"])
def test_weighted_draws_are_the_estimate_that_evaluation_makes(name, images):
    model, (target, inputs) = variant(name), images
    bound = model(target, inputs, num_samples=5, generator=seeded())
    weights = model.log_importance_weights(target, inputs, num_samples=5, generator=seeded())
    torch.testing.assert_close(bound.weighted, torch.logsumexp(weights, dim=1) - torch.tensor(5.0).log())
    assert bound.nats is bound.weighted
    assert (bound.nats > weights.mean(dim=1)).all()  # Jensen


def test_weighted_draws_of_every_number_of_inputs(images):
    model, (target, inputs) = variant("max-add"), images
    bound = model(target, inputs, num_inputs=(0, 2), num_samples=5, generator=seeded())
    weights = model.log_importance_weights(target, inputs, num_inputs=(0, 2), num_samples=5, generator=seeded())
    expected = (torch.logsumexp(weights, dim=2) - torch.tensor(5.0).log()).mean(dim=1)
    torch.testing.assert_close(bound.weighted, expected)


def test_their_gradient_reaches_every_parameter(tiny_model, images):
    for module in tiny_model.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.ones_(module.squeeze.bias)  # no ReLU of its four starts dead
    bound = tiny_model(*images, num_inputs=range(4), num_samples=3, generator=seeded())
    negative_elbo(bound, torch.ones(3), beta=1.0).backward()
    for name, parameter in tiny_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["max-add", "bayes-add", "cvae-skip"])
def test_the_best_of_the_prior_is_the_likeliest_of_the_samples(name, images):
    model, (target, inputs) = variant(name), images
    model.eval()
    best = model.best_of_prior(target, inputs, num_draws=6, generator=seeded())
    samples = model.sample(inputs, num_samples=6, generator=seeded())
    each = torch.distributions.Bernoulli(samples, validate_args=False).log_prob(target[:, None]).sum(dim=(2, 3, 4))
    assert len(each.argmax(dim=1).unique()) > 1
    torch.testing.assert_close(best, each.amax(dim=1))


def test_the_best_of_the_prior_trains_what_sampling_uses(tiny_model, images):
    target, inputs = images
    tiny_model.train().best_of_prior(target, inputs, num_draws=3, generator=seeded()).mean().backward()
    assert tiny_model.training
    moved = {name for name, p in tiny_model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    posterior = {name for name, _ in tiny_model.named_parameters() if "posterior_head" in name}
    assert moved.isdisjoint(posterior)
    for part in ("encoder.stem.weight", "walk.h", "groups.0.prior_head.weight", "image_head.parameters_of_pixels.bias"):
        assert any(name.endswith(part) for name in moved), part


@pytest.mark.parametrize("recomputes", [False, True])
def test_batch_norm_remembers_nothing_of_the_best_of_the_prior(recomputes, tiny_model, images):
    tiny_model.train().recompute_activations(recomputes)
    tiny_model(*images, generator=seeded())  # statistics other than the initial ones
    before = {name: buffer.clone() for name, buffer in tiny_model.named_buffers()}
    best = tiny_model.best_of_prior(*images, num_draws=3, generator=seeded())
    best.sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tiny_model.named_buffers())
    in_eval_mode = tiny_model.eval().best_of_prior(*images, num_draws=3, generator=seeded())
    assert not torch.allclose(best, in_eval_mode)  # it normalised by its own batch
    tiny_model.train()(*images, generator=seeded())
    assert not all(torch.equal(buffer, before[name]) for name, buffer in tiny_model.named_buffers())


def test_a_step_counts_the_best_of_the_prior(quick_train, quick_trainer, tmp_path):
    settings = ["every_k=true", "prior_draws=3", "prior_weight=0.5"]
    quick_train(tmp_path / "logged", overrides=settings, log_every=1)
    first = json.loads((tmp_path / "logged" / "log.jsonl").read_text().splitlines()[0])
    with_it, without = (
        quick_trainer(overrides=overrides).state for overrides in (settings, ["every_k=true", "prior_draws=0"])
    )
    batch = quick_trainer(overrides=settings).batch(0)
    theirs, ours = without.take(batch, 0), with_it.take(batch, 0)
    assert first["best_of_prior_nats"] == pytest.approx(float(ours["best_of_prior_nats"]), rel=1e-5)
    torch.testing.assert_close(ours["loss"], theirs["loss"] - 0.5 * ours["best_of_prior_nats"])
    assert "best_of_prior_nats" not in theirs


def test_the_tighter_bound_counts_once_beta_is_one():
    sides = torch.tensor([-3.0, -5.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bound, gamma = Bound(*sides, torch.tensor([-4.0, -6.0])), torch.ones(2)
    assert negative_elbo(bound, gamma, beta=1.0).item() == 5.0
    assert negative_elbo(bound, gamma, beta=0.5) == negative_elbo(Bound(*sides), gamma, beta=0.5)


def test_a_pass_draws_several_only_after_the_warm_up(quick_trainer):
    trainer = quick_trainer(overrides=BOTH)  # β reaches 1 in step 4 of 8
    assert [trainer.state._pass_options(step).get("num_samples", 1) for step in (0, 3, 4, 7)] == [1, 1, 3, 3]
    plain = quick_trainer()
    assert plain.state._pass_options(7) == {}


def test_every_batch_has_all_inputs(quick_trainer):
    trainer = quick_trainer(overrides=["every_k=true"])
    assert [trainer.batch(step, k).inputs.shape[1] for step, k in ((0, None), (1, None), (2, 0), (3, 1))] == [3] * 4


def test_the_log_has_both_bounds(quick_train, tmp_path, finished_run):
    summary = quick_train(tmp_path / "run", overrides=BOTH, log_every=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    gaps = [line["importance_bound_nats"] - line["elbo_nats"] for line in lines]
    assert gaps[:4] == pytest.approx([0] * 4, abs=1e-2)
    assert min(gaps[4:]) > 0.05
    assert [line["num_inputs"] for line in lines] == [3] * 8
    assert summary["train_config"]["every_k"]
    assert "importance_bound_nats" not in (finished_run / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "cvae", "overrides": ["every_k=true"]}, "this cvae has posterior 'xy': leave every_k out"),
        ({"posterior": "xy", "overrides": ["every_k=true"]}, "this fusionvae has posterior 'xy'"),
        ({"kind": "fcn", "overrides": ["importance_samples=2"]}, "but fcn has no latents to draw; leave it at 1"),
        ({"overrides": ["prior_draws=4"]}, "prior_draws is 4, which needs inputs in every step; add every_k=true"),
        ({"overrides": ["prior_weight=-1"]}, "prior_weight is -1.*; expected 0 or more"),
        ({"overrides": ["importance_samples=0"]}, "importance_samples is 0; expected at least 1"),
    ],
)
def test_what_a_model_cannot_do_is_one_sentence(options, words, quick_trainer):
    with pytest.raises(FusionVAEError, match=words):
        quick_trainer(**options)


def test_a_posterior_of_the_inputs_takes_a_pass_for_each_number(images):
    target, inputs = images
    with pytest.raises(
        FusionVAEError, match=r"num_inputs is \(0, 3\); a posterior of inputs and target takes one pass"
    ):
        variant("cvae")(target, inputs, num_inputs=(0, 3))


def test_draws_that_would_never_be_weighed_are_refused(quick_trainer):
    words = ("importance_samples=3", "beta_fraction=0.95")
    with pytest.raises(FusionVAEError, match=r"in 8 steps it rises to 0\.9211; expected a smaller beta_fraction"):
        quick_trainer(overrides=words)
    assert quick_trainer(overrides=words, epochs=20).state.beta(79) == 1


def test_weights_cast_without_a_gradient_are_cast_anew_for_it(quick_trainer):
    """The search for the best draw casts weights in a pass without gradient; its cache must not outlive it."""
    trainer = quick_trainer(precision="bf16", overrides=("every_k=true", "prior_draws=2", "beta_fraction=0"))
    plain = quick_trainer(precision="bf16", overrides=("every_k=true", "beta_fraction=0"))
    with trainer.state._autocast():
        assert not torch.is_autocast_cache_enabled()
    with plain.state._autocast():
        assert torch.is_autocast_cache_enabled()


def test_every_step_has_noise_of_its_own(quick_trainer):
    trainer = quick_trainer()
    trainer.model.eval()
    batch, rows = trainer.batch(0), slice(0, 12)
    first, again, second = (trainer.state._bound(batch, step, rows)[0].nats for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, second).any()


def test_the_best_of_the_priors_draws_has_inputs(quick_trainer, monkeypatch):
    trainer = quick_trainer(overrides=("every_k=true", "prior_draws=2", "beta_fraction=0"))
    batch, asked = trainer.batch(0), []
    monkeypatch.setattr(
        trainer.model,
        "best_of_prior",
        lambda target, inputs, **_: asked.append(inputs.shape[1]) or torch.zeros(len(target)),
    )
    for step in range(60):
        trainer.state._best_of_prior(batch, step, slice(0, 12))
    assert set(asked) == {1, 2, 3}


def test_both_regularisers_join_the_loss_with_their_weight(quick_trainer):
    regularised, plain = (quick_trainer(overrides=(f"regularization={weight}",)) for weight in (2, 0))
    spectral = copy.deepcopy(regularised.state.spectral)(regularised.state.weights.compute())
    expected = 2 * float((spectral + batch_norm_regularizer(regularised.model)).detach())
    losses = [float(trainer.train_step(trainer.batch(0), 0)["loss"]) for trainer in (regularised, plain)]
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-3)


def test_every_step_and_every_purpose_has_noise_of_its_own(quick_trainer, generators_of):
    trainer = quick_trainer(seed=4, overrides=("every_k=true", "prior_draws=2", "beta_fraction=0"))
    batch, asked = trainer.batch(0), generators_of(step_module)
    for step in (0, 1):
        trainer.train_step(batch, step)
    assert len(set(asked)) == len(asked) == 6


@pytest.mark.parametrize("recompute", [False, True])
def test_cells_are_computed_again_where_that_is_asked_for(recompute, quick_trainer):
    trainer = quick_trainer(overrides=(f"recompute_activations={str(recompute).lower()}",))
    chains = [module for module in trainer.model.modules() if isinstance(module, Cells)]
    assert len(chains) > 2
    assert all(chain.recomputes == recompute for chain in chains)
