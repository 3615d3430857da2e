"""Muon against PyTorch's, and the iteration that makes singular values equal against a singular value decomposition."""

import pytest
import torch

from fusionvae_model.adamax import Adamax
from fusionvae_model.muon import Muon, orthogonalised

YES, NO = torch.tensor(True), torch.tensor(False)
SHAPES = {
    "gain": (7,),
    "filters": (4, 3, 3, 3),
    "depthwise": (6, 1, 5, 5),
    "tall": (12, 5, 1, 1),
    "gate": (4, 8),
    "others": (4, 3, 3, 3),
}
MATRICES = {"filters", "tall", "others"}


def parameters():
    noise = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=noise)) for name, shape in SHAPES.items()}


def set_gradients(named, step, *, without=()):
    noise = torch.Generator().manual_seed(step)
    for name, parameter in named.items():
        gradient = torch.randn(parameter.shape, generator=noise) * 10.0 ** (step % 5 - 3)
        parameter.grad = None if name in without else gradient


def steps(optimizer, named, count):
    optimizer.learning_rate.fill_(0.1)
    for step in range(count):
        set_gradients(named, step)
        optimizer.step(optimizer.parameters.gradient(), YES)


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


def test_matrices_move_as_pytorchs_muon_and_the_rest_as_adamax():
    ours, theirs = parameters(), parameters()
    muon = Muon(ours, eps=1e-3, weight_decay=0)
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == SHAPES
    try:
        reference = torch.optim.Muon(
            [torch.nn.Parameter(theirs[name].detach().flatten(1)) for name in sorted(MATRICES)],
            lr=0.1,
            momentum=0.9,
            weight_decay=0,
            adjust_lr_fn="match_rms_adamw",
        )
    except AttributeError:
        pytest.skip("this PyTorch is older than its Muon")
    rest = {name: tensor for name, tensor in theirs.items() if name not in MATRICES}
    adamax = Adamax(rest, eps=1e-3, weight_decay=0)
    moved = dict(zip(sorted(MATRICES), reference.param_groups[0]["params"], strict=True))
    before = {name: matrix.detach().clone() for name, matrix in moved.items()}
    steps(muon, ours, 4)
    adamax.learning_rate.fill_(0.1)
    for step in range(4):
        set_gradients(theirs, step)
        for name, matrix in moved.items():
            matrix.grad = theirs[name].grad.flatten(1)
        reference.step()
        adamax.step(adamax.parameters.gradient(), YES)
    for name, tensor in rest.items():
        assert torch.equal(ours[name], tensor), name
    for name, matrix in moved.items():  # PyTorch's computes in bfloat16
        way, expected = ours[name].detach().flatten(1) - before[name], matrix.detach() - before[name]
        assert (way - expected).norm() < 0.04 * expected.norm(), name


@pytest.mark.parametrize("first", [True, False])
def test_declined_step_leaves_no_trace(first):
    named = parameters()
    muon = Muon(named, eps=1e-3, weight_decay=3e-4)
    if not first:
        steps(muon, named, 2)
    set_gradients(named, 7)
    before = [tensor.clone() for tensor in (*named.values(), *muon.state.values())]
    muon.step(muon.parameters.gradient() * torch.nan, NO)
    after = [*named.values(), *muon.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_parameter_without_gradient_keeps_its_state():
    named = parameters()
    muon = Muon(named, eps=1e-3, weight_decay=3e-4)
    steps(muon, named, 2)
    before = {name: tensor.detach().clone() for name, tensor in named.items()}
    set_gradients(named, 7, without=("others", "gain"))
    muon.step(muon.parameters.gradient(), YES)
    assert {name for name, tensor in named.items() if torch.equal(tensor, before[name])} == {"others", "gain"}
