"""A view of an object, rendered: picture, mask and depth."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.rendering.camera import PRIMESENSE, Camera, Pose
from fusion_datasets.rendering.mesh import Mesh
from fusion_datasets.rendering.occlusion import openness
from fusion_datasets.rendering.photograph import CLEAN, Photography, develop
from fusion_datasets.rendering.rasterizer import NOTHING, rasterize
from fusion_datasets.rendering.shading import STUDIO, Lighting, Material, shade

SAMPLES: Final = 3
"""Samples along a pixel's side; odd, so that one of them is its centre."""


@dataclass(frozen=True, eq=False)
class View:
    """What a camera saw.

    Arguments:
        image: uint8 `[h, w, 3]`, RGB on black.
        mask: bool `[h, w]`, where the centre of the pixel shows the object.
        depth_mm: float32 `[h, w]`, z of what the centre of the pixel shows, 0 where nothing.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    depth_mm: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scene:
    """An object ready to be rendered many times: what does not depend on the view is computed once.

    Arguments:
        mesh: Its surface.
        material: Its plastic.
    """

    mesh: Mesh
    material: Material = Material()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_openness", openness(self.mesh))

    def render(
        self,
        pose: Pose,
        camera: Camera = PRIMESENSE,
        *,
        lighting: Lighting = STUDIO,
        photography: Photography = CLEAN,
        generator: np.random.Generator | None = None,
    ) -> View:
        """Render one view; for the arguments see `render_view`."""
        points = pose.apply(self.mesh.vertices)
        if points[:, 2].min() <= 0:
            raise FusionDatasetsError(
                f"got an object that reaches {-points[:, 2].min():.0f} mm behind the camera; expected millimetres, and "
                "the whole object in front of it"
            )
        placed = _in_samples(points, camera)
        side = SAMPLES * camera.size_px
        seen = rasterize(placed, self.mesh.triangles, (side, side), align=SAMPLES, one_sided=self.mesh.is_solid)
        light = np.zeros((camera.size_px, camera.size_px, 4), np.float32)
        shade(
            seen.triangle,
            seen.origin,
            placed,
            self.mesh.triangles,
            self.mesh.corner_normals,
            pose.rotation,
            self._openness,  # type: ignore[attr-defined]
            SAMPLES,
            (SAMPLES * camera.focal_px[0], SAMPLES * camera.focal_px[1]),
            (SAMPLES * camera.centre_px[0] + SAMPLES // 2, SAMPLES * camera.centre_px[1] + SAMPLES // 2),
            lighting.packed(self.material),
            light,
        )
        middle = (slice(SAMPLES // 2, None, SAMPLES),) * 2
        depth, mask = np.zeros(light.shape[:2], np.float32), np.zeros(light.shape[:2], np.bool_)
        hit = seen.triangle[middle] != NOTHING
        window = tuple(
            slice(first // SAMPLES, first // SAMPLES + n) for first, n in zip(seen.origin, hit.shape, strict=True)
        )
        mask[window] = hit
        depth[window][hit] = 1 / seen.nearness[middle][hit]
        return View(develop(light, photography, generator), mask, depth)


def render_view(
    mesh: Mesh,
    pose: Pose,
    camera: Camera = PRIMESENSE,
    *,
    material: Material | None = None,
    lighting: Lighting = STUDIO,
    photography: Photography = CLEAN,
    generator: np.random.Generator | None = None,
) -> View:
    """Render one view of an object on black, with 3×3 samples a pixel.

    For many views of one object, make a `Scene` once and call its `render`.

    Arguments:
        mesh: The object's surface.
        pose: Its place before the camera.
        camera: T-LESS's, unless told otherwise.
        material: Its plastic.
        lighting: Where light comes from.
        photography: What a real camera adds; nothing by default.
        generator: Draws the sensor noise; needed where there is any.

    Returns:
        Picture, mask and depth.

    Raises:
        FusionDatasetsError: If part of the object lies behind the camera.
    """
    scene = Scene(mesh, material or Material())
    return scene.render(pose, camera, lighting=lighting, photography=photography, generator=generator)


def _in_samples(points: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """Columns and rows in samples (a pixel's middle sample is its centre) and 1/z, `[v, 3]`."""
    placed = np.empty_like(points)
    placed[:, :2] = SAMPLES * camera.project(points) + SAMPLES // 2
    placed[:, 2] = 1 / points[:, 2]
    return placed
