"""Training: schedules, what a step sees, exact resumption, and that it learns."""

import hashlib
import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fusionvae_model import PRESETS, FusionVAE, FusionVAEError, TrainConfig, trainer, training
from fusionvae_model.batch_statistics import reestimate_batch_norm
from fusionvae_model.data import TrainingSet
from fusionvae_model.objective import beta
from fusionvae_model.processes import Processes
from fusionvae_model.run_checkpoints import finished_checkpoints
from fusionvae_model.step import TrainingStep, build_seeded, learning_rate
from fusionvae_model.trainer import Trainer

CONFIG = TrainConfig(epochs=1, batch_size=1, warmup_fraction=0.05, regularization=0.0)
TIMES = {"seconds", "seconds_left", "images_per_second"}


def lines(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def timeless(output):
    """The log without what a clock says."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(output)]


def assert_same_run(output, reference):
    """Weights, buffers, optimiser, singular vectors and log, to the last bit."""
    newest, expected = finished_checkpoints(output)[-1], finished_checkpoints(reference)[-1]
    assert newest.name == expected.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (newest / name).read_bytes() == (expected / name).read_bytes(), name
    assert (output / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    assert timeless(output) == timeless(reference)


def at_step(monkeypatch, step, action):
    """Do something in the middle of a step, between its passes and its bookkeeping."""
    original = Trainer.train_step

    def train_step(self, batch, number):
        values = original(self, batch, number)
        return (action(self, values) or values) if number == step else values

    monkeypatch.setattr(Trainer, "train_step", train_step)


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("total", [1, 2, 20, 1000, 240_000])
def test_learning_rate_rises_then_falls_to_its_floor(total):
    rates = [learning_rate(step, total, CONFIG) for step in range(0, total, max(1, total // 1000))]
    peak = rates.index(max(rates))
    assert min(rates) > 0
    assert max(rates) <= CONFIG.learning_rate
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if total >= 20:
        assert peak / len(rates) == pytest.approx(CONFIG.warmup_fraction, abs=0.002)
        assert learning_rate(total - 1, total, CONFIG) == CONFIG.final_learning_rate


def test_learning_rate_has_the_same_shape_at_any_length():
    for fraction in (0.01, 0.04, 0.3, 0.7, 0.99):
        short, long = (learning_rate(round(fraction * n), n, CONFIG) for n in (2_000, 200_000))
        assert short == pytest.approx(long, abs=1e-4)


def test_learning_rate_meets_the_published_values():
    assert learning_rate(0, 1000, CONFIG) == pytest.approx(0.01 / 51)
    assert learning_rate(50, 1000, CONFIG) == 0.01
    halfway = (50 + 999) / 2
    assert learning_rate(halfway, 1000, CONFIG) == pytest.approx((0.01 + 0.0001) / 2)


@pytest.mark.parametrize("total", [10, 1000, 240_000])
def test_beta_rises_over_its_share_of_all_steps(total):
    values = [beta(step, total, fraction=0.3, floor=1e-4) for step in range(0, total, total // 10)]
    assert values == pytest.approx([1e-4, 1 / 3, 2 / 3] + [1] * 7)


def test_steps_use_the_schedules(finished_run):
    for line in lines(finished_run):
        assert line["learning_rate"] == pytest.approx(
            learning_rate(
                line["step"] - 1, 8, TrainConfig(epochs=2, batch_size=12, warmup_fraction=0.1, regularization=0)
            ),
            rel=1e-5,
        )
        assert line["beta"] == pytest.approx(beta(line["step"] - 1, 8, fraction=0.3, floor=1e-4), rel=1e-5)


def test_weights_depend_on_the_seed_alone(tiny_model):
    torch.manual_seed(11)
    first = build_seeded(tiny_model.config, 3, "cpu")
    following = torch.rand(1)
    torch.manual_seed(11)
    assert torch.rand(1) == following  # the global stream was left alone
    again, other = build_seeded(tiny_model.config, 3, "cpu"), build_seeded(tiny_model.config, 4, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.walk.h, other.walk.h)


def test_another_seed_is_another_run(quick_train, finished_run, tmp_path):
    quick_train(tmp_path / "other", seed=1)
    assert timeless(tmp_path / "other") != timeless(finished_run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(number, quick_train, finished_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda *_: signal.raise_signal(number))
        with pytest.raises(
            FusionVAEError, match="interrupted after step 5 of 8, which is saved; continue with --resume"
        ):
            quick_train(tmp_path / "run")
    assert not (tmp_path / "run" / "training.json").exists()
    assert [folder.name for folder in finished_checkpoints(tmp_path / "run")] == ["step-00000005"]
    quick_train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished_run)


def test_interrupted_in_every_step_equals_uninterrupted(quick_train, finished_run, tmp_path, monkeypatch):
    for step in range(7):
        with monkeypatch.context() as patch:
            at_step(patch, step, interrupt)
            with pytest.raises(FusionVAEError, match="interrupted"):
                quick_train(tmp_path / "run", resume=True)
    quick_train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished_run)


@pytest.mark.parametrize(
    "overrides",
    [["every_k=true", "importance_samples=3", "prior_draws=2", "beta_fraction=0.5"], ["optimizer=muon"]],
    ids=["weighted draws", "muon"],
)
def test_other_kinds_of_steps_resume_as_well(overrides, quick_train, tmp_path, monkeypatch):
    settings = {"overrides": overrides}
    quick_train(tmp_path / "whole", **settings)
    for step in (2, 5):  # β reaches 1 in between
        with monkeypatch.context() as patch:
            at_step(patch, step, interrupt)
            with pytest.raises(FusionVAEError, match="interrupted"):
                quick_train(tmp_path / "run", resume=True, **settings)
    quick_train(tmp_path / "run", resume=True, **settings)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_full_disk_and_resumed_equals_uninterrupted(quick_train, finished_run, tmp_path, monkeypatch):
    left, synced = [20], os.fsync

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FusionVAEError, match=r"cannot write .*: No space left on device; choose a folder"):
            quick_train(tmp_path / "run", checkpoint_seconds=0)
    assert finished_checkpoints(tmp_path / "run") != []
    quick_train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished_run)


def test_interrupted_in_the_last_step_the_finish_is_left(quick_train, finished_run, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        at_step(patch, 7, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted after step 8 of 8, which is saved"):
            quick_train(tmp_path / "run")
    assert "stopping once this step is done and saved; ask again to stop at once" in capfd.readouterr().err
    assert not (tmp_path / "run" / "training.json").exists()
    quick_train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished_run)


def test_a_finished_model_that_is_gone_is_made_again(quick_train, finished_run, run_copy):
    for name in ("model.safetensors", "config.json"):
        (run_copy / name).unlink()
        quick_train(run_copy, resume=True)
        assert_same_run(run_copy, finished_run)


def test_a_request_during_the_last_checkpoint_is_heard(quick_train, finished_run, tmp_path, monkeypatch):
    original = Trainer.save_checkpoint

    def save(trainer, must=True):
        interrupt()
        return original(trainer, must)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", save)
        with pytest.raises(FusionVAEError, match="interrupted after step 8 of 8, which is saved"):
            quick_train(tmp_path / "run")
    quick_train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished_run)


def test_without_a_checkpoint_it_says_that_it_begins_anew(quick_train, finished_run, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted"):
            quick_train(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    quick_train(tmp_path / "run", resume=True)
    assert f"no checkpoint stands in {tmp_path / 'run'}; beginning anew" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", finished_run)


def test_a_run_goes_on_without_the_weights_it_started_from(quick_train, finished_run, tmp_path, monkeypatch, capsys):
    start = shutil.copytree(finished_run, tmp_path / "start")
    settings = {"initial_weights": start, "overrides": ["revive_channels=true"]}
    quick_train(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted"):
            quick_train(tmp_path / "run", **settings)
    start.rename(tmp_path / "elsewhere")
    with pytest.raises(FusionVAEError, match="is not a folder with a model"):
        quick_train(tmp_path / "new", resume=True, **settings)
    summary = quick_train(tmp_path / "run", resume=True, **settings)
    assert "needs no weights to start from" in capsys.readouterr().err
    assert summary["images_seen_before"] == 96
    with pytest.raises(FusionVAEError, match="is not a folder with a model"):  # which began without any
        quick_train(shutil.copytree(finished_run, tmp_path / "random"), resume=True, initial_weights=start)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_would_be_lost_at_the_end_is_met_at_the_beginning(quick_train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted"):
            quick_train(tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("# Notes\n")
    monkeypatch.setattr(Trainer, "train_step", None)
    with pytest.raises(
        FusionVAEError, match=r"README.md is no part of a model .*; move it away, or choose a new folder"
    ):
        quick_train(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "README.md").read_text() == "# Notes\n"


def test_an_unfinished_run_is_called_one(quick_train, tmp_path, monkeypatch):
    at_step(monkeypatch, 4, interrupt)
    with pytest.raises(FusionVAEError, match="interrupted"):
        quick_train(tmp_path / "run")
    said = r"has not come to its end; continue it with --resume, or take what it has saved, .*checkpoints/step-00000005"
    with pytest.raises(FusionVAEError, match=said):
        FusionVAE.from_pretrained(tmp_path / "run")


def test_a_sheet_that_cannot_be_written_stops_nothing(quick_train, finished_run, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise FusionVAEError("cannot write it")

    monkeypatch.setattr(trainer, "write_samples", fail)
    quick_train(tmp_path / "run", sheet_every=4)
    assert "no sheet after step 4: cannot write it" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", finished_run)


def test_a_plan_by_minutes_weighs_steps_by_what_they_cost(quick_trainer, monkeypatch):
    """While β rises, a step of several passes makes one more before them; then draws are weighted."""
    monkeypatch.setattr(TrainingStep, "take", lambda self, batch, step: {"loss": torch.tensor(float(step))})
    monkeypatch.setattr(Trainer, "_measure", lambda self, work, seconds: 1 + float(work(self.batch(0), 0)))
    plain = quick_trainer()
    assert plain.measure_step_seconds(seconds=1) == 1 + plain.run.total_steps
    for settings in ({"accumulate": 2}, {"overrides": ["importance_samples=2"]}):
        several = quick_trainer(**settings)
        assert several.measure_step_seconds(seconds=1) == pytest.approx(0.3 * 1 + 0.7 * (1 + several.run.total_steps))


def test_second_interrupt_acts_at_once(quick_train, tmp_path, monkeypatch):
    def interrupt_twice(*_):
        interrupt()
        interrupt()

    at_step(monkeypatch, 1, interrupt_twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            quick_train(tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_resume_on_nothing_begins(quick_train, finished_run, tmp_path):
    quick_train(tmp_path / "new" / "run", resume=True)
    assert_same_run(tmp_path / "new" / "run", finished_run)


def test_resume_of_a_finished_run_computes_nothing(quick_train, run_copy, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("it computes")

    monkeypatch.setattr(Trainer, "train_step", fail)
    monkeypatch.setattr(Trainer, "finish", fail)
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")}
    summary = quick_train(run_copy, resume=True)
    assert summary == json.loads((run_copy / "training.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")} == before
    assert "is done; nothing is left to compute" in capsys.readouterr().err


def test_killed_before_the_finished_model_stood(quick_train, finished_run, run_copy, monkeypatch):
    for name in ("training.json", "model.safetensors", "config.json", "README.md"):
        (run_copy / name).unlink()
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("all steps were done"))
    quick_train(run_copy, resume=True)
    assert_same_run(run_copy, finished_run)


def test_number_of_inputs_is_uniform(quick_trainer):
    trainer = quick_trainer(batch_size=1)
    counts = torch.zeros(4)
    for step in range(800):
        counts[trainer.batch(step).inputs.shape[1]] += 1
    chi_squared = float(((counts - 200) ** 2 / 200).sum())
    assert chi_squared < 16.3  # exceeded by chance once in a thousand seeds


def test_log_lines_say_everything(finished_run, data_file):
    data = TrainingSet(data_file, seed=0)
    drawn = [data.batch(step, 12, max_inputs=3).inputs.shape[1] for step in range(8)]
    for line, step, steps in zip(lines(finished_run), (3, 6, 8), (3, 3, 2), strict=True):
        assert list(line) == [
            "step",
            "epoch",
            "seconds",
            "seconds_left",
            "loss",
            "elbo_nats",
            "reconstruction_nats",
            "kl_nats",
            "kl_per_group",
            "active_units_per_group",
            "extinct_channels",
            "beta",
            "learning_rate",
            "gradient_norm",
            "num_inputs",
            "steps_skipped",
            "images_per_second",
        ]
        assert line["step"] == step
        assert line["epoch"] == pytest.approx(step / 4, rel=1e-5)
        assert line["elbo_nats"] == pytest.approx(-line["reconstruction_nats"] - line["kl_nats"], rel=1e-4)
        assert line["kl_nats"] == pytest.approx(sum(line["kl_per_group"]), rel=1e-4)
        assert len(line["kl_per_group"]) == 2
        assert line["extinct_channels"] == 0
        assert line["seconds_left"] == pytest.approx(line["seconds"] / step * (8 - step), rel=1e-4)
        assert line["num_inputs"] == pytest.approx(sum(drawn[step - steps : step]) / steps, rel=1e-5)
        assert min(line["gradient_norm"], line["images_per_second"]) > 0


def test_event_files_say_what_the_log_says(quick_train, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted"):
            quick_train(tmp_path / "run", tensorboard=True)
    quick_train(tmp_path / "run", tensorboard=True, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = lines(tmp_path / "run")
    for tag, expected in (
        ("elbo_nats", [line["elbo_nats"] for line in written]),
        ("kl_per_group/2", [line["kl_per_group"][1] for line in written]),
        ("active_units_per_group/1", [line["active_units_per_group"][0] for line in written]),
    ):
        assert [event.step for event in events.Scalars(tag)] == [3, 6, 8]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(expected)


def test_event_files_without_tensorboard(quick_train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(FusionVAEError, match="pip install tensorboard"):
        quick_train(tmp_path / "run", tensorboard=True)


def test_sheets_on_the_way_change_nothing(quick_train, finished_run, tmp_path):
    quick_train(tmp_path / "run", sheet_every=4)
    sheets = sorted((tmp_path / "run" / "sheets").iterdir())
    assert [path.name for path in sheets] == ["step-00000004.png", "step-00000008.png"]
    first, second = (Image.open(path) for path in sheets)
    assert first.size == second.size
    assert first.tobytes() != second.tobytes()
    assert_same_run(tmp_path / "run", finished_run)


def test_the_log_counts_the_channels_that_weight_decay_has_put_out(quick_trainer):
    trainer = quick_trainer()
    norm = trainer.model.walk.groups[1].cells[0].contract[1]
    trainer.log.add(trainer.train_step(trainer.batch(0), 0), 12, 0)
    with torch.no_grad():
        norm.weight[:3] = norm.bias[:2] = 1e-25
        norm.bias[2] = 0.1  # still says something
    trainer.output.mkdir()
    trainer.step = 1
    trainer._write_log_line(None)
    assert lines(trainer.output)[0]["extinct_channels"] == 2


def test_units_are_active_where_the_posterior_mean_differs_among_images(quick_trainer):
    trainer = quick_trainer()
    head = trainer.model.walk.groups[1].posterior_head
    with torch.no_grad():
        head.bias.zero_()
        head.log_norm[:2] = torch.tensor([-20.0, 3.0])  # channel 1 is mute, channel 2 is loud
    trainer.log.add(trainer.train_step(trainer.batch(0), 0), 12, 0)
    line = trainer.log.write(
        group_sizes=trainer.state.group_sizes,
        keep=False,
        extinct_channels=0,
        **dict.fromkeys(("step", "epoch", "seconds", "seconds_left", "beta", "learning_rate"), 1.0),
    )
    assert trainer.state.group_sizes == [2 * 16, 2 * 64]
    assert line["active_units_per_group"][1] == 64


def test_summary_says_what_was_done(finished_run):
    summary = json.loads((finished_run / "training.json").read_text())
    assert (summary["steps"], summary["epochs"], summary["images_seen"]) == (8, 2.0, 96)
    assert summary["dataset_stand_in"] is True
    assert summary["train_config"]["batch_size"] == 12


def test_training_drives_the_bound_up(quick_trainer):
    trainer = quick_trainer(epochs=6)
    held = [trainer.batch(10_000 + k, num_inputs=k) for k in range(4)]

    def bound():
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return float(sum(trainer.model.elbo(b.target, b.inputs, generator=noise).mean() for b in held)) / 4

    before = bound()
    for step in range(24):
        trainer.train_step(trainer.batch(step), step)
    assert bound() > 0.75 * before  # both are negative


def test_bf16_trains_almost_as_32_bits_do(quick_trainer):
    first, second = (quick_trainer(precision=precision) for precision in ("32", "bf16"))
    for step in range(2):
        full, half = (trainer.train_step(trainer.batch(step), step) for trainer in (first, second))
        assert half["loss"].dtype == torch.float32
        assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=0.02)


@pytest.mark.parametrize(("step", "log_every"), [(0, 3), (3, 3), (2, 1)])
def test_divergence_keeps_the_last_good_checkpoint(step, log_every, quick_train, tmp_path, monkeypatch):
    def spoil(trainer, values):
        with torch.no_grad():
            trainer.model.walk.h[0, 0, 0] = torch.nan  # the loss of this step is still finite

    at_step(monkeypatch, step, spoil)
    with pytest.raises(FusionVAEError, match=f"diverged by step {step + 1}, walk.h .* another seed") as caught:
        quick_train(tmp_path / "run", log_every=log_every, checkpoint_seconds=0)
    saved = finished_checkpoints(tmp_path / "run")
    assert [folder.name for folder in saved] == [f"step-{s:08d}" for s in (step - 1, step) if s > 0]
    assert (str(saved[-1]) if saved else "no checkpoint had been saved") in str(caught.value)
    for folder in saved:
        assert all(t.isfinite().all() for t in FusionVAE.from_pretrained(folder).state_dict().values())


def test_interrupt_after_divergence_saves_nothing(quick_train, tmp_path, monkeypatch):
    def spoil_and_interrupt(trainer, values):
        interrupt()
        with torch.no_grad():
            trainer.model.walk.h[0, 0, 0] = torch.nan

    at_step(monkeypatch, 1, spoil_and_interrupt)
    with pytest.raises(FusionVAEError, match=r"diverged by step 2, walk\.h is no longer finite"):
        quick_train(tmp_path / "run")
    assert finished_checkpoints(tmp_path / "run") == []


def test_measuring_a_step_changes_nothing(quick_trainer):
    trainer = quick_trainer()
    tensors = trainer.model.state_dict() | trainer.state.tensors()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    assert trainer.measure_step_seconds(seconds=0) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert trainer.step == 0


def test_a_starved_measurement_is_made_anew(quick_trainer, monkeypatch, capsys):
    """Another program takes the core during the first measurements, in which a round takes 9 s instead of 1."""
    from fusionvae_model import trainer as trainer_module

    class Clock:
        """Time passes where it is looked at: twice around each measurement."""

        def __init__(self, starved: int) -> None:
            self.looks, self.starved, self.now, self.computed = 0, starved, 0.0, 0.0

        def monotonic(self) -> float:
            measurement, look = divmod(self.looks, 3)
            self.looks += 1
            if look > 0:
                self.now += 4.5 if measurement < self.starved else 0.5
                self.computed += 0.5
            return self.now

        def process_time(self) -> float:
            return self.computed

    trainer = quick_trainer()
    for starved, seconds, looks in ((0, 1.0, 3), (1, 1.0, 6), (2, 1.0, 9), (3, 9.0, 9)):
        clock = Clock(starved)
        monkeypatch.setattr(trainer_module, "time", clock)
        of_step = trainer._measure(lambda batch, k: torch.zeros(()), 0.0)
        assert of_step == pytest.approx(seconds / (trainer.run.train.max_inputs + 1))
        assert clock.looks == looks
        assert ("other programs took the cores" in capsys.readouterr().err) == (starved == 3)


def test_passes_outside_a_step_keep_channels_last(quick_trainer):
    """Batch statistics, gaps and the look at a batch before its passes run on features laid out as in a step."""
    trainer = quick_trainer(accumulate=2)
    seen = []
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    trainer.train_step(trainer.batch(0), 0)
    in_step = len(seen)
    trainer.measure_pass_seconds()
    in_measurement = len(seen)
    trainer.finish()
    assert 0 < in_step < in_measurement < len(seen)
    assert all(seen)


def test_a_step_without_inputs_leaves_its_head_alone(quick_trainer):
    trainer = quick_trainer()
    head = trainer.model.walk.groups[0].prior_head
    before = head.weight.clone()
    trainer.train_step(trainer.batch(0, num_inputs=0), 0)
    spectral_only = head.weight.grad  # the bound does not touch it, the regulariser does
    assert trainer.model.walk.groups[0].posterior_head.weight.grad.norm() > 10 * spectral_only.norm()
    trainer.train_step(trainer.batch(1, num_inputs=2), 1)
    assert not torch.equal(head.weight, before)


def test_finished_model_is_the_average_of_the_weights(quick_train, quick_trainer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 5, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted"):
            quick_train(tmp_path / "run", overrides=("ema=0.5",))
    quick_train(tmp_path / "run", overrides=("ema=0.5",), resume=True)
    trainer = quick_trainer(tmp_path / "apart", overrides=("ema=0.5",))
    for step in range(8):
        trainer.train_step(trainer.batch(step), step)
    last = {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}
    trainer.state.parameters.values.copy_(trainer.state.average.state["weights"])
    finished = FusionVAE.from_pretrained(tmp_path / "run")
    for name, weights in finished.named_parameters():
        assert torch.equal(weights, dict(trainer.model.named_parameters())[name])
    assert not torch.equal(finished.walk.h, last["walk.h"])


def test_a_training_from_trained_weights(quick_train, quick_trainer, finished_run, tmp_path):
    output = tmp_path / "run"
    before = FusionVAE.from_pretrained(finished_run).state_dict()
    started = quick_trainer(initial_weights=finished_run, seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in started.model.state_dict().items())
    summary = quick_train(output, initial_weights=finished_run, seed=1)
    weights = finished_run / "model.safetensors"
    assert summary["initial_weights"] == f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}"
    assert summary["images_seen_before"] == 8 * 12
    assert lines(output)[0]["loss"] < lines(finished_run)[0]["loss"]
    third = quick_train(tmp_path / "third", initial_weights=output, epochs=1)
    assert third["images_seen_before"] == 2 * 8 * 12


def test_a_training_from_the_mean_of_trained_weights(quick_train, quick_trainer, finished_run, tmp_path):
    other = tmp_path / "other"
    quick_train(other, initial_weights=finished_run, seed=1)
    folders = [finished_run, other, other]
    one, two, _ = (FusionVAE.from_pretrained(folder).state_dict() for folder in folders)
    started = quick_trainer(initial_weights=folders)
    for name, tensor in started.model.state_dict().items():
        expected = (one[name] + 2 * two[name]) / 3 if tensor.is_floating_point() else one[name]
        torch.testing.assert_close(tensor, expected)
    digests = [f"sha256:{hashlib.sha256((f / 'model.safetensors').read_bytes()).hexdigest()}" for f in folders]
    assert started.run.initial_weights == " + ".join(digests)
    assert started.initial.images_seen == 2 * 8 * 12
    alone = quick_trainer(initial_weights=[other])
    assert (alone.run.initial_weights, alone.initial.images_seen) == (digests[1], 2 * 8 * 12)
    assert all(torch.equal(tensor, two[name]) for name, tensor in alone.model.state_dict().items())
    (tmp_path / "other" / "training.json").unlink()
    assert quick_trainer(initial_weights=folders).initial.images_seen is None


def test_a_training_from_trained_weights_resumes(quick_train, finished_run, tmp_path, monkeypatch):
    quick_train(tmp_path / "whole", initial_weights=finished_run, seed=1)
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 3, interrupt)
        with pytest.raises(FusionVAEError, match="interrupted after step 4"):
            quick_train(output, initial_weights=finished_run, seed=1)
    with pytest.raises(FusionVAEError, match=r"other settings \(initial_weights: \"sha256:.* null asked for"):
        quick_train(output, seed=1, resume=True)
    quick_train(output, initial_weights=finished_run, seed=1, resume=True)
    assert_same_run(output, tmp_path / "whole")


def test_which_pixels_are_scored_is_no_matter_of_weights(quick_train, finished_run, tmp_path):
    quick_train(tmp_path / "run", initial_weights=finished_run, overrides=("nll_size=32",))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["nll_size"] == 32


def test_weights_of_another_architecture_are_no_start(quick_train, finished_run, tmp_path):
    with pytest.raises(FusionVAEError, match=r"another architecture .*latent_channels 2 there, 3 here.*--init"):
        quick_train(tmp_path / "run", initial_weights=finished_run, overrides=["latent_channels=3"])
    with pytest.raises(FusionVAEError, match="is not a folder with a model"):
        quick_train(tmp_path / "run", initial_weights=tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


def test_a_run_by_minutes_follows_the_schedules_of_its_own_length(quick_train, quick_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "measure_step_seconds", lambda self, *, seconds: 20 * 60)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda self: 0.0)
    quick_train(tmp_path / "run", minutes=100, log_every=1)
    rates = [line["learning_rate"] for line in lines(tmp_path / "run")]
    assert 2 <= len(rates) <= 5
    assert rates == pytest.approx(
        [learning_rate(step, len(rates), PRESETS[quick_preset].train) for step in range(len(rates))], rel=1e-5
    )


@pytest.mark.parametrize(("agreed", "steps"), [(None, 10), (300.0, 5)])
def test_a_plan_by_minutes_counts_what_has_passed_and_is_the_same_in_all_processes(
    agreed, steps, quick_trainer, monkeypatch
):
    class Others(Processes):
        def agree(self, value):
            return value if agreed is None else agreed

    asked, clock = [], iter((0.0, 600.0))
    monkeypatch.setattr(Trainer, "measure_step_seconds", lambda self, *, seconds: asked.append(seconds) or 60.0)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda self: 0.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert quick_trainer(minutes=20, processes=Others()).run.total_steps == steps
    assert asked == [20.0]


def test_little_of_a_short_run_goes_into_measuring_a_step(quick_trainer, monkeypatch):
    asked = []
    monkeypatch.setattr(Trainer, "measure_step_seconds", lambda self, *, seconds: asked.append(seconds) or 60.0)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda self: 0.0)
    quick_trainer(minutes=2)
    assert asked == [6.0]


def test_the_average_of_the_weights_knows_the_step(quick_trainer):
    trainer, asked = quick_trainer(overrides=("ema=0.9",)), []
    update = trainer.state.average.update
    trainer.state.average.update = lambda step, accept: asked.append(step) or update(step, accept)
    for step in range(3):
        trainer.train_step(trainer.batch(step), step)
    assert asked == [0, 1, 2]


def test_batch_statistics_are_those_of_the_averaged_weights(quick_trainer):
    trainer = quick_trainer(overrides=("ema=0.9",))
    for step in range(8):
        trainer.train_step(trainer.batch(step), step)
    trainer.finish()
    model = FusionVAE.from_pretrained(trainer.output)
    remembered = {name: buffer.clone() for name, buffer in model.named_buffers()}
    total = trainer.run.total_steps
    reestimate_batch_norm(model, [trainer.batch(total + i, num_inputs=i % 4) for i in range(4)], seed=0)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, remembered[name], rtol=1e-3, atol=1e-4)


def test_the_time_of_a_resumed_run_is_that_of_all_its_parts(quick_train, quick_trainer):
    trainer = quick_trainer()
    trainer.output.mkdir()
    (trainer.output / "run.json").write_text(json.dumps(trainer.run.to_dict()))
    trainer.log.add(trainer.train_step(trainer.batch(0), 0), 12, 0)
    trainer.step, trainer.seconds = 1, 1000.0
    trainer.save_checkpoint()
    assert quick_train(trainer.output, resume=True)["seconds"] > 1000


def test_checkpoints_keep_their_distance_to_the_last(quick_trainer, monkeypatch):
    run, saved = quick_trainer(), []
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 50.0 * run.step))
    monkeypatch.setattr(run, "save_checkpoint", lambda must=True: saved.append(run.step) or True)
    run.output.mkdir()
    run.train(log_every=100, checkpoint_seconds=120)
    assert saved == [3, 6, 8]
