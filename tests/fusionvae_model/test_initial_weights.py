"""Extinct channels start anew, and nothing else about a trained model changes by that."""

import pytest
import torch
from variants import with_spoiled_statistics

from fusionvae_model import FusionVAE, FusionVAEError
from fusionvae_model.initial_weights import extinct_channels, with_revived_channels

EXTINCT = [1, 4, 5]


@pytest.fixture
def fresh(tiny_model):
    torch.manual_seed(1)
    return FusionVAE(tiny_model.config)


@pytest.fixture
def trained(tiny_model):
    return with_extinct_channels(tiny_model)


def with_extinct_channels(model):
    """Return the model as if trained, until weight decay has put out three channels of one cell."""
    model = with_spoiled_statistics(model)
    cell = model.walk.groups[1].cells[0]
    with torch.no_grad():
        for part in (cell.expand[1], cell.expand[2], cell.contract[0], cell.contract[1]):
            for parameter in part.parameters():
                parameter[EXTINCT] = 1e-25
        for norm in (cell.expand[2], cell.contract[1]):
            norm.running_mean[EXTINCT] = norm.running_var[EXTINCT] = 0.0
    return model


def bounds(model, tensors, training):
    """The bound of a few images by a model of these tensors."""
    model.load_state_dict(tensors)
    noise = torch.Generator().manual_seed(3)
    target, inputs = torch.rand(4, 1, 16, 16, generator=noise), torch.rand(4, 2, 1, 16, 16, generator=noise)
    return model.train(training)(target, inputs, generator=noise)


def test_channels_that_say_nothing_are_found(trained):
    found = extinct_channels(trained, trained.state_dict())
    assert found.pop("walk.groups.1.cells.0").nonzero().flatten().tolist() == EXTINCT
    assert len(found) > 2
    assert not any(channels.any() for channels in found.values())


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_channel_that_still_says_something_is_left_alone(part, trained):
    norm = trained.walk.groups[1].cells[0].contract[1]
    with torch.no_grad():
        getattr(norm, part)[EXTINCT[0]] = 1e-3
    extinct = extinct_channels(trained, trained.state_dict())["walk.groups.1.cells.0"]
    assert extinct.nonzero().flatten().tolist() == EXTINCT[1:]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_still_computes_what_it_did(training, trained, fresh):
    tensors = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    before = bounds(trained, tensors, training)
    after = bounds(fresh, with_revived_channels(fresh, tensors), training)
    torch.testing.assert_close(after.nats, before.nats, rtol=1e-6, atol=0.0)


def test_revived_channels_are_those_of_an_untrained_model_and_the_rest_is_trained(trained, fresh):
    tensors = trained.state_dict()
    revived = with_revived_channels(fresh, tensors)
    assert not any(channels.any() for channels in extinct_channels(trained, revived).values())
    untrained, cell = fresh.state_dict(), "walk.groups.1.cells.0"
    anew = [name for name, tensor in tensors.items() if not torch.equal(tensor, revived[name])]
    kept = [channel for channel in range(len(tensors[f"{cell}.contract.0.weight"])) if channel not in EXTINCT]
    assert {name.removeprefix(f"{cell}.").rpartition(".")[0] for name in anew} == {
        *("expand.1", "expand.2", "contract.0", "contract.1", "contract.3")
    }
    for name in anew:
        if name == f"{cell}.contract.3.weight":
            assert (revived[name][:, EXTINCT] == 0).all()
            assert torch.equal(revived[name][:, kept], tensors[name][:, kept])
        else:
            assert torch.equal(revived[name][EXTINCT], untrained[name][EXTINCT])
            assert torch.equal(revived[name][kept], tensors[name][kept])


def test_they_learn_from_the_first_step_on(quick_trainer, tmp_path):
    torch.manual_seed(3)  # what rounding moves a dead channel's shift by depends on the weights, here 1e-7 at most
    with_extinct_channels(FusionVAE(quick_trainer().model.config)).save_pretrained(tmp_path / "trained")
    settings = {"initial_weights": tmp_path / "trained", "seed": 1}
    dead = quick_trainer(**settings, overrides=["weight_decay=0"])
    alive = quick_trainer(**settings, overrides=["weight_decay=0", "revive_channels=true"])
    for trainer in (dead, alive):
        for step in range(3):
            trainer.train_step(trainer.batch(step, num_inputs=2), step)
    name = "walk.groups.1.cells.0"
    assert extinct_channels(dead.model, dead.model.state_dict())[name].nonzero().flatten().tolist() == EXTINCT
    assert not extinct_channels(alive.model, alive.model.state_dict())[name].any()
    cell = alive.model.walk.groups[1].cells[0]
    assert (cell.contract[3].weight[:, EXTINCT] != 0).all()  # they count
    untrained = quick_trainer(seed=1).model.walk.groups[1].cells[0].expand[1].weight
    assert not torch.equal(cell.expand[1].weight[EXTINCT], untrained[EXTINCT])  # and move


def test_without_a_trained_model_there_is_nothing_to_revive(quick_trainer):
    with pytest.raises(FusionVAEError, match="this training starts from random weights; name the model with --init"):
        quick_trainer(overrides=["revive_channels=true"])
