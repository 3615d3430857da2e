import inspect

import numpy as np
import pytest
import torch
from solvable import LinearGaussian, OneAtATime, images
from stand_ins import Multiplying, Toy

from fusionvae_bench import estimate_draws, estimate_nll
from fusionvae_bench.errors import BenchError, DataError, ModelError, NonFiniteWeightError

ALL = (0, 1, 2, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truth(model: LinearGaussian, target: torch.Tensor, inputs: torch.Tensor) -> np.ndarray:
    return np.stack([-model.log_likelihood(target, inputs[:, :k]).numpy() for k in ALL], 1)


def test_the_estimate_agrees_with_the_closed_form_within_its_own_standard_error():
    model, (target, inputs) = LinearGaussian(blur=1.15, shift=0.2), images(60)
    estimate = estimate_nll(model, target, inputs, 4000, ALL, generator())
    score = (estimate.nats - truth(model, target, inputs)) / estimate.standard_error
    assert np.abs(score.mean(0)).max() < 0.45  # 60 images: ± 0.13, and the small bias of -log
    assert (np.abs(score) < 2).mean(0).min() > 0.85
    assert 0.6 < score.std() < 1.4
    assert estimate.standard_error.max() < 0.06


def test_the_bias_is_positive_and_shrinks_as_one_over_the_samples():
    model, (target, inputs) = LinearGaussian(blur=1.3, shift=0.5), images(1500)
    exact = truth(model, target, inputs)[:, 3]
    counts = np.array([4, 8, 16, 32, 64])
    bias = [
        (estimate_nll(model, target, inputs, int(s), None, generator(1), chunk=int(s)).nats - exact).mean()
        for s in counts
    ]
    assert min(bias) > 0
    slope = np.polyfit(np.log(counts), np.log(bias), 1)[0]
    assert -1.25 < slope < -0.75


def test_the_exact_posterior_gives_equal_weights():
    model, (target, inputs) = LinearGaussian(), images(8)
    estimate = estimate_nll(model, target, inputs, 50, (0,), generator())
    np.testing.assert_allclose(estimate.nats, truth(model, target, inputs)[:, :1], atol=1e-5)
    np.testing.assert_allclose(estimate.standard_error, 0, atol=1e-6)
    np.testing.assert_allclose(estimate.effective_sample_size, 50, rtol=1e-6)


def test_images_do_not_influence_each_other():
    model, (target, inputs) = LinearGaussian(blur=1.1), images(12)
    order = torch.tensor([7, 3, 0, 11, 1, 2, 10, 9, 4, 8, 6, 5])
    whole = estimate_nll(model, target, inputs, 3000, ALL, generator())
    shuffled = estimate_nll(model, target[order], inputs[order], 3000, ALL, generator())
    assert np.abs(shuffled.nats - whole.nats[order]).max() < 6 * whole.standard_error.max()
    exact = truth(model, target, inputs)[order]
    assert np.abs(shuffled.nats - exact).max() < 6 * whole.standard_error.max()


def test_one_pass_serves_all_numbers_of_inputs_and_a_third_party_needs_one_each():
    model, (target, inputs) = LinearGaussian(blur=1.2), images(5)
    jointly = estimate_nll(model, target, inputs, 40, ALL, generator(), chunk=10)
    assert model.calls == 4
    stranger = OneAtATime(LinearGaussian(blur=1.2))
    separately = estimate_nll(stranger, target, inputs, 40, ALL, generator(), chunk=10)
    assert stranger.calls == 16
    # the same latents for every k, so both ways agree to rounding, not just on average
    np.testing.assert_allclose(separately.nats, jointly.nats, rtol=1e-12)


def test_one_number_of_inputs_drops_the_axis():
    model, (target, inputs) = LinearGaussian(), images(5)
    alone = estimate_nll(model, target, inputs, 30, generator=generator())
    listed = estimate_nll(model, target, inputs, 30, (3,), generator())
    assert alone.nats.shape == (5,)
    np.testing.assert_array_equal(alone.nats, listed.nats[:, 0])


def test_the_same_generator_gives_the_same_numbers_and_none_follows_the_global_seed():
    model, (target, inputs) = LinearGaussian(blur=1.2), images(3)
    first = estimate_nll(model, target, inputs, 20, generator=generator(5)).nats
    np.testing.assert_array_equal(first, estimate_nll(model, target, inputs, 20, generator=generator(5)).nats)
    assert (first != estimate_nll(model, target, inputs, 20, generator=generator(6)).nats).all()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        seeded = estimate_nll(model, target, inputs, 20).nats
        torch.manual_seed(3)
        np.testing.assert_array_equal(seeded, estimate_nll(model, target, inputs, 20).nats)


class Broken(LinearGaussian):
    def log_importance_weights(self, target, inputs, *, num_samples, num_inputs=None, generator=None):
        weights = super().log_importance_weights(
            target, inputs, num_samples=num_samples, num_inputs=num_inputs, generator=generator
        )
        if self.calls == 3:  # samples 20 … 29
            weights[4, 2, 7] = torch.nan
        return weights


def test_a_weight_that_is_nan_is_named_by_image_and_sample():
    with pytest.raises(NonFiniteWeightError, match=r"image 4, sample 27, 2 input\(s\): .* nan") as caught:
        estimate_nll(Broken(), *images(6), 40, ALL, generator(), chunk=10)
    assert (caught.value.image, caught.value.sample, caught.value.num_inputs) == (4, 27, 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t, x: (t * 255, x, 10, None), "outside"),
        (lambda t, x: ((t * 255).byte(), x, 10, None), "divide bytes by 255"),
        (lambda t, x: (t[:2], x, 10, None), "same b"),
        (lambda t, x: (t, x[..., :1], 10, None), "same channels"),
        (lambda t, x: (t, x, 0, None), "at least 1"),
        (lambda t, x: (t, x, 10, (0, 4)), "from 0 to the 3"),
        (lambda t, x: (t, x, 10, ()), "from 0 to the 3"),
        (lambda t, x: (t[:0], x[:0], 10, None), "no images"),
        (lambda t, x: (t, x, 10, None, 0), "int 0 as generator, expected a torch.Generator"),
        (lambda t, x: (t, x, 10, None, np.random.default_rng(0)), "expected a torch.Generator"),
        *((lambda t, x, chunk=chunk: (t, x, 10, None, None, chunk), f"chunk={chunk}, expected") for chunk in (0, -1)),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(change, expected):
    with pytest.raises(DataError, match=expected):
        estimate_nll(LinearGaussian(), *change(*images(4)))


def test_a_model_that_returns_another_shape_is_refused():
    class Flat(LinearGaussian):
        def log_importance_weights(self, *args, **kwargs):
            return super().log_importance_weights(*args, **kwargs).mean(-1)

    with pytest.raises(ModelError, match="expected"):
        estimate_nll(Flat(), *images(4), 10)


def test_draws_obey_the_decomposition_of_the_expected_error():
    target, inputs = torch.rand(4, 1, 6, 6, generator=generator()), torch.rand(4, 2, 1, 6, 6, generator=generator(1))
    errors = estimate_draws(Toy(), target, inputs, 37, generator(), chunk=5)
    variance = errors.standard_deviation.square().mean((1, 2, 3))
    torch.testing.assert_close(errors.mse_one, errors.mse_mean + variance, rtol=1e-6, atol=1e-9)
    assert (errors.mse_min <= errors.mse_one).all()
    assert (errors.mse_mean <= errors.mse_one).all()


def test_draws_in_chunks_equal_all_draws_at_once():
    model, target = Toy(), torch.rand(3, 1, 6, 6, generator=generator())
    inputs = torch.rand(3, 2, 1, 6, 6, generator=generator(1))
    whole = model.sample(inputs, num_samples=24, generator=generator(2)).detach().double()
    squared = (whole - target[:, None]).square().mean((2, 3, 4))

    class Replay:
        def __init__(self):
            self.start = 0

        def sample(self, inputs, *, num_samples, generator=None):
            self.start += num_samples
            return whole[:, self.start - num_samples : self.start].float()

    errors = estimate_draws(Replay(), target, inputs, 24, chunk=7)
    torch.testing.assert_close(errors.mse_min, squared.amin(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(errors.mse_one, squared.mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(errors.mse_mean, (whole.mean(1) - target).square().mean((1, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(errors.standard_deviation, whole.std(1, correction=0), rtol=1e-3, atol=1e-6)


def test_without_inputs_one_pool_of_draws_serves_all_images():
    class Counting(Toy):
        drawn = 0

        def sample(self, inputs=None, *, num_samples=1, batch_size=None, temperature=1.0, generator=None):
            self.drawn += num_samples * (len(inputs) if inputs is not None else batch_size)
            return super().sample(inputs, num_samples=num_samples, batch_size=batch_size, generator=generator)

    model, target = Counting(), torch.rand(9, 1, 6, 6, generator=generator())
    errors = estimate_draws(model, target, target.new_zeros(9, 0, 1, 6, 6), 30, generator())
    assert model.drawn == 30
    assert errors.mse_min.shape == (9,)
    assert len(set(errors.mse_min.tolist())) == 9


def test_a_third_party_without_batch_size_gets_an_empty_set_of_inputs():
    class OnlyInputs:
        def sample(self, inputs, *, num_samples, generator=None):
            assert inputs.shape[1] == 0
            return torch.full((len(inputs), num_samples, *inputs.shape[2:]), 0.25)

    errors = estimate_draws(OnlyInputs(), torch.full((2, 1, 6, 6), 0.75), torch.zeros(2, 0, 1, 6, 6), 4)
    torch.testing.assert_close(errors.mse_min, torch.full((2,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_samples_outside_the_unit_interval_are_refused(value):
    class Wild:
        def sample(self, inputs, *, num_samples, generator=None):
            return torch.full((len(inputs), num_samples, *inputs.shape[2:]), value)

    with pytest.raises(ModelError, match=r"expected means of p\(y\|x,z\) in \[0, 1\]"):
        estimate_draws(Wild(), torch.rand(2, 1, 6, 6), torch.rand(2, 1, 1, 6, 6), 4)


@pytest.mark.parametrize(("precision", "expected"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_only_the_model_computes_in_less_than_float32(precision, expected):
    model, target, inputs = Multiplying(), torch.full((2, 1, 4, 4), 0.2), torch.zeros(2, 1, 1, 4, 4)
    nats = estimate_nll(model, target, inputs, 3, precision=precision).nats
    errors = estimate_draws(model, target, inputs, 3, precision=precision)
    assert set(model.types) == {expected}
    rounded = float(torch.tensor(8 / 21).to(expected))
    assert nats == pytest.approx([-rounded] * 2, rel=1e-6)
    assert errors.mse_one.tolist() == pytest.approx([(rounded - 0.2) ** 2] * 2, rel=1e-5)
    assert errors.standard_deviation.max() < 1e-3  # equal draws, squared in float32


def test_every_failure_is_a_bench_error():
    import fusionvae_bench.errors as errors

    stated = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(c, BenchError) for c in stated)
