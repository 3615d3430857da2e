"""AdaMax against PyTorch's, and the moving average of the weights."""

import pytest
import torch

from fusionvae_model.adamax import Adamax, WeightAverage

YES, NO = torch.tensor(True), torch.tensor(False)


def parameters():
    noise = torch.Generator().manual_seed(0)
    shapes = {"filters": (4, 3, 3, 3), "gain": (7,), "head": (2, 2)}
    made = {name: torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    made["filters"] = made["filters"].to(memory_format=torch.channels_last)
    return {name: torch.nn.Parameter(tensor) for name, tensor in made.items()}


def set_gradients(named, step):
    noise = torch.Generator().manual_seed(step)
    for name, parameter in named.items():
        gradient = torch.randn(parameter.shape, generator=noise) * 10.0 ** (step % 5 - 3)
        parameter.grad = None if name == "head" and step % 3 == 0 else gradient


def test_steps_are_those_of_pytorch():
    ours, theirs = parameters(), parameters()
    adamax = Adamax(ours, eps=1e-3, weight_decay=3e-4)
    reference = torch.optim.Adamax(theirs.values(), eps=1e-3, weight_decay=3e-4)
    for step in range(12):
        rate = 0.01 * (step + 1)
        set_gradients(ours, step)
        set_gradients(theirs, step)
        adamax.learning_rate.fill_(rate)
        reference.param_groups[0]["lr"] = rate
        adamax.step(adamax.parameters.gradient(), YES)
        reference.step()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_declined_step_leaves_no_trace(first):
    named = parameters()
    adamax = Adamax(named, eps=1e-3, weight_decay=3e-4)
    adamax.learning_rate.fill_(0.1)
    set_gradients(named, 1)
    if not first:
        adamax.step(adamax.parameters.gradient(), YES)
    before = [tensor.clone() for tensor in (*named.values(), *adamax.state.values())]
    adamax.step(adamax.parameters.gradient() * torch.nan, NO)
    after = [*named.values(), *adamax.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_parameter_without_gradient_keeps_its_state():
    named = parameters()
    adamax = Adamax(named, eps=1e-3, weight_decay=3e-4)
    adamax.learning_rate.fill_(0.1)
    before = named["head"].clone()
    set_gradients(named, 0)
    adamax.step(adamax.parameters.gradient(), YES)
    assert torch.equal(named["head"], before)
    assert adamax.state["counts"].tolist() == [1, 1, 0]


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
