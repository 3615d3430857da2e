"""What batch norm remembers, and how the memory is mended."""

import pytest
import torch
from torch import nn

from fusionvae_model import trainer as trainer_module
from fusionvae_model.batch_statistics import reestimate_batch_norm, train_eval_gap
from fusionvae_model.trainer import Trainer


def batches(trainer, count, first=100):
    return [trainer.batch(first + i, num_inputs=i % 4) for i in range(count)]


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def spoil(model):
    for norm in norms(model):
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
        norm.running_var.fill_(7)


def test_reestimation_closes_the_gap_between_modes(quick_trainer):
    trainer = quick_trainer(batch_size=24)
    for step in range(4):
        trainer.train_step(trainer.batch(step), step)
    spoil(trainer.model)
    held = batches(trainer, 4, first=500)
    before = train_eval_gap(trainer.model, held, seed=0)
    reestimate_batch_norm(trainer.model, batches(trainer, 12), seed=0)
    after = train_eval_gap(trainer.model, held, seed=0)
    assert before > 0  # it is what a batch's own statistics are better by
    assert abs(after) < 0.1 * before


def test_statistics_are_the_plain_mean_over_batches(tiny_model):
    from fusionvae_model.data import Batch

    noise = torch.Generator().manual_seed(1)
    images = [
        Batch(torch.rand(5, 1, 16, 16, generator=noise), torch.rand(5, 2, 1, 16, 16, generator=noise)) for _ in "ab"
    ]
    tiny_model.train()(images[0].target, images[0].inputs)  # something to forget
    first = norms(tiny_model)[0]
    seen = []
    first.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    reestimate_batch_norm(tiny_model, images, seed=0)
    mean = torch.stack([features.mean(dim=(0, 2, 3)) for features in seen]).mean(dim=0)
    variance = torch.stack([features.var(dim=(0, 2, 3)) for features in seen]).mean(dim=0)
    assert len(seen) == 2
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, variance)


@pytest.mark.parametrize("training", [False, True])
def test_mode_and_momenta_stay(training, quick_trainer):
    trainer = quick_trainer()
    model = trainer.model.train(training)
    before = [norm.momentum for norm in norms(model)]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    reestimate_batch_norm(model, batches(trainer, 2), seed=0)

    def broken():
        yield trainer.batch(0)
        raise OSError

    with pytest.raises(OSError):
        reestimate_batch_norm(model, broken(), seed=0)
    assert model.training == training
    assert [norm.momentum for norm in norms(model)] == before
    assert 0.05 in before
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_measuring_the_gap_changes_nothing(quick_trainer):
    trainer = quick_trainer()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert train_eval_gap(trainer.model, batches(trainer, 2), seed=0) == train_eval_gap(
        trainer.model, batches(trainer, 2), seed=0
    )
    assert trainer.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_every_number_of_inputs_has_an_equal_share(quick_trainer, monkeypatch):
    trainer = quick_trainer()
    monkeypatch.setattr(trainer_module, "STATISTICS_BATCHES_PER_KIND", 2)
    asked = []

    def batch(self, step, num_inputs=None):
        asked.append((step, num_inputs))
        return original(self, step, num_inputs)

    original = Trainer.batch
    monkeypatch.setattr(Trainer, "batch", batch)
    trainer.finish()
    of_gap, of_statistics = {step for step, _ in asked[:4]}, {step for step, _ in asked[4:12]}
    assert {step for step, _ in asked[12:]} == of_gap
    assert (len(of_gap), len(of_statistics), len(of_gap & of_statistics)) == (4, 8, 0)
    counts = [sum(k == kind for _, k in asked) for kind in range(4)]
    assert counts == [4] * 4  # two for the statistics, one for each of the two gaps
    assert min(step for step, _ in asked) >= trainer.run.total_steps  # none of the training's own draws


def test_the_summary_tells_the_gap_before_and_after(quick_trainer, monkeypatch):
    gaps = iter((3.0, 1.0))
    monkeypatch.setattr(trainer_module, "train_eval_gap", lambda *_, **__: next(gaps))
    summary = quick_trainer().finish()
    assert (summary["train_eval_gap_nats"], summary["train_eval_gap_nats_after_reestimation"]) == (3.0, 1.0)
