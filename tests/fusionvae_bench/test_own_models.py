"""Models of somebody else's code: never taken for one another, and whatever they do wrong is one sentence."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from stand_ins import MemoryData, Toy

from fusion_datasets.build import build_mnist
from fusionvae_bench import estimate_draws, estimate_nll, evaluate, read_result
from fusionvae_bench.cli import main
from fusionvae_bench.errors import ModelError, ResultError
from fusionvae_bench.protocol import draw
from fusionvae_bench.tables import score_tables
from fusionvae_model import FusionVAE

MODELS = """
import numpy, torch

class Fill:
    def __init__(self, value):
        self.value = value

    def sample(self, inputs, *, num_samples, generator=None):
        return torch.full((len(inputs), num_samples, *inputs.shape[2:]), self.value)

def black():
    return Fill(0.0)

def white():
    return Fill(1.0)

class Careless(Fill):
    def sample(self, inputs, **options):
        return super().sample(inputs.mul_(0.5), **options) + inputs.sum((1, 2, 3, 4))[:, None, None, None, None] * 1e-5

class Careful(Fill):
    def sample(self, inputs, **options):
        half = inputs * 0.5
        return super().sample(half, **options) + half.sum((1, 2, 3, 4))[:, None, None, None, None] * 1e-5

def careless():
    return Careless(0.0)

def careful():
    return Careful(0.0)

class PassesOn:
    def sample(self, inputs, **options):
        return Fill(0.5).sample(inputs, **options)

class Raises:
    def sample(self, inputs, *, num_samples, generator=None):
        raise KeyError("no such layer")

class Numpy:
    def sample(self, inputs, *, num_samples, generator=None):
        return numpy.zeros((len(inputs), num_samples, *inputs.shape[2:]))

def broken():
    raise RuntimeError("the weights are at home")

CONSTANT = 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with data and a module of models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_models.py").write_text(MODELS)
    build_mnist("stand-in", tmp_path / "data.h5", limit=24, progress=False)
    yield tmp_path
    sys.modules.pop("own_models", None)


def score(weights, output, *more):
    words = ["run", "--weights", f"own_models:{weights}", "--data", "data.h5", "--limit", "4", "--num-samples", "3"]
    return CliRunner().invoke(main, [*words, "-o", output, *more])


def test_models_of_one_class_are_not_taken_for_one_another(place):
    assert score("black", "a.json").exit_code == 0
    assert "holds this result already" in score("black", "a.json").stderr
    refused = score("white", "a.json")
    assert refused.exit_code == 1
    assert "holds a result of other weights" in refused.stderr
    (place / "own_models.py").write_text(MODELS.replace("Fill(0.0)", "Fill(0.25)"))
    assert "holds a result of other weights" in score("black", "a.json").stderr


def test_what_a_model_does_to_its_inputs_reaches_nobody(place):
    scores = []
    for name in ("careless", "careful"):
        done = score(name, f"{name}.json")
        assert done.exit_code == 0, done.output
        scores.append(read_result(f"{name}.json").scores)
    assert scores[0] == scores[1]


def test_a_model_that_passes_all_keywords_on_is_given_its_inputs(place):
    assert score("PassesOn", "a.json").exit_code == 0
    assert read_result("a.json").score(0).mse_min > 0


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("Raises", r"Raises.sample failed in .*own_models.py, line \d+ \(KeyError: 'no such layer'\)"),
        ("Numpy", "Numpy.sample returned a ndarray, expected a tensor"),
        ("broken", r"own_models:broken\(\) failed in .*line \d+ \(RuntimeError: the weights are at home\)"),
        ("CONSTANT", "own_models:CONSTANT is a int; expected a function or class"),
        ("absent", "cannot be loaded"),
    ],
)
def test_what_it_does_wrong_is_one_sentence(place, weights, said):
    done = score(weights, "a.json")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert len(done.stderr.strip().splitlines()) == 1 + ("scoring" in done.stderr)
    assert re.search(said, done.stderr)
    assert not (place / "a.json").exists()


def test_our_own_models_keep_their_errors_and_are_lent_the_images_themselves(monkeypatch):
    images = torch.zeros(1, 1, 1, 32, 32)

    def bug(model, inputs, **options):
        assert inputs is images
        raise ZeroDivisionError

    monkeypatch.setattr(FusionVAE, "sample", bug)
    with pytest.raises(ZeroDivisionError):
        draw(FusionVAE.from_preset("fusion-mnist-small"), images, num_samples=1, generator=None)


def test_weights_that_are_all_nought_have_a_place_in_the_table():
    class Nought(Toy):
        def log_importance_weights(self, *arguments, **options):
            return 0 * super().log_importance_weights(*arguments, **options)

    result = evaluate(Nought(), MemoryData(), 5)
    assert result.score(1).nll_nats == 0
    score_tables([replace(result, is_stand_in=False)])


def test_colour_has_three_times_as_many_dimensions():
    data = MemoryData()
    data.shape = (data.size, data.size, 3)
    data.target, data.inputs = (images.repeat(3, axis=-1) for images in (data.target, data.inputs))
    data.spec = SimpleNamespace(nll_size=4, num_dims=16, title="FusionT-LESS")
    assert evaluate(Toy(), data, 3, metrics="nll").num_dims == 48


class InTraining(torch.nn.Module):
    """Mixes images and forgets pixels, unless it is in eval mode."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.BatchNorm2d(1).eval()

    def sample(self, inputs, *, num_samples, generator=None):
        mean = inputs.mean(1) if inputs.shape[1] else torch.zeros(len(inputs), *inputs.shape[2:])
        return torch.sigmoid(self.dropout(self.norm(mean)))[:, None].repeat(1, num_samples, 1, 1, 1)

    def log_importance_weights(self, target, inputs, *, num_samples, generator=None):
        return -(self.sample(inputs, num_samples=num_samples) - target[:, None]).square().sum((2, 3, 4))


def test_modules_are_scored_in_eval_mode_and_stay_as_they_were():
    model, data = InTraining(), MemoryData()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = evaluate(InTraining().eval(), data, 3, 20)
    assert evaluate(model, data, 3, 20).scores == expected.scores
    images = torch.rand(4, 1, 6, 6), torch.rand(4, 2, 1, 6, 6)
    for estimate, field in ((estimate_draws, "mse_mean"), (estimate_nll, "nats")):
        assert (getattr(estimate(model, *images, 3), field) == getattr(estimate(model.eval(), *images, 3), field)).all()
        model.train()
        model.frozen.eval()
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_class_derived_from_ours_is_somebody_elses():
    class Derived(FusionVAE):
        def sample(self, inputs, **options):
            inputs.zero_()
            raise AttributeError("no such layer")

    inputs = torch.rand(2, 3, 1, 32, 32)
    before = inputs.clone()
    with pytest.raises(ModelError, match=r"Derived\.sample failed in .*test_own_models\.py.*no such layer"):
        draw(Derived.from_preset("fusion-mnist-small"), inputs, num_samples=2, generator=torch.Generator())
    assert torch.equal(inputs, before)


class Level:
    def __init__(self, value):
        self.value = value

    def sample(self, inputs, *, num_samples, generator=None):
        return torch.full((len(inputs), num_samples, *inputs.shape[2:]), self.value)


def test_what_nothing_tells_from_others_shares_no_tiles(tmp_path):
    with pytest.raises(ModelError, match="nothing tells this Level from another one"):
        evaluate(Level(0.1), MemoryData(), 2, 20, partial=tmp_path / "tiles")
    first, second = (
        evaluate(Level(value), MemoryData(), 2, 20, partial=tmp_path / str(value), origin=str(value))
        for value in (0.1, 0.9)
    )
    assert first.score(3) != second.score(3)
    with pytest.raises(ResultError, match="holds an unfinished evaluation of other"):
        evaluate(Level(0.9), MemoryData(), 2, 20, partial=tmp_path / "0.1", origin="0.9")


def test_a_likelihood_that_is_not_said_to_be_bernoulli_has_no_floor():
    model = InTraining()
    model.log_importance_weights = lambda target, inputs, *, num_samples, generator=None: torch.full(
        (len(target), num_samples), 1045.0
    )
    result = evaluate(model, MemoryData(), 3, 20)
    assert (result.entropy_floor_nats, result.warnings) == (None, ())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda samples: samples > 0.5,
        lambda samples: samples.to(torch.complex64),
        lambda samples: samples.to_sparse(),
        lambda samples: samples.to("meta"),
    ],
)
def test_tensors_of_other_kinds_are_one_sentence(spoil):
    class Spoiled(Level):
        def sample(self, inputs, **options):
            return spoil(super().sample(inputs, **options))

    with pytest.raises(ModelError, match="returned a tensor o"):
        draw(Spoiled(0.5), torch.rand(2, 1, 1, 6, 6), num_samples=2, generator=torch.Generator())
