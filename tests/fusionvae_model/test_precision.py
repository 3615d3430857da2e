import time

import pytest
import torch
from torch.nn import functional as F

from fusionvae_model import device
from fusionvae_model.device import bfloat16_warning, slowdown_in_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "where", "slowdown", "warned"),
    [
        ("bf16", CPU, 9.2, True),
        ("bf16", CPU, 0.6, False),
        ("32", CPU, 9.2, False),
        ("bf16", torch.device("cuda"), 9.2, False),
    ],
)
def test_who_computes_in_bfloat16_where_it_is_imitated_is_told(precision, where, slowdown, warned, monkeypatch):
    monkeypatch.setattr(device, "slowdown_in_bfloat16", lambda: slowdown)
    warning = bfloat16_warning(precision, where)
    assert (warning is not None) == warned
    if warned:
        assert "9 times" in warning
        assert "--precision 32" in warning


@pytest.mark.parametrize("delays", [{torch.bfloat16: 0.03, torch.float32: 0.003}, {torch.float32: 0.02}])
def test_the_slowdown_is_that_of_the_convolutions(delays, monkeypatch):
    convolve = F.conv2d

    def late(features, *args, **kwargs):
        time.sleep(delays.get(features.dtype, 0.002))
        return convolve(features.float(), args[0].float(), **kwargs)

    monkeypatch.setattr(F, "conv2d", late)
    slowdown = slowdown_in_bfloat16()
    assert slowdown > 3 if torch.bfloat16 in delays else slowdown < 0.7
