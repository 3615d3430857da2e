"""Images that are kept out of the training, and what is said of them on the way."""

import json

import pytest
import torch
from click.testing import CliRunner

from fusionvae_model import FusionVAE, FusionVAEError, data, held_out, trainer
from fusionvae_model.cli import main
from fusionvae_model.data import TrainingSet, seeded_generator
from fusionvae_model.held_out import held_out_bound, is_measured, measurements
from fusionvae_model.processes import Processes

IMAGES, HELD_OUT = 48, 12


@pytest.fixture
def some_held_out(data_file, monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT_AT_ONCE", 5)
    return TrainingSet(data_file, seed=3, hold_out=HELD_OUT)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def rows(images):
    return {bytes(image) for image in images.flatten(1).numpy()}


def test_they_are_in_no_batch(some_held_out, data_file):
    everything, kept, out = (rows(t) for t in (TrainingSet(data_file, seed=0).targets, some_held_out.targets,
                                               some_held_out.held_out))  # fmt: skip
    assert (len(kept), len(out)) == (IMAGES - HELD_OUT, HELD_OUT)
    assert kept | out == everything
    assert not kept & out
    seen = set()
    for step in range(some_held_out.steps_per_epoch(12)):
        seen |= rows((some_held_out.batch(step, 12, max_inputs=3).target * 255).round().byte())
    assert seen == kept


def test_they_are_the_same_for_every_seed(some_held_out, data_file):
    other = TrainingSet(data_file, seed=4, hold_out=HELD_OUT)
    again, before = other.held_out_batches(max_inputs=3), some_held_out.held_out_batches(max_inputs=3)
    shapes = []
    for one, two in zip(before, again, strict=True):
        assert torch.equal(one.target, two.target)
        assert torch.equal(one.inputs, two.inputs)
        shapes.append(tuple(one.inputs.shape))
    assert shapes == [(5, 3, 1, 32, 32), (5, 3, 1, 32, 32), (2, 3, 1, 32, 32)]


def test_more_of_them_begin_with_the_same_ones(some_held_out, data_file):
    assert rows(some_held_out.held_out) < rows(TrainingSet(data_file, seed=0, hold_out=20).held_out)


@pytest.mark.parametrize("count", [IMAGES, 10**6])
def test_some_must_be_left(count, data_file):
    with pytest.raises(FusionVAEError, match=f"{count} of {IMAGES} training images were to be held out; choose less"):
        TrainingSet(data_file, seed=0, hold_out=count)


def test_bound_is_the_mean_over_images_and_numbers_of_inputs(some_held_out, quick_trainer):
    model = quick_trainer().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bound = held_out_bound(model, some_held_out, max_inputs=3)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert held_out_bound(model, some_held_out, max_inputs=3) == bound
    model.eval()
    by_hand = []
    for index, batch in enumerate(some_held_out.held_out_batches(max_inputs=3)):
        for k in range(4):
            noise = seeded_generator("held-out latents", 0, index)
            by_hand.append(model.elbo(batch.target, batch.inputs[:, :k], generator=noise).detach())
    assert len(torch.cat(by_hand)) == HELD_OUT * 4
    assert bound == pytest.approx(float(torch.cat(by_hand).mean()), rel=1e-6)


def test_processes_share_the_work(some_held_out, quick_trainer):
    class Recording(Processes):
        def mean(self, values):
            sums.append(values)
            return values

    model, sums = quick_trainer().model, []
    alone = held_out_bound(model, some_held_out, max_inputs=3)
    for rank in range(2):
        held_out_bound(model, some_held_out, max_inputs=3, processes=Recording(rank, 2))
    assert len(set(map(float, sums))) == 2
    assert float(sum(sums)) / (HELD_OUT * 4) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("total", [1, 2, 49, 50, 51, 99, 1000, 12345])
def test_measured_evenly_and_after_the_last_step(total):
    count = measurements(total, 100, 1)
    at = [step for step in range(1, total + 1) if is_measured(step, total, count)]
    assert len(at) == count == min(50, total)
    assert at[-1] == total
    gaps = {after - before for before, after in zip([0, *at], at, strict=False)}
    assert max(gaps) - min(gaps) <= 1


def test_a_short_run_is_not_spent_on_them():
    """A pass takes a third of a step: a tenth of the time is three tenths of the images."""
    assert measurements(1000, 25, 1000) == 7
    assert measurements(10, 25, 1000) == 1
    assert measurements(10**6, 25, 1000) == 50


@pytest.fixture
def measured_twice(monkeypatch):
    monkeypatch.setattr(held_out, "MOST_MEASUREMENTS", 2)
    monkeypatch.setattr(held_out, "MOST_OF_THE_TIME", 10)


def test_log_and_summary_say_how_they_stand(quick_train, measured_twice, tmp_path, capsys):
    summary = quick_train(tmp_path / "run", hold_out=HELD_OUT, log_every=4)
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 4, 6]
    assert ["held_out_elbo_nats" in line for line in lines] == [True, False, True]
    assert f", held out {lines[-1]['held_out_elbo_nats']:.1f}" in capsys.readouterr().err
    assert summary["steps"] == 2 * (IMAGES - HELD_OUT) // 12
    assert summary["held_out_images"] == HELD_OUT
    assert summary["held_out_elbo_nats"] == pytest.approx(lines[-1]["held_out_elbo_nats"], rel=0.2)


def test_looking_at_them_leaves_the_training_alone(quick_train, monkeypatch, tmp_path):
    quick_train(tmp_path / "watched", hold_out=HELD_OUT)
    monkeypatch.setattr(trainer, "is_measured", lambda *_: False)
    quick_train(tmp_path / "blind", hold_out=HELD_OUT)
    watched, blind = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("watched", "blind"))
    assert watched == blind


def test_going_on_measures_the_same(quick_train, measured_twice, monkeypatch, tmp_path):
    quick_train(tmp_path / "whole", hold_out=HELD_OUT)
    take = trainer.Trainer.train_step

    def fail_at_the_fifth(self, batch, step):
        if step == 4:
            raise KeyboardInterrupt
        return take(self, batch, step)

    monkeypatch.setattr(trainer.Trainer, "train_step", fail_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        quick_train(tmp_path / "cut", hold_out=HELD_OUT, checkpoint_seconds=0)
    monkeypatch.setattr(trainer.Trainer, "train_step", take)
    with pytest.raises(FusionVAEError, match=f"hold_out: {HELD_OUT} there, 0 asked for"):
        quick_train(tmp_path / "cut", resume=True, epochs=2)
    quick_train(tmp_path / "cut", hold_out=HELD_OUT, checkpoint_seconds=0, resume=True)
    whole, cut = (
        [(line["step"], line.get("held_out_elbo_nats")) for line in lines_of(tmp_path / run)]
        for run in ("whole", "cut")
    )
    assert whole == cut


def test_minutes_leave_time_for_them(quick_trainer):
    """Every measurement and a last one, each of every number of inputs."""
    without, with_them = quick_trainer(), quick_trainer(hold_out=HELD_OUT)
    for steps, count in ((1, 1), (200, 15), (10**4, 50)):
        beside = with_them.passes_beside(steps) - without.passes_beside(steps)
        assert beside == pytest.approx((count + 1) * HELD_OUT * 4 / 12)
    every_k = quick_trainer(hold_out=HELD_OUT, overrides=("every_k=true", "beta_fraction=0"))
    assert every_k.passes_beside(160) - without.passes_beside(160) == pytest.approx(49 * HELD_OUT * 4 / 12)


def test_command(data_file, quick_preset, tmp_path):
    words = ["train", "--data", str(data_file), "--preset", quick_preset, "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*words, "--hold-out", "12", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "training.json").read_text())["held_out_images"] == HELD_OUT
    refused = CliRunner().invoke(main, [*words[:-1], str(tmp_path / "other"), "--hold-out", "48"])
    assert refused.exit_code == 1
    assert "choose less" in refused.output
    assert not (tmp_path / "other").exists()


def test_the_summary_tells_the_bound_of_the_finished_model(quick_train, data_file, tmp_path):
    summary = quick_train(tmp_path / "run", hold_out=HELD_OUT, overrides=("ema=0.9",))
    finished = FusionVAE.from_pretrained(tmp_path / "run")
    bound = held_out_bound(finished, TrainingSet(data_file, seed=0, hold_out=HELD_OUT), max_inputs=3)
    assert summary["held_out_elbo_nats"] == pytest.approx(bound, abs=0.01)


def test_what_processes_have_found_is_added_up(data_file, quick_trainer):
    class Alike(Processes):
        def mean(self, values):
            return values  # the other one has found as much

    images, model = TrainingSet(data_file, seed=0, hold_out=HELD_OUT), quick_trainer().model
    alone = held_out_bound(model, images, max_inputs=3)
    together = held_out_bound(model, images, max_inputs=3, processes=Alike(0, 2))  # one batch, which is the first's
    assert together == pytest.approx(2 * alone, rel=1e-6)
