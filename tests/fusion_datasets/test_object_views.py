"""Stand-ins of T-LESS's photographs: what lies where, that it fits together, and that nothing is half-done."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fusion_datasets import FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.rendering import PRIMESENSE, Mesh, Pose, read_ply
from fusion_datasets.rendering.solids import SOLIDS, solid
from fusion_datasets.sources.object_views import OBJECTS, StandInTless, material

TWO = StandInTless(count=7, seed=3, objects=(4, 19))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def image(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven views of each of two solids; never written to."""
    folder = tmp_path_factory.mktemp("views") / "tless"
    assert TWO.write(folder, progress=False) == 14
    return folder


def test_the_bop_layout(views: Path) -> None:
    expected = {"STAND-IN.json", "camera_primesense.json"}
    for object_id in ("000004", "000019"):
        names = ["scene_camera.json", "scene_gt.json", "scene_gt_info.json"]
        for i in range(7):
            names += [f"rgb/{i:06d}.png", f"depth/{i:06d}.png", f"mask_visib/{i:06d}_000000.png"]
        expected |= {f"train_primesense/{object_id}/{name}" for name in names}
    assert set(contents(views)) == expected
    folder = views / "train_primesense" / "000019"
    assert image(folder / "rgb" / "000003.png").shape == (400, 400, 3)
    assert set(np.unique(image(folder / "mask_visib" / "000003_000000.png"))) == {0, 255}
    assert image(folder / "depth" / "000003.png").dtype == np.uint16
    note = json.loads((views / "STAND-IN.json").read_text())
    assert (note["name"], note["license"], note["views"]) == ("tless-stand-in", "CC0-1.0", {"4": 7, "19": 7})


@pytest.mark.parametrize("object_id", [4, 19])
def test_poses_cameras_masks_and_depth_agree(views: Path, object_id: int) -> None:
    folder = views / "train_primesense" / f"{object_id:06d}"
    truth, cameras, extents = (
        json.loads((folder / f"scene_{name}.json").read_text()) for name in ("gt", "camera", "gt_info")
    )
    assert list(truth) == list(cameras) == list(extents) == [str(i) for i in range(7)]
    vertices, elevations = solid(object_id).vertices, []
    for i, ((pose,), camera, (extent,)) in enumerate(
        zip(truth.values(), cameras.values(), extents.values(), strict=True)
    ):
        points = vertices @ np.reshape(pose["cam_R_m2c"], (3, 3)).T + pose["cam_t_m2c"]
        projected = points @ np.reshape(camera["cam_K"], (3, 3)).T
        columns, rows = np.rint(projected[:, :2] / projected[:, 2:]).astype(int).T
        mask = image(folder / "mask_visib" / f"{i:06d}_000000.png") > 0
        assert cv2.dilate(mask.astype(np.uint8), np.ones((3, 3)))[rows, columns].all()
        x, y, width, height = extent["bbox_visib"]
        assert np.array_equal(np.argwhere(mask).min(0), (y, x))
        assert np.array_equal(np.argwhere(mask).max(0), (y + height - 1, x + width - 1))
        assert max(abs(np.array([columns.min() - x, columns.max() - x - width + 1]))) <= 1
        assert extent["px_count_visib"] == mask.sum()
        depth = image(folder / "depth" / f"{i:06d}.png") * camera["depth_scale"]
        assert np.array_equal(depth > 0, mask)
        assert points[:, 2].min() - 0.06 <= depth[mask].min()
        assert depth[mask].max() <= points[:, 2].max() + 0.06
        assert depth[mask].min() == pytest.approx(points[:, 2].min(), abs=1.5)  # the nearest vertex is in sight
        colour = image(folder / "rgb" / f"{i:06d}.png")
        assert colour[mask].mean() > 120
        assert colour[cv2.dilate(mask.astype(np.uint8), np.ones((41, 41))) == 0].max() == 0
        assert pose["obj_id"] == object_id
        elevations.append(camera["elev"])
    assert min(elevations) == (15 if object_id == 19 else -65)  # of object 19 there is no lower half
    assert max(elevations) == 85


def test_the_original_layout(tmp_path: Path) -> None:
    StandInTless(count=2, objects=(5,), layout="original", clean=True).write(tmp_path / "a", progress=False)
    names = {"gt.yml", "info.yml", *(f"{kind}/{i:04d}.png" for kind in ("rgb", "depth") for i in range(2))}
    assert set(contents(tmp_path / "a")) == {"STAND-IN.json", *(f"train_primesense/05/{name}" for name in names)}
    folder = tmp_path / "a" / "train_primesense" / "05"
    truth = (folder / "gt.yml").read_text()
    assert re.findall(r"^(\d+):$", truth, re.MULTILINE) == ["0", "1"]
    rotation = json.loads(re.findall(r"^- cam_R_m2c: (.*)$", truth, re.MULTILINE)[1])
    assert np.linalg.det(np.reshape(rotation, (3, 3))) == pytest.approx(1)
    x, y, width, height = json.loads(re.findall(r"^  obj_bb: (.*)$", truth, re.MULTILINE)[1])
    depth = image(folder / "depth" / "0001.png")
    assert depth[y : y + height, x : x + width].sum() == depth.sum()
    assert re.search(r"^  cam_K: \[1076\.7\d+, 0\.0, 199\.5,", (folder / "info.yml").read_text(), re.MULTILINE)
    assert image(folder / "rgb" / "0001.png")[cv2.dilate((depth > 0).astype(np.uint8), np.ones((5, 5))) == 0].max() == 0


def test_the_number_of_processes_changes_nothing(views: Path, tmp_path: Path) -> None:
    TWO.write(tmp_path / "a", workers=2, progress=False)
    assert contents(tmp_path / "a") == contents(views)


def test_what_is_missing_or_cut_is_rendered_again(views: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    TWO.write(folder, progress=False)
    assert TWO.write(folder, progress=False) == 0
    own = folder / "train_primesense" / "000019"
    for name in ("scene_gt.json", "depth/000002.png", "rgb/000004.png"):
        (own / name).unlink()
    cut = own / "mask_visib" / "000006_000000.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    assert TWO.missing(folder, 4) == []
    assert TWO.missing(folder, 19) == [2, 4, 6]
    assert TWO.write(folder, progress=False) == 3
    assert contents(folder) == contents(views)


def kill_at(folder: Path, num_views: int) -> None:
    """Render in a process of its own, and kill it when so many views have appeared."""
    code = (
        "import sys; from pathlib import Path; from fusion_datasets.sources.object_views import StandInTless\n"
        "StandInTless(count=7, seed=3, objects=(4, 19)).write(Path(sys.argv[1]), progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    while process.poll() is None and len(list(folder.rglob("rgb/*.png"))) < num_views:
        time.sleep(0.001)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_renderings_go_on(views: Path, tmp_path: Path) -> None:
    for num_views in (1, 9):
        kill_at(tmp_path / "a", num_views)
        assert not [path for path in (tmp_path / "a").rglob("*/rgb/*.png") if image(path) is None]
    rendered = TWO.write(tmp_path / "a", progress=False)
    assert rendered < 14
    assert contents(tmp_path / "a") == contents(views)


def test_other_folders_are_never_written_to(views: Path, tmp_path: Path) -> None:
    before = contents(views)
    for other in (StandInTless(count=7, seed=4, objects=(4, 19)), StandInTless(count=6, seed=3, objects=(4, 19))):
        with pytest.raises(FusionDatasetsError, match="holds another stand-in"):
            other.write(views, progress=False)
    assert contents(views) == before
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FusionDatasetsError, match="holds other files"):
        TWO.write(tmp_path, progress=False)
    assert contents(tmp_path).keys() == {"letter.txt"}


def test_one_rendering_at_a_time(views: Path, tmp_path: Path) -> None:
    from fusion_datasets.locking import locked

    (tmp_path / "a" / ".rendering").mkdir(parents=True)
    with locked(tmp_path / "a" / ".rendering"), pytest.raises(FusionDatasetsError, match="another process"):
        TWO.write(tmp_path / "a", progress=False)


def test_views_are_spread_over_the_sphere() -> None:
    for count in (1, 18, 100, 1295):
        recipe = StandInTless(count=count, objects=(1,))
        poses = recipe.poses(1)
        assert len({pose.rotation.tobytes() for pose in poses}) == count
        elevations = [pose.elevation for pose in poses]
        assert elevations == sorted(elevations, reverse=True)
    rings = np.unique([pose.elevation for pose in StandInTless(count=100).poses(1)], return_counts=True)[1]
    assert rings.min() >= 5
    assert rings.max() <= 6
    assert StandInTless(count=1296).num_views[1] == 1296
    assert StandInTless(count=1296).num_views[20] == 648


def test_the_solids_are_thirty_and_fit() -> None:
    assert tuple(SOLIDS) == OBJECTS
    for object_id in SOLIDS:
        mesh = solid(object_id)
        assert mesh.is_solid, object_id
        assert 25 < mesh.radius < 118
        assert np.allclose(mesh.vertices.min(0), -mesh.vertices.max(0))
    assert len({solid(object_id).vertices.tobytes() for object_id in SOLIDS}) == 30
    assert len({material(object_id) for object_id in SOLIDS}) == 30


SQUARE = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 2
property list uchar int vertex_indices
end_header
{0} {0} 0
-{0} {0} 0
-{0} -{0} 0
{0} -{0} 0
3 0 1 2
3 0 2 3
"""


def test_models_of_ones_own(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "obj_000002.ply").write_text(SQUARE.format(30))
    recipe = StandInTless(models, count=3, objects=(2,), clean=True)
    recipe.write(tmp_path / "a", progress=False)
    assert json.loads((tmp_path / "a" / "STAND-IN.json").read_text())["license"] == "CC-BY-4.0"
    assert (image(tmp_path / "a" / "train_primesense" / "000002" / "depth" / "000001.png") > 0).any()
    (models / "obj_000002.ply").write_text(SQUARE.format(31))
    with pytest.raises(FusionDatasetsError, match="another stand-in"):
        StandInTless(models, count=3, objects=(2,), clean=True).write(tmp_path / "a", progress=False)
    (models / "obj_000002.ply").write_text(SQUARE.format(300))
    with pytest.raises(FusionDatasetsError, match=r"obj_000002\.ply reaches 424 mm"):
        StandInTless(models, objects=(2,)).write(tmp_path / "b", progress=False)
    (models / "obj_000002.ply").write_text(SQUARE.format(30).replace("vertex 4", "vertex 400000"))
    with pytest.raises(FusionDatasetsError, match="claims 400000 of 'vertex'"):
        StandInTless(models, objects=(2,)).write(tmp_path / "c", progress=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["stand-in", "tless", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    output = tmp_path / "a"
    planned = run("--output", output, "--count", 1, "--dry-run")
    assert (planned.exit_code, planned.stdout) == (0, f"would write {output}: 30 views of 30 objects\n")
    assert not output.exists()
    TWO.write(output, progress=False)
    for arguments, sentence in (
        (("--output", output), "holds another stand-in"),
        (("--output", output, "--dry-run"), "holds another stand-in"),
        (("--output", tmp_path / "b", "--models", tmp_path), "lacks obj_01.ply"),
    ):
        failed = run(*arguments)
        assert failed.exit_code == 1
        assert failed.stdout == ""
        assert sentence in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
    for arguments in ((), ("--output", "a", "--count", 0), ("--output", "a", "--layout", "mine")):
        assert run(*arguments).exit_code == 2


def test_the_readme_renders() -> None:
    readme = Path(__file__).parents[2] / "packages" / "fusion-datasets" / "README.md"
    codes = [part.split("```")[0] for part in readme.read_text(encoding="utf-8").split("```python\n")[1:]]
    names: dict[str, Any] = {}
    exec(next(code for code in codes if "rendering" in code and "Scene" in code), names)
    assert names["view"].mask.any()


def test_without_numba_there_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from fusion_datasets.cli import main; main(['stand-in', 'tless', '--output', sys.argv[1]])"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: rendering objects needs numba")
    assert "pip install fusion-datasets[render]" in failed.stderr
    assert not (tmp_path / "a").exists()


def reach(mesh: Mesh, poses: list[Pose]) -> float:
    """How far from the middle of the picture an object comes, in pixels."""
    return max(float(np.abs(PRIMESENSE.project(pose.apply(mesh.vertices)) - 199.5).max()) for pose in poses)


# What the authors cut off on each side of the photographs of objects 1 … 30.
MARGINS_PX = (
    *(140, 135, 125, 125, 95, 95, 0, 0, 50, 100, 120, 110, 130, 120, 130),
    *(130, 80, 90, 95, 95, 100, 100, 60, 110, 90, 90, 50, 70, 70, 110),
)


@pytest.mark.parametrize("object_id", range(19, 25))
def test_the_targets_among_the_solids_fit_the_published_crop(object_id: int) -> None:
    poses = StandInTless(count=60).poses(object_id)
    assert 60 < reach(solid(object_id), poses) < 200 - MARGINS_PX[object_id - 1]


@pytest.mark.originals
def test_the_cad_models_of_tless_fit_the_published_crops() -> None:
    models = Path(os.environ["FUSION_DATA_ROOT"]) / "tless" / "models_cad"
    if not models.is_dir():
        pytest.skip(f"{models} is no folder; expected the CAD models of T-LESS")
    recipe = StandInTless(models)
    assert sum(recipe.num_views.values()) == 37_584
    for object_id, margin in zip(OBJECTS, MARGINS_PX, strict=True):
        filled = reach(read_ply(models / f"obj_{object_id:02d}.ply"), recipe.poses(object_id)[::13]) / (200 - margin)
        assert 0.7 < filled < 1, object_id  # so camera and distance are those of the photographs
