"""The layouts of the paper's size, level by level: shapes and parameters of every part, in the order of a pass.

The figures are the peers': instantiated from the published settings, with 3×3 prior heads.
"""

import dataclasses

import pytest
import torch
from torch import nn

from fusionvae_model import PRESETS, FusionVAE
from fusionvae_model.layers import DecoderCell, DownCell, EncoderCell, UpCell, WeightNormConv2d

CELLS = {EncoderCell: "residual", DownCell: "down", DecoderCell: "decoder", UpCell: "up"}
PARTS = {
    "stem": "stem",
    "top": "top",
    "project": "u",
    "prior_head": "prior",
    "posterior_head": "posterior",
    "join_latents": "join",
    "parameters_of_pixels": "pixels",
}
"""Name of the module → name in the tables."""


Row = tuple[str, tuple[int, ...], tuple[int, ...], int]
"""Part, shape that goes in, shape that comes out, parameters."""


def square(channels: int, side: int) -> tuple[int, int, int]:
    return channels, side, side


def group(channels: int, side: int, latents: int, *, head: int, join: int, u: int = 0) -> list[Row]:
    """One latent group; the first has no u."""
    features, gaussian = square(channels, side), square(2 * latents, side)
    return [
        *([("u", features, features, u)] if u else []),
        ("prior", features, gaussian, head),
        ("posterior", features, gaussian, head),
        ("join", square(channels + latents, side), features, join),
    ]


def fusion_mnist() -> list[Row]:
    return [
        ("stem", square(1, 32), square(8, 32), 88),
        ("down", square(8, 32), square(16, 16), 3_876),
        ("down", square(16, 16), square(32, 8), 14_916),
        *[("residual", square(32, 8), square(32, 8), 18_980)] * 5,
        ("down", square(32, 8), square(64, 4), 58_500),
        *[("residual", square(64, 4), square(64, 4), 74_820)] * 2,
        ("top", square(64, 4), square(64, 4), 4_224),
        *group(64, 4, 10, head=11_560, join=4_864),
        ("decoder", square(64, 4), square(64, 4), 61_124),
        *group(64, 4, 10, head=11_560, join=4_864, u=4_224),
        ("up", square(64, 4), square(32, 8), 50_564),
        *[
            ("decoder", square(32, 8), square(32, 8), 18_276),
            *group(32, 8, 10, head=5_800, join=1_408, u=1_088),
        ]
        * 5,
        ("up", square(32, 8), square(16, 16), 8_164),
        ("up", square(16, 16), square(8, 32), 2_804),
        ("pixels", square(8, 32), square(1, 32), 74),
    ]


def of_64_by_64(channels: int, stem: int, of_pixel: int, pixels: int) -> list[Row]:
    return [
        ("stem", square(channels, 64), square(32, 64), stem),
        ("residual", square(32, 64), square(32, 64), 18_980),
        ("down", square(32, 64), square(64, 32), 58_500),
        *[("residual", square(64, 32), square(64, 32), 74_820)] * 20,
        ("down", square(64, 32), square(128, 16), 232_712),
        *[("residual", square(128, 16), square(128, 16), 298_120)] * 10,
        ("down", square(128, 16), square(256, 8), 928_272),
        *[("residual", square(256, 8), square(256, 8), 1_190_160)] * 4,
        ("top", square(256, 8), square(256, 8), 66_048),
        *group(256, 8, 20, head=92_240, join=71_168),
        *[("decoder", square(256, 8), square(256, 8), 840_464)] * 2,
        *group(256, 8, 20, head=92_240, join=71_168, u=66_048),
        ("up", square(256, 8), square(128, 16), 670_216),
        *[
            *[("decoder", square(128, 16), square(128, 16), 221_576)] * 2,
            *group(128, 16, 20, head=46_160, join=19_200, u=16_640),
        ]
        * 5,
        ("up", square(128, 16), square(64, 32), 178_948),
        *[
            *[("decoder", square(64, 32), square(64, 32), 61_124)] * 2,
            *group(64, 32, 20, head=23_120, join=5_504, u=4_224),
        ]
        * 10,
        ("up", square(64, 32), square(32, 64), 26_564),
        ("decoder", square(32, 64), square(32, 64), 9_348),
        ("pixels", square(32, 64), square(of_pixel, 64), pixels),
    ]


TABLES = {
    "fusion-mnist": fusion_mnist(),
    "fusion-celeba": of_64_by_64(3, 928, 100, 29_000),
    "fusion-tless": of_64_by_64(1, 352, 1, 290),
}
SIZES = {"fusion-mnist": 671_950, "fusion-celeba": 18_371_132, "fusion-tless": 18_341_846}
WITH_SMALL_HEADS = {"fusion-mnist": 624_550, "fusion-celeba": 17_787_372, "fusion-tless": 17_758_086}
"""With 1×1 prior heads, of which the first group has none."""
LATENTS = {"fusion-mnist": 3_520, "fusion-celeba": 232_960, "fusion-tless": 232_960}
"""Of an image."""
COUNTS = {"fusion-mnist": (91, 56), "fusion-celeba": (268, 220), "fusion-tless": (268, 220)}
"""Convolutions, without the first group's prior head, and batch norms."""


def build(name: str, **changes: int) -> FusionVAE:
    """The preset on the meta device: sizes without numbers."""
    with torch.device("meta"):
        return FusionVAE(dataclasses.replace(PRESETS[name].model, **changes))


@pytest.mark.parametrize("name", TABLES)
def test_every_level_has_the_published_shape_and_size(name):
    model, seen = build(name), []
    for path, module in model.named_modules():
        part = CELLS.get(type(module)) or PARTS.get(path.rpartition(".")[2])
        if part is not None:
            size = sum(parameter.numel() for parameter in module.parameters())
            module.register_forward_hook(
                lambda _, inputs, output, part=part, size=size: seen.append(
                    (part, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]), size)
                )
            )
    images = torch.empty(2, 1, *TABLES[name][0][1], device="meta")
    bound = model(images[:, 0], images)
    assert seen == TABLES[name]
    assert bound.kl.shape == (2, len([row for row in TABLES[name] if row[0] == "prior"]))
    assert model.walk.h.shape == next(into for part, into, _, _ in TABLES[name] if part == "top")
    joined = [(into, out) for part, into, out, _ in seen if part == "join"]
    assert sum((into[0] - out[0]) * into[1] * into[2] for into, out in joined) == LATENTS[name]
    assert model.num_parameters == sum(size for *_, size in seen) + model.walk.h.numel() == SIZES[name]


@pytest.mark.parametrize("name", TABLES)
def test_smaller_prior_heads_give_the_size_published_with_them(name):
    model = build(name, prior_kernel=1)
    first = sum(parameter.numel() for parameter in model.walk.groups[0].prior_head.parameters())
    assert model.num_parameters - first == WITH_SMALL_HEADS[name]


@pytest.mark.parametrize("name", TABLES)
def test_as_many_convolutions_and_batch_norms_are_regularised_as_published(name):
    modules = list(build(name).modules())
    convolutions = [module for module in modules if isinstance(module, WeightNormConv2d | nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert (len(convolutions) - 1, len(norms)) == COUNTS[name]
