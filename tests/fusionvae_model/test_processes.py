"""Several processes and several passes per step compute what one would."""

import json

import pytest
import torch

from fusionvae_model import FusionVAEError, step
from fusionvae_model.checkpoint import read_tensors
from fusionvae_model.config import OPTIMIZER_NAMES
from fusionvae_model.processes import ALONE, Processes
from fusionvae_model.run_checkpoints import read_checkpoint

# One process imports torch and forks the others, as torchrun would have started them. Each run is interrupted once.
TOGETHER = """
import json, os, signal, socket, sys
import torch
from fusionvae_model import PRESETS, FusionVAEError, ModelConfig, TrainConfig, trainer
from fusionvae_model.config import Preset
from fusionvae_model.training import train

data, output, preset, model, config = sys.argv[1:]
PRESETS[preset] = Preset(ModelConfig.from_dict(json.loads(model)), TrainConfig.from_dict(json.loads(config)))
trainer.STATISTICS_BATCHES_PER_KIND = trainer.GAP_BATCHES_PER_KIND = 1
torch.set_num_threads(1)
original = trainer.Trainer.train_step
def train_step(self, batch, step):
    if step == 4 and self.processes.rank == 1 and not resume:
        signal.raise_signal(signal.SIGTERM)
    return original(self, batch, step)
trainer.Trainer.train_step = train_step

def rank(number):
    global resume
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        train(data, output, preset_name=preset, device="cpu", log_every=3, resume=resume)
    except FusionVAEError as error:
        assert not resume and "interrupted after step 5 of 8" in str(error), error

for resume in (False, True):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    child = os.fork()
    if not child:
        try:
            rank(1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    rank(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def timeless(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


@pytest.fixture(scope="module", params=OPTIMIZER_NAMES)
def run_of_two(request, python, data_file, quick_settings, quick_train, tmp_path_factory):
    """The folder of a run of two processes, what they said, and the folder of the same run of one."""
    two, one = (tmp_path_factory.mktemp(request.param) / name for name in ("two", "one"))
    preset, model, config = quick_settings
    config = json.dumps(json.loads(config) | {"optimizer": request.param})
    done = python(TOGETHER, data_file, two, preset, model, config)
    assert done.returncode == 0, done.stdout + done.stderr
    quick_train(one, overrides=(f"optimizer={request.param}",))
    return two, done.stderr, one


def test_two_processes_agree_with_one(run_of_two):
    two, _, one = run_of_two
    for folder in ("checkpoints/step-00000008", "."):
        weights, expected = (read_tensors(run / folder / "model.safetensors") for run in (two, one))
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    _, moments, _ = read_checkpoint(two / "checkpoints/step-00000008")
    _, expected, _ = read_checkpoint(one / "checkpoints/step-00000008")
    torch.testing.assert_close(moments["adamax/average"], expected["adamax/average"], rtol=1e-2, atol=2e-2)
    for line, reference in zip(timeless(two), timeless(one), strict=True):
        near = {"active_units_per_group": 1}  # of latents whose variance is next to the bound
        assert line == {key: pytest.approx(value, rel=2e-3, abs=near.get(key)) for key, value in reference.items()}
    summary, expected = (json.loads((run / "training.json").read_text()) for run in (two, one))
    for gap in ("train_eval_gap_nats", "train_eval_gap_nats_after_reestimation"):
        assert summary[gap] == pytest.approx(expected[gap], abs=0.1)


def test_only_the_first_process_writes_and_speaks(run_of_two):
    two, said, one = run_of_two
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert said.count("going on after step 5 of 8") == 1
    assert said.count("training: 8/8 steps") == 1
    assert json.loads((two / "training.json").read_text())["processes"] == 2


@pytest.mark.parametrize("length", ["", ", minutes=0.01"])
def test_processes_that_see_different_folders_are_told(length, python, data_file, quick_settings, tmp_path):
    alone = TOGETHER.replace("resume=resume)", f"resume=resume{length})")
    alone = alone.replace("train(data, output,", "train(data, f'{output}/{number if resume else 0}',").replace(
        """assert not resume and "interrupted after step 5 of 8" in str(error), error""",
        """print(error, file=sys.stderr, flush=True)""",
    )
    assert alone.count("if resume else 0") == alone.count("print(error, file") == 1
    done = python(alone, data_file, tmp_path / "run", *quick_settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "do not start from the same place; expected --data and --output that all of them see alike" in done.stderr
    assert "process 1 stands at step 0" in done.stderr
    assert not (tmp_path / "run" / "1").exists()


@pytest.mark.parametrize("accumulate", [2, 12])
def test_active_units_are_those_of_the_whole_batch(accumulate, quick_trainer):
    whole, cut = quick_trainer(), quick_trainer(accumulate=accumulate)
    for trainer in (whole, cut):
        trainer.model.eval()  # in which passes do not normalise by their own rows
    variances = [trainer.train_step(trainer.batch(0), 0)["posterior_variance"] for trainer in (whole, cut)]
    assert float(variances[0].max()) > 1e-4
    torch.testing.assert_close(variances[1], variances[0], rtol=1e-4, atol=1e-7)


def test_groups_are_balanced_by_the_mean_over_all_processes(quick_trainer, monkeypatch):
    class Elsewhere(Processes):
        def mean(self, values):
            return values + 7 if len(values) == 4 else values  # both sides of the bound and two groups

    trainer, asked = quick_trainer(), []
    monkeypatch.setattr(step, "negative_elbo", lambda *_, mean_kl, **__: asked.append(mean_kl) or original())
    original = lambda: trainer.model.walk.h.sum()  # noqa: E731
    trainer.state.processes = Elsewhere()
    trainer.train_step(trainer.batch(0), 0)
    assert asked[0].min() > 7


def test_shares_are_the_whole_batch_once():
    for count, accumulate in ((1, 1), (2, 3), (4, 1)):
        everyone = [Processes(rank, count).shares(24, accumulate) for rank in range(count)]
        rows = [row for shares in everyone for share in shares for row in range(24)[share]]
        assert rows == list(range(24))
    with pytest.raises(FusionVAEError, match="a batch of 10 cannot be shared equally by 2 processes in 2 passes"):
        Processes(0, 2).shares(10, 2)
    assert ALONE.writes
    assert not Processes(1, 2).writes


WEIGHTED = ("every_k=true", "importance_samples=3", "prior_draws=2", "beta_fraction=0.5")


@pytest.mark.parametrize(("number", "overrides"), [(0, ()), (5, ()), (0, WEIGHTED), (5, WEIGHTED)])
def test_passes_add_up_to_the_whole_batch_where_batch_norm_does_not_mix_it(number, overrides, quick_trainer):
    """In eval mode the two must agree; in train mode each pass normalises by its own rows."""
    one, three = quick_trainer(overrides=overrides), quick_trainer(overrides=overrides, accumulate=3)
    values = []
    for trainer in (one, three):
        trainer.model.eval()
        values.append(trainer.train_step(trainer.batch(number, num_inputs=2), number))
    weighted = ("importance_bound_nats", "best_of_prior_nats") if overrides else ()
    for name in ("loss", "reconstruction_nats", "kl_per_group", "gradient_norm", *weighted):
        torch.testing.assert_close(values[0][name], values[1][name], rtol=1e-4, atol=1e-5)
    for a, b in zip(one.state.optimizer.state.values(), three.state.optimizer.state.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_balancing_looks_at_the_whole_batch_and_leaves_the_statistics_alone(quick_trainer):
    trainer = quick_trainer(accumulate=3)
    trainer.train_step(trainer.batch(0), 0)
    norm = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 3  # not six


def test_passes_are_part_of_the_run(quick_train, tmp_path):
    with pytest.raises(FusionVAEError, match="choose a multiple of 5 with --batch-size"):
        quick_train(tmp_path / "run", accumulate=5)
    quick_train(tmp_path / "run", accumulate=2, epochs=1)
    with pytest.raises(FusionVAEError, match="accumulate: 2 there, 1 asked for"):
        quick_train(tmp_path / "run", epochs=1, resume=True)


def test_groups_are_balanced_by_the_mean_over_all_passes_of_all_processes(quick_trainer):
    class Elsewhere(Processes):
        def mean(self, values):
            return values + 7 if values.shape == (2,) else values

    trainer = quick_trainer(accumulate=2)
    trainer.state.processes = Elsewhere()
    trainer.state.guard.remember()
    kl = trainer.state._kl_of_all_passes(trainer.batch(0), 0, ALONE.shares(12, 2))
    assert kl.min() > 7


def test_processes_agree_on_what_each_has_measured(quick_trainer, monkeypatch):
    class Slower(Processes):
        def agree(self, value):
            return 5.0

    trainer = quick_trainer()
    trainer.processes = Slower()
    assert trainer._measure(lambda batch, k: torch.zeros(()), 0.0) == 5.0
