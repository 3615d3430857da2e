"""A run and its folder: what is stored, refused, pruned, and what survives a kill at any moment."""

import dataclasses
import json
import os
import shutil

import pytest

from fusionvae_model import FusionVAEError, training
from fusionvae_model.run import sole_writer
from fusionvae_model.run_checkpoints import finished_checkpoints

# One process imports torch and then makes every victim by forking, so that many kills cost little. A victim counts the
# audited operations on files below its output (opening, making, renaming, removing) and kills itself at a given one:
# every moment of a checkpoint's writing has its turn. Two of them are killed by the clock instead.
KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from fusionvae_model import PRESETS, ModelConfig, TrainConfig, trainer
from fusionvae_model.config import Preset
from fusionvae_model.training import train

data, victim_folder, clocked_folder, reference_folder, preset, model, config = sys.argv[1:]
PRESETS[preset] = Preset(ModelConfig.from_dict(json.loads(model)), TrainConfig.from_dict(json.loads(config)))
trainer.STATISTICS_BATCHES_PER_KIND = trainer.GAP_BATCHES_PER_KIND = 1
torch.set_num_threads(1)
torch.optim.Adamax([torch.nn.Parameter(torch.zeros(1))])  # imports what an optimiser needs once for all victims

def fork(output, fatal_operation):
    pid = os.fork()
    if pid:
        return pid
    left = [fatal_operation]
    def count(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and output in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    if fatal_operation:
        sys.addaudithook(count)
    try:
        train(data, output, preset_name=preset, device="cpu", resume=True, log_every=3, checkpoint_seconds=0)
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)

def killed(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    if status:
        sys.exit("a victim failed")
    return False

started = time.monotonic()
if killed(fork(reference_folder, 0)):
    sys.exit("nobody killed the reference")
whole_time = time.monotonic() - started
chance = random.Random(0)
deaths = 0
while killed(fork(victim_folder, chance.randint(5, 40 if deaths < 24 else 80))):
    deaths += 1
for _ in range(3):  # by the clock, at any moment of a run; one that comes too late kills nobody and costs nothing
    pid = fork(clocked_folder, 0)
    time.sleep(chance.uniform(0.1, 0.7) * whole_time)
    os.kill(pid, signal.SIGKILL)
    killed(pid)
if killed(fork(clocked_folder, 0)):
    sys.exit("nobody killed the last")
print(deaths)
"""


@pytest.mark.slow
def test_killed_anywhere_and_resumed_equals_uninterrupted(python, data_file, quick_preset, tmp_path):
    from fusionvae_model import PRESETS

    chosen = PRESETS[quick_preset]
    train = dataclasses.replace(chosen.train, epochs=1)
    settings = [json.dumps(part.to_dict()) for part in (chosen.model, train)]
    killed, clocked, whole = (tmp_path / name for name in ("killed", "clocked", "whole"))
    done = python(KILLS, data_file, killed, clocked, whole, quick_preset, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= 20, "too few were killed"
    for folder in (killed, clocked):
        for stored in ("checkpoints/step-00000003", "checkpoints/step-00000004", "."):
            for path in (whole / stored).glob("*.safetensors"):
                assert path.read_bytes() == (folder / stored / path.name).read_bytes(), path
        assert timeless(folder / "log.jsonl") == timeless(whole / "log.jsonl")
        assert {path.name for path in whole.iterdir()} == {
            path.name for path in folder.iterdir() if not path.name.endswith(".tmp")
        }
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]


def timeless(log):
    """A log's lines without what a clock measured."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_checkpoints_are_pruned_to_two(quick_train, tmp_path):
    quick_train(tmp_path / "run", checkpoint_seconds=0)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000007", "step-00000008"]


def test_checkpoints_keep_their_distance_in_time(finished_run):
    assert [path.name for path in (finished_run / "checkpoints").iterdir()] == ["step-00000008"]


def test_half_written_checkpoint_is_ignored(quick_trainer, run_copy):
    shutil.copytree(run_copy / "checkpoints/step-00000008", run_copy / "checkpoints/.step-00000009.partial")
    (run_copy / "checkpoints/.step-00000009.partial/state.json").unlink()
    trainer = quick_trainer(run_copy, resume=True)
    assert trainer.step == 8
    trainer.step = 10
    trainer.save_checkpoint()
    assert sorted(path.name for path in (run_copy / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "optimiser cut": lambda folder: cut(folder / "optimizer.safetensors"),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights of the optimiser": lambda folder: shutil.copy(
        folder / "optimizer.safetensors", folder / "model.safetensors"
    ),
    "optimiser of the weights": lambda folder: shutil.copy(
        folder / "model.safetensors", folder / "optimizer.safetensors"
    ),
    "state missing": lambda folder: (folder / "state.json").unlink(),
    "state without a step": lambda folder: rewrite(folder / "state.json", step=None),
    "state is a list": lambda folder: (folder / "state.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_gives_way_to_the_one_before(damage, quick_trainer, run_copy, capsys):
    newest = run_copy / "checkpoints/step-00000008"
    before = shutil.copytree(newest, run_copy / "checkpoints/step-00000007")
    rewrite(before / "state.json", step=7)
    DAMAGES[damage](newest)
    assert quick_trainer(run_copy, resume=True).step == 7
    (said,) = capsys.readouterr().err.splitlines()
    assert "step-00000008" in said
    assert said.endswith("going on from the checkpoint before it")
    shutil.rmtree(before)
    with pytest.raises(FusionVAEError, match="step-00000008") as caught:
        quick_trainer(run_copy, resume=True)
    assert "\n" not in str(caught.value)[:200]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "train.seed: 0 there, 1 asked for"),
        ({"batch_size": 6}, "train.batch_size: 12 there, 6 asked for"),
        ({"epochs": 3}, "total_steps: 8 there, 12 asked for; train.epochs: 2 there, 3 asked for"),
        ({"precision": "bf16"}, 'precision: "32" there, "bf16" asked for'),
        ({"minutes": 5.0}, "minutes: null there, 5.0 asked for"),
    ],
)
def test_other_settings_are_refused_by_name(changes, named, quick_train, finished_run):
    with pytest.raises(FusionVAEError) as caught:
        quick_train(finished_run, resume=True, **changes)
    assert named in str(caught.value)
    assert "ask for the same ones" in str(caught.value)


def test_run_from_before_a_setting_existed_goes_on_with_its_default(quick_train, run_copy):
    path = run_copy / "run.json"
    stored = json.loads(path.read_text())
    del stored["compile"], stored["train"]["ema"], stored["model"]["posterior"]
    path.write_text(json.dumps(stored))
    assert quick_train(run_copy, resume=True)["steps"] == 8
    with pytest.raises(FusionVAEError, match=r"train\.ema: 0\.0 there, 0\.9 asked for"):
        quick_train(run_copy, resume=True, overrides=["ema=0.9"])


def test_other_data_are_refused_by_digest(quick_train, finished_run, tmp_path):
    from fusion_datasets.build import build_mnist

    other = build_mnist("stand-in", tmp_path / "other.h5", stand_in_count=48, seed=1, progress=False)
    with pytest.raises(FusionVAEError, match=r"data\.digest: .*; data\.seed: 0 there, 1 asked for"):
        quick_train(finished_run, data=other, resume=True)


def test_run_is_not_begun_twice(quick_train, finished_run):
    with pytest.raises(FusionVAEError, match="already holds a training run; continue it with --resume"):
        quick_train(finished_run)


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_folder_is_left_alone(resume, quick_train, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(FusionVAEError, match="is not empty and holds no training run"):
        quick_train(tmp_path / "letters", resume=resume)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    with pytest.raises(FusionVAEError, match="is a file; expected a folder"):
        quick_train(tmp_path / "letters" / "dear.txt", resume=resume)


def test_what_a_kill_left_before_the_run_stood_is_no_obstacle(quick_trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.77.tmp").write_text("{")
    assert quick_trainer(resume=True).step == 0


@pytest.mark.parametrize("steps", [None, 0, "many"])
def test_maimed_run_file_is_refused(steps, quick_train, run_copy):
    rewrite(run_copy / "run.json", total_steps=steps)
    with pytest.raises(FusionVAEError, match="total_steps"):
        quick_train(run_copy, resume=True)


def test_minutes_fix_the_steps_once(quick_trainer, quick_train, tmp_path, monkeypatch):
    from fusionvae_model.trainer import Trainer

    asked = []

    def measured(self, *, seconds):
        asked.append(seconds)
        return 20 * 60

    monkeypatch.setattr(Trainer, "measure_step_seconds", measured)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda self: 60 * 60 / 20)  # of which there are twenty
    summary = quick_train(tmp_path / "run", minutes=100)
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (summary["steps"], stored["total_steps"], stored["minutes"]) == (2, 2, 100)
    assert asked == [20]
    assert quick_train(tmp_path / "run", minutes=100, resume=True) == summary
    assert len(asked) == 1  # a faster or slower machine would count other steps
    with pytest.raises(FusionVAEError, match=r"minutes: 100 there, 200 asked for"):
        quick_train(tmp_path / "run", minutes=200, resume=True)


def test_minutes_leave_at_least_one_step(quick_trainer, monkeypatch):
    assert quick_trainer(minutes=1e-9).run.total_steps == 1


def test_steps_and_finish_fill_the_minutes(quick_trainer, monkeypatch):
    """As many steps as fit beside the finish after them; a finish after few steps takes few batches."""
    from fusionvae_model import trainer as trainer_module

    trainer = quick_trainer()
    monkeypatch.setattr(trainer_module, "STATISTICS_BATCHES_PER_KIND", 20)
    monkeypatch.setattr(trainer_module, "GAP_BATCHES_PER_KIND", 2)
    passes = [trainer.passes_beside(steps) for steps in (1, 4, 8, 9, 40, 79, 80, 100, 10**6)]
    assert passes == [20, 20, 40, 40, 72, 108, 112, 112, 112]
    speed = {"step_seconds": 3.0, "pass_seconds": 1.0}
    for seconds, steps in (
        (-1, 1),
        (0, 1),
        (33, 4),
        (64, 8),
        (191, 40),
        (352, 80),
        (3112, 1000),
        (3113, 1000),
        (3114, 1001),
    ):
        assert trainer.steps_within(seconds, **speed) == steps, seconds
    assert trainer.steps_within(3112, step_seconds=3.0, pass_seconds=0.0) == 1037


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), 1e300])
def test_impossible_minutes(minutes, quick_trainer):
    with pytest.raises(FusionVAEError, match="expected a number above 0 and at most 5,270,400"):
        quick_trainer(minutes=minutes)


def test_one_process_at_a_time(quick_train, tmp_path):
    with sole_writer(tmp_path / "run"), pytest.raises(FusionVAEError, match="another process is training in"):
        quick_train(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    with sole_writer(tmp_path / "run"):
        pass


def test_a_run_that_came_while_this_one_was_prepared_is_left_alone(quick_train, finished_run, tmp_path, monkeypatch):
    prepare, output = training.prepare, tmp_path / "run"

    def prepare_for_long(*arguments, **options):
        trainer = prepare(*arguments, **options)
        shutil.copytree(finished_run, output)
        return trainer

    monkeypatch.setattr(training, "prepare", prepare_for_long)
    with pytest.raises(FusionVAEError, match="has got another process's run while this one was being prepared"):
        quick_train(output, seed=1)
    there, before = ({p.name: p.read_bytes() for p in run.rglob("*") if p.is_file()} for run in (output, finished_run))
    assert there == before


def test_full_disk_leaves_the_checkpoints_whole(quick_trainer, run_copy, monkeypatch):
    trainer = quick_trainer(run_copy, resume=True)
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    synced = os.fsync
    for allowed in range(8):
        left = [allowed]

        def full(descriptor, left=left):
            if left[0] == 0:
                raise OSError(28, "No space left on device")
            left[0] -= 1
            synced(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            trainer.step = 9
            with pytest.raises(FusionVAEError, match=r"cannot write .*No space left on device; choose a folder"):
                trainer.save_checkpoint()
        assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
        assert finished_checkpoints(run_copy) == [run_copy / "checkpoints/step-00000008"]
    trainer.save_checkpoint()
    assert len(finished_checkpoints(run_copy)) == 2
