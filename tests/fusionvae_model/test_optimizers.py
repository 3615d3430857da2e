"""AdaMax and Muon against PyTorch's, what a step may not touch, and the moving average of the weights."""

import pytest
import torch

from fusionvae_model.adamax import Adamax, WeightAverage
from fusionvae_model.muon import Muon, orthogonalised

YES, NO = torch.tensor(True), torch.tensor(False)
SHAPES = {
    "gain": (7,),
    "filters": (4, 3, 3, 3),
    "depthwise": (6, 1, 5, 5),
    "tall": (12, 5, 1, 1),
    "head": (2, 2),
    "others": (4, 3, 3, 3),
}
MATRICES = ("filters", "others", "tall")


def parameters():
    noise = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=noise) for name, shape in SHAPES.items()}
    made["filters"] = made["filters"].to(memory_format=torch.channels_last)
    return {name: torch.nn.Parameter(tensor) for name, tensor in made.items()}


def set_gradients(named, step, *, without=()):
    noise = torch.Generator().manual_seed(step)
    for name, parameter in named.items():
        gradient = torch.randn(parameter.shape, generator=noise) * 10.0 ** (step % 5 - 3)
        parameter.grad = None if name in without else gradient


def take_steps(optimizer, named, count):
    for step in range(count):
        set_gradients(named, step)
        optimizer.learning_rate.fill_(0.01 * (step + 1))
        optimizer.step(optimizer.parameters.gradient(), YES)


def test_steps_are_those_of_pytorch():
    ours, theirs = parameters(), parameters()
    adamax = Adamax(ours, eps=1e-3, weight_decay=3e-4)
    reference = torch.optim.Adamax(theirs.values(), eps=1e-3, weight_decay=3e-4)
    for step in range(12):
        rate = 0.01 * (step + 1)
        for named in (ours, theirs):
            set_gradients(named, step, without=("head",) if step % 3 == 0 else ())
        adamax.learning_rate.fill_(rate)
        reference.param_groups[0]["lr"] = rate
        adamax.step(adamax.parameters.gradient(), YES)
        reference.step()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-6, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch is older than its Muon")
def test_matrices_move_as_pytorchs_muon_and_the_rest_as_adamax():
    ours, theirs = parameters(), parameters()
    muon = Muon(ours, eps=1e-3, weight_decay=0)
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == SHAPES
    before = {name: theirs[name].detach().flatten(1) for name in MATRICES}
    matrices = {name: torch.nn.Parameter(matrix.clone()) for name, matrix in before.items()}
    reference = torch.optim.Muon(matrices.values(), momentum=0.9, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    rest = {name: tensor for name, tensor in theirs.items() if name not in MATRICES}
    adamax = Adamax(rest, eps=1e-3, weight_decay=0)
    take_steps(muon, ours, 4)
    for step in range(4):
        set_gradients(theirs, step)
        for name, matrix in matrices.items():
            matrix.grad = theirs[name].grad.flatten(1)
        reference.param_groups[0]["lr"] = 0.01 * (step + 1)
        adamax.learning_rate.fill_(0.01 * (step + 1))
        reference.step()
        adamax.step(adamax.parameters.gradient(), YES)
    for name, tensor in rest.items():
        assert torch.equal(ours[name], tensor), name
    for name, matrix in matrices.items():  # PyTorch's computes in bfloat16
        way, expected = ours[name].detach().flatten(1) - before[name], matrix.detach() - before[name]
        assert (way - expected).norm() < 0.04 * expected.norm(), name


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (2, 9, 9)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape):
    noise = torch.Generator().manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=noise), full_matrices=False)
    values = torch.logspace(0, -1.5, left.shape[2]) * 1e-6
    near_one = left.mT @ orthogonalised(left * values @ right) @ right.mT
    diagonal = near_one.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.65
    assert diagonal.max() < 1.25
    torch.testing.assert_close(near_one, torch.diag_embed(diagonal), rtol=0, atol=1e-4)


def test_no_gradient_moves_nothing():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("kind", [Adamax, Muon])
@pytest.mark.parametrize("first", [True, False])
def test_declined_step_leaves_no_trace(first, kind):
    named = parameters()
    optimizer = kind(named, eps=1e-3, weight_decay=3e-4)
    take_steps(optimizer, named, 0 if first else 2)
    set_gradients(named, 7)
    before = [tensor.clone() for tensor in (*named.values(), *optimizer.state.values())]
    optimizer.learning_rate.fill_(0.1)
    optimizer.step(optimizer.parameters.gradient() * torch.nan, NO)
    after = [*named.values(), *optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", [Adamax, Muon])
@pytest.mark.parametrize("earlier", [0, 2])
def test_parameter_without_gradient_keeps_its_state(earlier, kind):
    named = parameters()
    optimizer = kind(named, eps=1e-3, weight_decay=3e-4)
    take_steps(optimizer, named, earlier)
    before = {name: tensor.detach().clone() for name, tensor in named.items()}
    set_gradients(named, 7, without=("others", "head"))
    optimizer.learning_rate.fill_(0.1)
    optimizer.step(optimizer.parameters.gradient(), YES)
    assert {name for name, tensor in named.items() if torch.equal(tensor, before[name])} == {"others", "head"}
    counts = dict(zip(optimizer.parameters.names, optimizer.state["counts"].tolist(), strict=True))
    assert counts == {name: earlier + (name not in ("others", "head")) for name in SHAPES}


def test_weight_average_follows_its_law():
    named = parameters()
    adamax = Adamax(named, eps=1e-3, weight_decay=0)
    average = WeightAverage(adamax.parameters, decay=0.5)
    expected = named["gain"].detach().clone()
    for step in range(20):
        with torch.no_grad():
            named["gain"].add_(step)
        average.update(step, YES)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * named["gain"].detach()
    average.update(20, NO)
    adamax.parameters.values.copy_(average.state["weights"])
    torch.testing.assert_close(named["gain"].detach(), expected)


def test_muon_decays_weights_by_their_gradients():
    decayed, plain = parameters(), parameters()
    optimizers = Muon(decayed, eps=1e-3, weight_decay=0.3), Muon(plain, eps=1e-3, weight_decay=0)
    set_gradients(decayed, 1)
    set_gradients(plain, 1)
    for parameter in plain.values():
        parameter.grad = parameter.grad + 0.3 * parameter.detach()
    for optimizer in optimizers:
        optimizer.learning_rate.fill_(0.1)
        optimizer.step(optimizer.parameters.gradient(), YES)
    for name, parameter in decayed.items():
        torch.testing.assert_close(parameter, plain[name], rtol=1e-5, atol=1e-5)
