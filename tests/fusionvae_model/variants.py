"""Every kind of model and every ablation, small enough for laws that need many passes."""

from torch import nn

from fusionvae_model import AGGREGATIONS, ModelConfig

TINY = ModelConfig(
    image_size=16,
    channels=1,
    nll_size=16,
    likelihood="bernoulli",
    groups_per_scale=(2, 1),
    latent_channels=2,
    base_channels=4,
    preprocessing_blocks=1,
    cells_per_block=2,
    encoder_cells=1,
    decoder_cells=1,
)

BASELINE = {"posterior": "xy", "aggregation": "max"}
VARIANTS = {
    **{name: {"aggregation": name} for name in AGGREGATIONS},
    **{f"{name} q(x, y)": {"aggregation": name, "posterior": "xy"} for name in ("max-add", "mean-add", "max-all")},
    "cvae": {**BASELINE, "kind": "cvae"},
    "cvae-skip": {**BASELINE, "kind": "cvae-skip"},
    "fcn": {**BASELINE, "kind": "fcn", "posterior": "none"},
    "fcn-skip": {**BASELINE, "kind": "fcn-skip", "posterior": "none"},
}
"""What each changes in TINY."""


def with_spoiled_statistics(module: nn.Module) -> nn.Module:
    """Give every batch norm gains, shifts and statistics of its own, and turn to evaluation."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -1, 1)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    return module.eval()
