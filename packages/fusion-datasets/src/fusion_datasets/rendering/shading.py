"""How light falls on plastic: a bright, soft room, a large lamp, and gentle highlights.

All of it happens in the camera's frame, where the room stands still while the turntable turns.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.rendering.compiled import compiled
from fusion_datasets.rendering.rasterizer import NOTHING

Vector = tuple[float, float, float]
Settings = tuple[float, float, float, float, float, float, float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Material:
    """A plastic.

    Arguments:
        albedo: Share of red, green and blue light that it scatters, 0 … 1, linear.
        gloss: Strength of the highlights, 0 … 1.
        shininess: Exponent of the highlights; the higher, the smaller they are.
    """

    albedo: Vector = (0.72, 0.74, 0.72)
    gloss: float = 0.3
    shininess: float = 40.0


@dataclass(frozen=True, slots=True)
class Lighting:
    """Light in the camera's frame (x right, y down, z away).

    Arguments:
        lamp: Direction towards the lamp.
        lamp_strength: What it adds to a surface that faces it.
        sky: Light from above.
        ground: Light from below.
        frontal: Light from around the camera.
    """

    lamp: Vector = (-0.35, -0.75, -0.56)
    lamp_strength: float = 0.42
    sky: float = 0.62
    ground: float = 0.34
    frontal: float = 0.16

    def packed(self, material: Material) -> Settings:
        """All numbers of light and plastic in the order in which the kernel reads them."""
        lamp = np.array(self.lamp) / np.linalg.norm(self.lamp)
        return (
            *(float(lamp[0]), float(lamp[1]), float(lamp[2]), self.lamp_strength, self.sky, self.ground, self.frontal),
            *(*material.albedo, material.gloss, material.shininess),
        )


STUDIO: Final = Lighting()
"""The light of T-LESS's training photographs, by eye."""


@compiled
def shade(
    triangle: NDArray[np.int32],
    origin: tuple[int, int],
    points: NDArray[np.float64],
    triangles: NDArray[np.int32],
    normals: NDArray[np.float32],
    rotation: NDArray[np.float64],
    openness: NDArray[np.float32],
    samples: int,
    focal: tuple[float, float],
    centre: tuple[float, float],
    settings: Settings,
    colour: NDArray[np.float32],
) -> None:
    """Light what is seen, and average the samples of each pixel.

    Arguments:
        triangle: int32 `[rows, columns]`, the window of `Visibility`, whole pixels of it.
        origin: Row and column of the window's first sample.
        points: float64 `[v, 3]`, column and row in samples and 1/z of each vertex.
        triangles: int32 `[t, 3]`, indices of points.
        normals: float32 `[t, 3, 3]`, unit normals in the object's frame.
        rotation: float64 `[3, 3]`, from the object's frame to the camera's.
        openness: float32 `[t, 3]`, how much of the room each corner sees.
        samples: Samples along a pixel's side.
        focal: Focal lengths along columns and rows, in samples.
        centre: Column and row of the optical axis, in samples.
        settings: What `Lighting.packed` gives.
        colour: float32 `[height, width, 4]` of the whole image, all zero; filled with linear red, green, blue
            (weighted by coverage) and coverage.
    """
    height, width = triangle.shape[0] // samples, triangle.shape[1] // samples
    share = 1 / (samples * samples)
    for i in range(height):
        for j in range(width):
            first = triangle[i * samples, j * samples]
            alone = first != NOTHING  # a pixel that one triangle fills is lit once, in its middle
            for k in range(samples * samples):
                alone = alone and triangle[i * samples + k // samples, j * samples + k % samples] == first
            red = green = blue = coverage = 0.0
            for k in range(1 if alone else samples * samples):
                at = samples * samples // 2 if alone else k
                sample_row, sample_column = i * samples + at // samples, j * samples + at % samples
                t = triangle[sample_row, sample_column]
                if t == NOTHING:
                    continue
                row, column = float(origin[0] + sample_row), float(origin[1] + sample_column)
                i0, i1, i2 = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                x0, y0, q0 = points[i0, 0], points[i0, 1], points[i0, 2]
                x1, y1, q1 = points[i1, 0], points[i1, 1], points[i1, 2]
                x2, y2, q2 = points[i2, 0], points[i2, 1], points[i2, 2]
                area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
                a = ((y1 - y2) * (column - x2) + (x2 - x1) * (row - y2)) / area
                b = ((y2 - y0) * (column - x2) + (x0 - x2) * (row - y2)) / area
                # In the image these are affine; on the surface, those weighted by each corner's 1/z.
                a, b, c = a * q0, b * q1, (1 - a - b) * q2
                total = a + b + c
                a, b, c = a / total, b / total, c / total
                x = a * normals[t, 0, 0] + b * normals[t, 1, 0] + c * normals[t, 2, 0]
                y = a * normals[t, 0, 1] + b * normals[t, 1, 1] + c * normals[t, 2, 1]
                z = a * normals[t, 0, 2] + b * normals[t, 1, 2] + c * normals[t, 2, 2]
                length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
                if area > 0:  # the back of a surface that is not closed
                    length = -length
                normal = (
                    (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z) / length,
                    (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z) / length,
                    (rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z) / length,
                )
                ray = ((column - centre[0]) / focal[0], (row - centre[1]) / focal[1], 1.0)
                visible = a * openness[t, 0] + b * openness[t, 1] + c * openness[t, 2]
                light = _reflected(normal, ray, visible, settings)
                red, green, blue, coverage = red + light[0], green + light[1], blue + light[2], coverage + 1
            weight = 1.0 if alone else share
            pixel = colour[origin[0] // samples + i, origin[1] // samples + j]
            pixel[0], pixel[1], pixel[2], pixel[3] = weight * red, weight * green, weight * blue, weight * coverage


@compiled
def _reflected(normal: Vector, ray: Vector, visible: float, settings: Settings) -> Vector:
    """Light that a point sends back along a ray, linear red, green and blue.

    Arguments:
        normal: Unit normal in the camera's frame.
        ray: From the camera to the point, any length.
        visible: Share of the room that the point sees, 0 … 1.
        settings: What `Lighting.packed` gives.
    """
    nx, ny, nz = normal
    lamp_x, lamp_y, lamp_z, strength, sky, ground, frontal, red, green, blue, gloss, shininess = settings
    distance = np.sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2])
    view_x, view_y, view_z = -ray[0] / distance, -ray[1] / distance, -ray[2] / distance
    facing = max(nx * view_x + ny * view_y + nz * view_z, 0.0)
    above = 0.5 - 0.5 * ny
    diffuse = (ground + (sky - ground) * above + frontal * facing) * visible
    wrapped = max((nx * lamp_x + ny * lamp_y + nz * lamp_z + 0.3) / 1.3, 0.0)  # a large lamp shines round corners
    diffuse += strength * wrapped * min(1.0, 0.25 + 0.9 * visible * visible)
    half_x, half_y, half_z = lamp_x + view_x, lamp_y + view_y, lamp_z + view_z
    half = np.sqrt(half_x * half_x + half_y * half_y + half_z * half_z)
    along = (nx * half_x + ny * half_y + nz * half_z) / half
    grazing = (1 - facing) * (1 - facing)
    highlight = 0.35 * grazing * grazing * above
    if along > 0:
        highlight += along**shininess
    highlight *= 0.5 * gloss * visible
    return red * diffuse + highlight, green * diffuse + highlight, blue * diffuse + highlight
