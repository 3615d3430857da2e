"""Where a view is taken from: the Primesense camera, and the view sphere of T-LESS's training images.

The conventions are those of BOP: the camera looks along +z, x points right and y down in the image, integer
coordinates are the centres of pixels, and `x_camera = cam_R_m2c @ x_model + cam_t_m2c`, in millimetres.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError

DISTANCE_MM: Final = 635.0
"""From the camera to the object's centre, as in the training images."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera.

    Arguments:
        focal_px: Focal lengths along columns and rows, in pixels.
        centre_px: Where the optical axis meets the image (column, row).
        size_px: Side of the square image.
    """

    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    size_px: int

    @property
    def matrix(self) -> NDArray[np.float64]:
        """`cam_K`, `[3, 3]`."""
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project points of the camera's frame.

        Arguments:
            points: `[n, 3]`, millimetres, z > 0.

        Returns:
            `[n, 2]`, columns and rows in pixels.
        """
        return points[:, :2] / points[:, 2:] * self.focal_px + np.array(self.centre_px)


PRIMESENSE: Final = Camera((1076.74064739, 1075.17825536), (199.5, 199.5), 400)
"""The camera of T-LESS's training images, its 400×400 window centred on the object."""


@dataclass(frozen=True, eq=False)
class Pose:
    """An object's place before a camera.

    Arguments:
        rotation: `cam_R_m2c`, `[3, 3]`.
        translation: `cam_t_m2c`, `[3]`, millimetres.
        elevation: Of the camera above the object's equator, degrees.
    """

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    elevation: float = 0.0

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take points `[n, 3]` from the object's frame to the camera's."""
        return points @ self.rotation.T + self.translation


def look_at(elevation: float, azimuth: float, distance_mm: float = DISTANCE_MM) -> Pose:
    """Look at the object's centre from a point of the view sphere.

    Arguments:
        elevation: Degrees above the equator, between −90 and 90. Below it the object stands on its head, as it did on
            T-LESS's turntable, so that its −z points up in the image.
        azimuth: Degrees around +z; at 0 the camera stands on the side of −y.
        distance_mm: From the camera to the object's centre.

    Returns:
        The object's pose before that camera.

    Raises:
        FusionDatasetsError: If the elevation is out of range, or a number is not finite.
    """
    if not (abs(elevation) <= 90 and math.isfinite(azimuth) and 0 < distance_mm < math.inf):
        raise FusionDatasetsError(
            f"got elevation {elevation}, azimuth {azimuth}, distance {distance_mm} mm; expected degrees, the first "
            "from -90 to 90, and a distance above 0"
        )
    phi, theta, up = math.radians(azimuth - 90), math.radians(elevation), 1.0 if elevation >= 0 else -1.0
    backward = (math.cos(theta) * math.cos(phi), math.cos(theta) * math.sin(phi), math.sin(theta))
    right = (-up * math.sin(phi), up * math.cos(phi), 0.0)
    down = (right[1] * backward[2], -right[0] * backward[2], right[0] * backward[1] - right[1] * backward[0])
    forward = (-backward[0], -backward[1], -backward[2])
    return Pose(np.array([right, down, forward]), np.array([0, 0, distance_mm]), elevation)


def view_sphere(upper_half: bool = False) -> list[Pose]:
    """T-LESS's training views: elevation from 85° to −85° in steps of 10°, azimuth from 0° in steps of 5°.

    Arguments:
        upper_half: Only the elevations above the equator, as of objects 19 and 20.

    Returns:
        1 296 poses (648 of the upper half), elevation by elevation.
    """
    return [
        look_at(elevation, azimuth)
        for elevation in range(85, 0 if upper_half else -90, -10)
        for azimuth in range(0, 360, 5)
    ]
