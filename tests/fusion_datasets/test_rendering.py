"""Rendered views: the camera's geometry, what a cube looks like, and that the same is rendered every time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fusion_datasets import FusionDatasetsError
from fusion_datasets.rendering import PRIMESENSE, REAL, Camera, Mesh, Pose, Scene, look_at, render_view, view_sphere
from fusion_datasets.rendering.mesh import merged
from fusion_datasets.rendering.occlusion import openness
from fusion_datasets.rendering.photograph import develop

FACES = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    """A box, its faces counter-clockwise from outside."""
    bounds = np.array([low, high])
    ring = [(0, 0), (1, 0), (1, 1), (0, 1)]
    vertices = np.array([(bounds[i, 0], bounds[j, 1], bounds[k, 2]) for k in (0, 1) for i, j in ring])
    triangles = np.array([[face[0], face[i], face[i + 1]] for face in FACES for i in (1, 2)], np.int32)
    return Mesh(vertices, triangles)


CUBE = box((-25, -25, -25), (25, 25, 25))


@pytest.fixture(scope="module")
def cube() -> Scene:
    return Scene(CUBE)


def test_the_view_sphere_is_that_of_tless() -> None:
    poses = view_sphere()
    assert len(poses) == 1296
    assert len(view_sphere(upper_half=True)) == 648
    eyes = np.array([-pose.rotation.T @ pose.translation for pose in poses])  # the camera in the object's frame
    assert np.allclose(np.linalg.norm(eyes, axis=1), 635)
    elevation = np.degrees(np.arcsin(eyes[:, 2] / 635))
    assert np.allclose(elevation, np.repeat(np.arange(85, -90, -10), 72))
    azimuth = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.allclose((azimuth + 90 - np.tile(np.arange(0, 360, 5), 18) + 1e-6) % 360, 0, atol=1e-5)
    for pose in poses:
        assert np.allclose(pose.rotation @ pose.rotation.T, np.eye(3))
        assert np.linalg.det(pose.rotation) == pytest.approx(1)
        upright = pose.rotation @ [0, 0, 1.0]
        assert upright[0] == pytest.approx(0, abs=1e-9)
        assert (upright[1] < 0) == (pose.elevation > 0)  # below the equator it stands on its head


def test_a_published_pose_is_met() -> None:
    # T-LESS v2, object 23, training image 350: the published cam_R_m2c, from the turntable's markers.
    published = [[0.62268218, -0.78164004, -0.03612308], [-0.5635495, -0.41595975, -0.71371609]]
    assert np.allclose(view_sphere()[350].rotation[:2], published, atol=0.06)


def test_depth_of_a_cube_is_that_of_its_planes(cube: Scene) -> None:
    for pose in (look_at(35, 20), look_at(-65, 200), look_at(5, 90)):
        view = cube.render(pose)
        assert np.array_equal(view.mask, view.depth_mm > 0)
        rows, columns = np.nonzero(view.mask)
        rays = np.linalg.inv(PRIMESENSE.matrix) @ np.stack([columns, rows, np.ones(len(rows))])
        eye, rays = -pose.rotation.T @ pose.translation, pose.rotation.T @ rays
        near = np.minimum((-25 - eye[:, None]) / rays, (25 - eye[:, None]) / rays).max(0)
        far = np.maximum((-25 - eye[:, None]) / rays, (25 - eye[:, None]) / rays).min(0)
        assert (near <= far + 1e-4).all()  # each pixel's centre does see the cube
        assert np.allclose(view.depth_mm[rows, columns], near, atol=0.01)


def test_the_silhouette_is_that_of_the_projected_corners(cube: Scene) -> None:
    pose = look_at(25, 35)
    outline = cv2.convexHull(PRIMESENSE.project(pose.apply(CUBE.vertices)).astype(np.float32))
    view = cube.render(pose)
    assert view.mask.sum() == pytest.approx(cv2.contourArea(outline), rel=0.005)
    inside = np.array([cv2.pointPolygonTest(outline, (float(c), float(r)), True) for r, c in np.argwhere(view.mask)])
    assert inside.min() > -1e-3


def test_the_mean_silhouette_is_a_quarter_of_the_surface(cube: Scene) -> None:
    # Cauchy: so it is for every convex body, averaged over the sphere (here weighted, for the rings are not equal).
    poses = view_sphere()[::13]
    weights = np.cos(np.radians([pose.elevation for pose in poses]))
    scale = PRIMESENSE.focal_px[0] * PRIMESENSE.focal_px[1] / 635**2
    areas = np.array([cube.render(pose).mask.sum() for pose in poses]) / scale
    assert np.average(areas, weights=weights) == pytest.approx(6 * 50**2 / 4, rel=0.015)


def test_edges_are_anti_aliased_and_the_rest_is_black(cube: Scene) -> None:
    view = cube.render(look_at(45, 30))
    grey = view.image.max(-1)
    assert (grey[~view.mask] > 0).sum() < 0.05 * view.mask.sum()
    border = (grey > 0) & ~view.mask
    assert len(np.unique(grey[border])) > 5
    assert 100 < grey[view.mask].mean() < 245


def board(cells: int) -> Scene:
    """A square in the plane y = 0 of so many cells a side, darker towards +z."""
    side = np.linspace(-40, 40, cells + 1)
    x, z = (axis.ravel() for axis in np.meshgrid(side, side))
    i = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    triangles = np.concatenate([np.stack([i, i + 1, i + cells + 2], 1), np.stack([i, i + cells + 2, i + cells + 1], 1)])
    mesh = Mesh(np.stack([x, np.zeros_like(x), z], 1), triangles.astype(np.int32))
    scene = Scene(mesh)
    object.__setattr__(scene, "_openness", ((40 - z) / 80).astype(np.float32)[mesh.triangles])
    return scene


def test_light_is_interpolated_in_perspective() -> None:
    pose = look_at(75, 0, 120)  # so near that the far edge is half as long as the near one
    coarse, fine = (board(cells).render(pose).image.astype(int) for cells in (1, 24))
    assert fine.max() - fine[fine > 0].min() > 60
    assert np.abs(coarse - fine)[4:-4, 4:-4].max() <= 4


def test_a_nearer_object_hides_a_farther_one() -> None:
    far, near = box((-40, -40, -10), (40, 40, 0)), box((-10, -10, 20), (10, 10, 30))
    both = merged([far, near])
    assert both.is_solid
    depth = render_view(both, Pose(np.diag([1.0, -1, -1]), np.array([0, 0, 600.0]))).depth_mm
    assert depth[200, 200] == pytest.approx(570, abs=0.01)
    assert depth[200, 240] == pytest.approx(600, abs=0.01)


def test_open_surfaces_are_seen_from_both_sides() -> None:
    lid = Mesh(CUBE.vertices, CUBE.triangles[2:4])  # the face at z = 25
    assert not lid.is_solid
    assert CUBE.is_solid
    assert not Mesh(CUBE.vertices, CUBE.triangles[:, ::-1].copy()).is_solid  # inside out
    scene = Scene(lid)
    above, below = scene.render(look_at(65, 0)), scene.render(look_at(-65, 0))
    assert above.mask.sum() == pytest.approx(below.mask.sum(), rel=0.2)  # it is farther away from below
    assert below.image[below.mask].mean() > 100


def test_normals_are_smooth_on_rounds_and_sharp_at_edges() -> None:
    for normals, face in zip(CUBE.corner_normals, CUBE.triangles, strict=True):
        a, b, c = CUBE.vertices[face]
        expected = np.cross(b - a, c - a)
        assert np.allclose(normals, expected / np.linalg.norm(expected))
    angle = np.radians(np.arange(0, 360, 15))
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    vertices = np.concatenate([np.column_stack([ring, np.full(24, z)]) for z in (0.0, 1.0)])
    i, after = np.arange(24), (np.arange(24) + 1) % 24
    sides = np.concatenate([np.stack([i, after, after + 24], 1), np.stack([i, after + 24, i + 24], 1)]).astype(np.int32)
    tube = Mesh(vertices, sides)
    outward = np.column_stack([vertices[:, :2], np.zeros(48)])[tube.triangles]
    assert np.einsum("tij,tij->ti", tube.corner_normals, outward).min() > np.cos(np.radians(4))


def test_openness_is_one_on_a_convex_solid_and_less_in_a_corner() -> None:
    assert openness(CUBE).min() > 0.97
    tower = merged([box((-30, -30, -10), (30, 30, 0)), box((0, -30, -1), (10, 30, 30))])
    values, corners = openness(tower), tower.vertices[tower.triangles]
    faces_up = np.repeat(tower.corner_normals[:, :1, 2] > 0.9, 3, axis=1) & (np.abs(corners[..., 2]) < 1e-9)
    near = faces_up & (corners[..., 0] == 30)
    assert values[near].max() < 0.95
    step = merged([box((-30, -30, 0), (-2, 30, 1)), box((0, -100, 0), (1, 100, 100))])
    corners = step.vertices[step.triangles]
    inner = (corners[..., 0] == -2) & (corners[..., 2] == 1) & (step.corner_normals[..., 2] > 0.9)
    assert inner.any()
    assert openness(step)[inner].mean() == pytest.approx(0.5, abs=0.07)  # the wall hides half of the sky


def test_the_same_view_is_rendered_every_time(cube: Scene) -> None:
    def picture(seed: int) -> bytes:
        generator = np.random.default_rng(seed)
        return cube.render(look_at(15, 10), photography=REAL, generator=generator).image.tobytes()

    assert picture(1) == picture(1)
    assert picture(1) != picture(2)
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "from test_rendering import CUBE, REAL, look_at, render_view\n"
        "view = render_view(CUBE, look_at(15, 10), photography=REAL, generator=np.random.default_rng(1))\n"
        "sys.stdout.buffer.write(view.image.tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, check=True)
    assert other.stdout == picture(1)


def test_the_halo_surrounds_the_object_and_ends(cube: Scene) -> None:
    view = cube.render(look_at(25, 35), photography=REAL, generator=np.random.default_rng(0))
    distance = cv2.distanceTransform((~view.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grey = view.image.mean(-1)
    assert 10 < grey[(distance > 4) & (distance < 5)].mean() < 25  # 17.4 in the photograph
    assert 2 < grey[(distance > 9) & (distance < 10)].mean() < 8  # 4.9
    assert grey[distance > 18].max() == 0
    clean = cube.render(look_at(25, 35))
    assert np.array_equal(clean.mask, view.mask)
    assert clean.image[distance > 1.5].max() == 0


def test_an_object_behind_the_camera_is_refused(cube: Scene) -> None:
    with pytest.raises(FusionDatasetsError, match="behind the camera"):
        cube.render(Pose(np.eye(3), np.array([0, 0, 10.0])))


def test_objects_beyond_the_frame_are_cut_by_it(cube: Scene) -> None:
    small = Camera((1076.0, 1076.0), (9.5, 29.5), 20)
    view = cube.render(look_at(5, 45), small)
    assert view.image.shape == (20, 20, 3)
    assert view.mask.all()
    aside = cube.render(Pose(np.eye(3), np.array([3000, 0, 700.0])))
    assert not aside.mask.any()
    assert not aside.image.any()


SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)


@pytest.mark.parametrize(
    ("vertices", "triangles", "said"),
    [
        (SQUARE, np.array([[0, 1, 2, 3]], np.int32), r"triangles as int32 \[1, 4\]; .* cut polygons into triangles"),
        (SQUARE, np.array([[0.0, 1, 2]]), "triangles as float64"),
        (SQUARE, [[0, 1, 2]], "triangles as a list"),
        (SQUARE[:, :2], np.array([[0, 1, 2]]), r"vertices as float64 \[4, 2\]"),
        (SQUARE.astype(str), np.array([[0, 1, 2]]), "vertices as <U"),
    ],
)
def test_arrays_that_compiled_code_would_run_over_are_refused(vertices: Any, triangles: Any, said: str) -> None:
    with pytest.raises(FusionDatasetsError, match=said):
        Mesh(vertices, triangles)


@pytest.mark.parametrize("view", [(float("nan"), 0), (91, 0), (0, float("inf")), (0, 0, 0), (0, 0, float("nan"))])
def test_views_from_nowhere_are_refused(view: tuple[float, ...]) -> None:
    with pytest.raises(FusionDatasetsError, match=r"got elevation .*expected degrees"):
        look_at(*view)


def test_noise_needs_a_generator() -> None:
    light = np.ones((8, 8, 4), np.float32)
    with pytest.raises(FusionDatasetsError, match="no generator was given"):
        develop(light, REAL, None)
