"""A step that is not finite: it leaves no trace, is explained, and too many of them end the run."""

import json
import signal

import pytest
import torch

from fusionvae_model import FusionVAEError
from fusionvae_model.data import Batch
from fusionvae_model.guard import MOST_CONSECUTIVE_SKIPS
from fusionvae_model.run_checkpoints import finished_checkpoints
from fusionvae_model.trainer import Trainer


def everything(trainer):
    """All that a step may move, copied."""
    tensors = trainer.model.state_dict() | trainer.state.tensors()
    return {name: tensor.clone() for name, tensor in tensors.items()}


def spoil_output(*_):
    return torch.full((), torch.nan)


def hidden(value):
    """A hook that adds a value to a module's output or a parameter's gradient."""
    return lambda *arguments: arguments[-1] + value


FAULTS = {
    "the KL of group 2": lambda model: model.walk.groups[1].prior_head.register_forward_hook(hidden(torch.nan)),
    "the reconstruction": lambda model: model.image_head.register_forward_pre_hook(
        lambda _, arguments: (arguments[0] * torch.inf,)
    ),
    "the gradient of walk.h": lambda model: model.walk.h.register_hook(hidden(torch.inf)),
    "the gradient of encoder.stem.bias": lambda model: model.encoder.stem.bias.register_hook(hidden(torch.nan)),
}


def test_what_was_saved_before_steps_were_skipped_stays(quick_train, tmp_path, monkeypatch):
    """The weights that make every step fail are finite: only the guard knows of them."""
    original = Trainer.train_step

    def skipped_from_the_third_on(trainer, batch, step):
        if step == 2:
            trainer.model.walk.h.register_hook(hidden(torch.nan))
        return original(trainer, batch, step)

    monkeypatch.setattr(Trainer, "train_step", skipped_from_the_third_on)
    settings = {"epochs": 20, "log_every": 1, "checkpoint_seconds": 0}
    with pytest.raises(FusionVAEError, match=r"were skipped.*checkpoints/step-00000002 is from before"):
        quick_train(tmp_path / "run", **settings)
    assert [folder.name for folder in finished_checkpoints(tmp_path / "run")] == ["step-00000001", "step-00000002"]


def test_stopped_while_steps_are_skipped_it_keeps_what_was_good(quick_train, tmp_path, monkeypatch):
    original = Trainer.train_step

    def skipped_from_the_third_on(trainer, batch, step):
        if step >= 2:
            signal.raise_signal(signal.SIGTERM)
        trainer.model.walk.h.register_hook(hidden(torch.nan if step >= 2 else 0.0))
        return original(trainer, batch, step)

    monkeypatch.setattr(Trainer, "train_step", skipped_from_the_third_on)
    for stops in range(3):
        with pytest.raises(FusionVAEError, match="interrupted after step"):
            quick_train(tmp_path / "run", epochs=20, log_every=1, checkpoint_seconds=0, resume=stops > 0)
    names = [folder.name for folder in finished_checkpoints(tmp_path / "run")]
    assert names == [f"step-{step:08d}" for step in (2, 4, 5)]


@pytest.mark.parametrize("culprit", FAULTS)
@pytest.mark.parametrize("earlier_steps", [0, 2])
def test_bad_step_is_named_and_moves_nothing(culprit, earlier_steps, quick_trainer):
    trainer = quick_trainer(overrides=("ema=0.9",))
    for step in range(earlier_steps):
        trainer.train_step(trainer.batch(step), step)
    before = everything(trainer)
    handle = FAULTS[culprit](trainer.model)
    values = trainer.train_step(trainer.batch(earlier_steps, num_inputs=2), earlier_steps)
    handle.remove()
    after = everything(trainer)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(float(value.abs().sum()) == 0 for value in values.values())
    trainer.train_step(trainer.batch(7), 7)
    later = everything(trainer)
    assert all(tensor.isfinite().all() for tensor in later.values())
    assert not torch.equal(later["walk.h"], before["walk.h"])
    (skip,) = trainer.state.guard.report()
    assert (skip.step, skip.culprit) == (earlier_steps + 1, culprit)


def test_regulariser_is_named(quick_trainer):
    trainer = quick_trainer()
    with torch.no_grad():
        trainer.model.walk.groups[1].posterior_head.log_norm.fill_(1000)  # its norm overflows
    trainer.train_step(trainer.batch(0), 0)
    assert "the regulariser" in trainer.state.guard.report()[0].culprit


def spoiled_batches(monkeypatch, steps):
    """At these steps the target is not a number."""
    original = Trainer.batch

    def batch(self, step, num_inputs=None):
        good = original(self, step, num_inputs)
        return Batch(good.target * torch.nan, good.inputs) if step in steps else good

    monkeypatch.setattr(Trainer, "batch", batch)


def test_run_with_a_bad_step_ends_well(quick_train, tmp_path, monkeypatch, capsys):
    spoiled_batches(monkeypatch, {3})
    summary = quick_train(tmp_path / "run")
    assert summary["steps_skipped"] == 1
    assert "step 4 was skipped and left no trace: the reconstruction and the KL" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["steps_skipped"] for line in lines] == [0, 1, 0]
    assert all(line["loss"] < 2000 for line in lines)


def test_line_without_an_accepted_step(quick_train, tmp_path, monkeypatch, capsys):
    spoiled_batches(monkeypatch, {3, 4, 5})
    quick_train(tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[1])
    assert (line["steps_skipped"], line["loss"], line["elbo_nats"], line["kl_per_group"]) == (3, None, None, None)


def test_too_many_bad_steps_in_a_row_end_the_run(quick_train, tmp_path, monkeypatch):
    spoiled_batches(monkeypatch, range(2, 1000))
    with pytest.raises(FusionVAEError) as caught:
        quick_train(tmp_path / "run", epochs=10, log_every=2, checkpoint_seconds=0)
    last = 2 + MOST_CONSECUTIVE_SKIPS
    assert f"the last {MOST_CONSECUTIVE_SKIPS} steps up to {last} were skipped, at last because the rec" in str(
        caught.value
    )
    kept = finished_checkpoints(tmp_path / "run")
    assert str(kept[-1]) in str(caught.value)
    assert [folder.name for folder in kept] == ["step-00000001", "step-00000002"]  # from before the first of them


def test_skips_in_a_row_are_counted_across_an_interruption(quick_trainer, monkeypatch):
    trainer = quick_trainer()
    spoiled_batches(monkeypatch, range(1000))
    for step in range(4):
        trainer.train_step(trainer.batch(step), step)
    trainer.step = 4
    trainer.save_checkpoint()
    (trainer.output / "run.json").write_text(json.dumps(trainer.run.to_dict()))
    guard = quick_trainer(resume=True).state.guard
    assert (guard.consecutive, guard.total) == (4, 4)
