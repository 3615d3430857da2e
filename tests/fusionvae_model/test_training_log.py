"""What a line of the log says of the steps since the last."""

from types import SimpleNamespace

import pytest
import torch

from fusionvae_model import training_log
from fusionvae_model.training_log import TrainingLog


def test_a_line_is_about_the_mean_step_and_the_time_since_the_last_line(tmp_path, monkeypatch):
    """Two steps of 12 images, 5 and 3 seconds apart; in between the run was interrupted."""
    now = [0.0]
    monkeypatch.setattr(training_log, "time", SimpleNamespace(monotonic=lambda: now[0]))
    log = TrainingLog(tmp_path / "log.jsonl")
    values = {name: torch.tensor(1.0) for name in ("loss", "reconstruction_nats", "gradient_norm", "accepted")} | {
        "kl_per_group": torch.ones(1),
        "posterior_variance": torch.tensor([0.006, 0.02]),
    }
    log.add(values, 12, 3)
    now[0] = 5.0
    position, sums = log.position, log.sums
    now[0] = 100.0
    log.go_on(position, sums)
    log.add(values, 12, 3)
    now[0] = 103.0
    others = dict.fromkeys(("step", "epoch", "seconds", "seconds_left", "beta", "learning_rate"), 1.0)
    line = log.write(group_sizes=[2], keep=False, extinct_channels=0, **others)
    assert line["active_units_per_group"] == [1]
    assert line["images_per_second"] == pytest.approx(24 / 8)
