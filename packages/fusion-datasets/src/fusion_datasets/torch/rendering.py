"""Endless training inputs, rendered in batches on the device that the model trains on."""

from typing import NamedTuple

import torch
from torch import Tensor

from fusion_datasets.corruptions import WHITE_LEVEL, Ellipses, ellipse_visibility
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import BenchmarkSpec, EllipseLaw, ObjectLaw
from fusion_datasets.torch.composition import draw_occluders, draw_target_placements, lay_over, place_targets


class RenderedInputs(NamedTuple):
    """The inputs of a batch.

    Arguments:
        inputs: `[b, k, c, h, w]`, in [0, 1], on the 256 levels of 8 bits as far as the target's dtype has them.
        masks: bool `[b, k, h, w]`, true where the target is visible.
    """

    inputs: Tensor
    masks: Tensor


def draw_ellipses(law: EllipseLaw, size: tuple[int, ...], *, generator: torch.Generator) -> Ellipses:
    """Draw the ellipses of many inputs at once.

    Arguments:
        law: The bounds; see `EllipseLaw` for which are included.
        size: Leading dimensions, say `(b, k)`.
        generator: Source of randomness; its device is where the parameters live.

    Returns:
        Ellipses with radius and aspect `[*size, e]`.
    """
    device, shape = generator.device, (*size, law.count)

    def integers(bounds: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
        low, high = bounds
        return torch.randint(low, high + 1, shape, generator=generator, device=device, dtype=torch.float32)

    low, high = law.aspect
    aspect = torch.rand(shape, generator=generator, device=device).mul_(high - low).add_(low)
    # float32 may round the sum up onto the bound that the law excludes.
    aspect.clamp_(max=high * (1 - 2.0**-24))
    return Ellipses(integers(law.centre_px, (*shape, 2)), integers(law.radius_px, shape), aspect)


@torch.no_grad()
def render_targets(stored: Tensor, spec: BenchmarkSpec, *, generator: torch.Generator) -> Tensor:
    """Turn stored training targets into those of a step: flipped or put into place at random (Sec. 5.4).

    Arguments:
        stored: Training targets in [0, 1], floating point `[b, c, h, w]`, or `[b, c, s, s]` where the benchmark stores
            larger ones; on any device.
        spec: The benchmark.
        generator: Source of randomness, on the targets' device; nothing is drawn where nothing is random.

    Returns:
        Targets, `[b, c, h, w]`.

    Raises:
        FusionDatasetsError: If what is stored is no batch of images in floating point of the benchmark's size.
    """
    _check_images(stored, spec.target_shape("train"), spec)
    if isinstance(spec.law, ObjectLaw):
        return place_targets(stored, draw_target_placements(spec, len(stored), generator=generator), spec)
    if not spec.flips:
        return stored
    flipped = torch.rand(len(stored), 1, 1, 1, generator=generator, device=stored.device) < 0.5
    return torch.where(flipped, stored.flip(-1), stored)


@torch.no_grad()
def render_inputs(
    target: Tensor,
    num_inputs: int,
    spec: BenchmarkSpec,
    *,
    generator: torch.Generator,
    occluders: Tensor | None = None,
) -> RenderedInputs:
    """Render inputs by the law of the frozen sets (Sec. 5.1), rounded to 8 bits as those are.

    Arguments:
        target: Clean images in [0, 1], floating point `[b, c, h, w]`, on any device.
        num_inputs: How many inputs, k ≥ 0.
        spec: The benchmark.
        generator: Source of randomness, on the target's device.
        occluders: What an `ObjectLaw` lays over the targets, made by `occluder_pool` with as many colours.

    Returns:
        Inputs, in the target's dtype, which may round them, and masks. Nothing waits for the device, so whether the
        target is in [0, 1] is not looked at.

    Raises:
        FusionDatasetsError: If the target is no batch of images in floating point of the benchmark's size, or an
            `ObjectLaw` lacks occluders.
    """
    _check_images(target, spec.shape, spec)
    if num_inputs < 0:
        raise FusionDatasetsError(f"got {num_inputs} inputs; expected 0 or more")
    if isinstance(spec.law, ObjectLaw):
        levels, masks = _lay_objects(target, num_inputs, spec, occluders, generator)
    else:
        levels, masks = _show_ellipses(target, num_inputs, spec.law, spec.noise_std, generator)
    levels.clamp_(0, WHITE_LEVEL).round_().div_(WHITE_LEVEL)
    return RenderedInputs(levels.to(target.dtype), masks)


def _check_images(images: Tensor, shape: tuple[int, int, int], spec: BenchmarkSpec) -> None:
    height, width, _ = shape
    if images.ndim != 4 or tuple(images.shape[2:]) != (height, width) or not images.is_floating_point():
        raise FusionDatasetsError(
            f"got images of shape {list(images.shape)} and {images.dtype}; {spec.title} has them in [0, 1], floating "
            f"point [b, c, {height}, {width}]; divide 8-bit levels by 255 and put channels second"
        )


def _show_ellipses(
    target: Tensor, num_inputs: int, law: EllipseLaw, noise_std: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    b, c, h, w = target.shape
    ellipses = draw_ellipses(law, (b, num_inputs), generator=generator)
    rows, columns = (torch.arange(n, device=target.device, dtype=torch.float32) for n in (h, w))
    masks = ellipse_visibility(ellipses, rows, columns)
    levels = torch.empty((b, num_inputs, c, h, w), device=target.device)
    if noise_std:
        levels.normal_(generator=generator).mul_(WHITE_LEVEL * noise_std)
    else:
        levels.zero_()
    levels.addcmul_((target.float() * WHITE_LEVEL).unsqueeze(1), masks.unsqueeze(2))
    return levels, masks


def _lay_objects(
    target: Tensor, num_inputs: int, spec: BenchmarkSpec, occluders: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    b, c = target.shape[:2]
    if occluders is None or not len(occluders) or occluders.shape[1] != c + 1:
        got = "none" if occluders is None or not len(occluders) else f"a pool of shape {list(occluders.shape)}"
        raise FusionDatasetsError(
            f"{spec.title} lays objects over its targets; got {got}, expected occluders [m, {c + 1}, p, p]: make them "
            "with occluder_pool from a file's occluders"
        )
    layout = draw_occluders(spec, (b, num_inputs), len(occluders), generator=generator)
    return lay_over(target.float() * WHITE_LEVEL, occluders, *layout)
