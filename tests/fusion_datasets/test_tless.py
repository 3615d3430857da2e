"""T-LESS's photographs in every layout they come in, whole and broken, and FusionT-LESS built from them."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kills import kill_and_continue

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.build import execute
from fusion_datasets.cli import main
from fusion_datasets.plans import plan_tless
from fusion_datasets.preview import SHOWN, contact_sheet
from fusion_datasets.sources.opening import open_source
from fusion_datasets.sources.tless import OCCLUDER_OBJECTS, TARGET_OBJECTS, TlessSource
from fusion_datasets.verification import verify

VIEWS, OCCLUDER_VIEWS = 11, 3


@pytest.fixture(scope="module")
def built(tless_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FusionT-LESS of the painted objects; never written to."""
    path = tmp_path_factory.mktemp("built") / "fusion-tless.h5"
    return execute(plan_tless(tless_folder, path, seed=3), progress=False)


def photograph(folder: Path, object_id: int, number: int) -> Path:
    return folder / "train_primesense" / f"{object_id:02d}" / "rgb" / f"{number:04d}.png"


@pytest.fixture
def copied(tless_folder: Path, tmp_path: Path) -> Path:
    """A folder to break: its files are links to the painted ones."""
    folder = tmp_path / "copy"
    shutil.copytree(tless_folder, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def as_bop(folder: Path, output: Path) -> Path:
    for image in sorted(folder.glob("train_primesense/*/rgb/*.png")):
        place = output / "train_primesense" / f"{int(image.parts[-3]):06d}" / "rgb" / f"{int(image.stem):06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(image)
        mask = place.parents[1] / "mask_visib" / f"{place.stem}_000000.png"
        mask.parent.mkdir(exist_ok=True)
        mask.symlink_to(image)
    for scene in (output / "train_primesense").iterdir():
        count = len(list(scene.glob("rgb/*")))
        (scene / "scene_gt.json").write_text(json.dumps({str(number): [] for number in range(count)}))
    return output


def zipped(folder: Path, output: Path, pattern: str = "**/*") -> Path:
    with zipfile.ZipFile(output, "w") as archive:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return output


def test_every_tenth_view_of_each_target_is_held_out(tless_folder: Path) -> None:
    source = TlessSource(tless_folder)
    assert (source.num_images("train"), source.num_images("test")) == (6 * (VIEWS - 1), 6)
    assert [source.num_occluders(split) for split in ("train", "test")] == [12 * OCCLUDER_VIEWS] * 2
    test = source.read("test", 0, 6)
    assert test.labels is not None
    assert test.labels.tolist() == list(TARGET_OBJECTS)
    assert test.index is not None
    assert test.index.tolist() == [object_id * 1_000_000 + 9 for object_id in TARGET_OBJECTS]
    train = source.read("train", 0, 60)
    assert train.index is not None
    assert sorted(int(at) % 1_000_000 for at in train.index) == sorted([*range(9), 10] * 6)


def test_the_published_counts_follow_from_the_published_views(tmp_path: Path) -> None:
    source = TlessSource.__new__(TlessSource)
    object.__setattr__(source, "path", tmp_path)
    views = {object_id: 648 if object_id in (19, 20) else 1296 for object_id in range(1, 31)}
    source.__dict__["_photographs"] = {object_id: [(object_id, i) for i in range(n)] for object_id, n in views.items()}
    counts = [source.num_images(split) for split in ("train", "test")]
    assert counts == [5836, 644]
    assert [source.num_occluders(split) for split in ("train", "test")] == [15_552, 15_552]
    used = {*OCCLUDER_OBJECTS["train"], *OCCLUDER_OBJECTS["test"], *TARGET_OBJECTS}
    assert used == set(range(1, 31))


def test_targets_are_cropped_by_their_margin_and_scaled(tless_folder: Path) -> None:
    clean = TlessSource(tless_folder).read("test", 4, 5)  # object 23, margin 60
    original = cv2.imread(str(photograph(tless_folder, 23, 9)), cv2.IMREAD_COLOR)[..., ::-1]
    expected = cv2.resize(original[60:340, 60:340], (128, 128), interpolation=cv2.INTER_AREA)
    assert clean.images.shape == (1, 128, 128, 3)
    assert np.array_equal(clean.images[0], expected)


def test_occluders_are_cut_out_and_fill_their_square(tless_folder: Path) -> None:
    occluders = TlessSource(tless_folder).read_occluders("test", 0, 5)
    assert occluders.object_id.tolist() == [3, 4, 8, 9, 10]
    assert occluders.rgba.shape == (5, 100, 100, 4)
    assert not occluders.rejected
    for rgba in occluders.rgba:
        alpha = rgba[..., 3] > 127
        assert max(alpha.any(axis=0).sum(), alpha.any(axis=1).sum()) >= 99
        assert not rgba[rgba[..., 3] == 0].any()


def test_all_layouts_and_zips_hold_the_same(tless_folder: Path, tmp_path: Path) -> None:
    bop = as_bop(tless_folder, tmp_path / "bop")
    several = tmp_path / "several"
    several.mkdir()
    for scene in sorted((tless_folder / "train_primesense").iterdir()):
        zipped(scene.parent, several / f"t-less_v2_train_primesense_{scene.name}.zip", f"{scene.name}/**/*")
    places = {
        tless_folder: "tless-v2",
        tless_folder / "train_primesense": "tless-v2",
        bop: "tless-bop",
        zipped(bop, tmp_path / "bop.zip"): "tless-bop",
        several: "tless-v2",
    }
    rows = {"train": 4, "test": 6, "occluders/test": 5}
    expected = TlessSource(tless_folder)
    for place, layout in places.items():
        source = pickle.loads(pickle.dumps(TlessSource(place)))
        assert source.description["layout"] == layout
        assert source.description["name"] == "tless-like"
        assert source.digest(rows) == expected.digest(rows)
        assert np.array_equal(source.read("test", 0, 6).images, expected.read("test", 0, 6).images)


def test_a_build_is_whole_and_verified_against_its_source(tless_folder: Path, built: Path) -> None:
    test, train = (FusionDataset(built, split) for split in ("test", "train"))
    assert test.header.rows == {"train": 60, "test": 6}
    assert test.header.occluders == {"train": 12 * OCCLUDER_VIEWS, "test": 12 * OCCLUDER_VIEWS}
    assert (train[0].target.shape, test[0].target.shape) == ((128, 128, 3), (64, 64, 3))
    assert test[0].inputs is not None
    assert test[0].inputs.shape == (3, 64, 64, 3)
    assert np.array_equal(test.inputs_beyond(2, 5)[:3], test[2].inputs)  # type: ignore[arg-type]
    assert {example.label for example in test} == set(TARGET_OBJECTS)
    verify(built, open_source(test.header, tless_folder), progress=False)


def test_damaged_occluders_are_stated(built: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(built, tmp_path / "damaged.h5"))
    with h5py.File(path, "r+", locking=False) as file:
        for split in ("train", "test"):
            rgba = file[f"occluders/{split}/rgba"]
            harmed = [rgba.id.get_chunk_info(chunk) for chunk in range(rgba.id.get_num_chunks())]
            places = [(chunk.byte_offset, chunk.size) for chunk in harmed]
            with path.open("rb+") as raw:
                for offset, size in places:
                    raw.seek(offset)
                    raw.write(b"\xff" * size)
    with pytest.raises(FusionDatasetsError, match="damaged in /occluders/train/rgba"):
        list(FusionDataset(path, "train").occluder_blocks())
    with pytest.raises(FusionDatasetsError, match="damaged in /occluders/test/rgba, row"):
        FusionDataset(path).inputs_beyond(0, 8)


def test_sheets_show_masks_and_occluders(built: Path, tmp_path: Path) -> None:
    train = FusionDataset(built, "train")
    inputs, masks, occluders = (contact_sheet(train, rows=3, show=show) for show in SHOWN)
    assert masks.height - inputs.height > 250  # two lines of 128 more
    pool = train.occluders
    assert pool is not None
    assert pool.shape == (36, 100, 100, 4)  # type: ignore[attr-defined]
    tiles = np.asarray(occluders)[64:-20, 20:-20]
    assert tiles.shape == (3 * 100 - 4, 12 * 100 - 4, 3)
    for place in (0, 13, 35):
        line, column = divmod(place, 12)
        tile = tiles[100 * line :, 100 * column :][:96, :96]
        assert np.abs(tile[48, 48].astype(int) - pool[place][50, 50, :3]).max() < 12
        assert (tile == (72, 84, 102)).all(axis=-1).any()  # transparent: the paper below shows
    for split in ("train", "test"):
        arguments = ["preview", str(built), "-o", str(tmp_path / "a.pdf"), "--split", split, "--show", "occluders"]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_sheet_of_few_occluders_shows_lines_from_all_over(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_datasets.preview._OCCLUDERS_PER_LINE", 6)
    train = FusionDataset(built, "train")
    every, few = (np.asarray(contact_sheet(train, rows=rows, show="occluders"))[64:-20] for rows in (6, 3))
    for line in range(3):
        assert np.array_equal(few[100 * line :][:96], every[200 * line :][:96])


def test_content_does_not_depend_on_workers_or_layout(tless_folder: Path, built: Path, tmp_path: Path) -> None:
    again = execute(
        plan_tless(as_bop(tless_folder, tmp_path / "bop"), tmp_path / "a.h5", seed=3), workers=2, progress=False
    )
    assert FusionDataset(again).content_sha256 == FusionDataset(built).content_sha256


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_build_continues_to_the_same_content(
    tless_folder: Path, built: Path, tmp_path: Path, kills: int
) -> None:
    killed = kill_and_continue("plan_tless", tless_folder, tmp_path, kills, seed=3, shard_rows=6, most=19)  # of 23
    assert killed.content_sha256 == FusionDataset(built).content_sha256


def test_objects_that_cannot_be_cut_are_counted_and_left_out(copied: Path, tmp_path: Path) -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    replace(photograph(copied, 3, 0), cv2.imencode(".png", image)[1].tobytes())
    image[350:, 100:200] = 200
    replace(photograph(copied, 12, 2), cv2.imencode(".png", image)[1].tobytes())
    result = CliRunner().invoke(
        main, ["build", "tless", "--source", str(copied), "--output", str(tmp_path / "a.h5"), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "; 1 of 36 occluders/train left out" in result.stdout
    assert "; 1 of 36 occluders/test left out" in result.stdout
    data = FusionDataset(tmp_path / "a.h5")
    assert data.header.occluders == {"train": 35, "test": 35}
    [cut_off] = data.source["omitted"]["occluders/train"]
    assert cut_off[:2] == [12_000_002, "train_primesense/12/rgb/0002.png"]
    assert cut_off[2].startswith("object cut off")
    assert data.source["omitted"]["occluders/test"][0][2].startswith("no object found")
    verify(tmp_path / "a.h5", TlessSource(copied), progress=False)
    assert "1 occluders/train" in CliRunner().invoke(main, ["info", str(tmp_path / "a.h5")]).stdout
    again = CliRunner().invoke(main, ["build", "tless", "--source", str(copied), "--output", str(tmp_path / "a.h5")])
    assert "already built" in again.stdout


@pytest.mark.parametrize("bad", [5, 36], ids=["a few too many", "all"])
def test_a_source_of_which_many_cannot_be_cut_stops_the_build(copied: Path, tmp_path: Path, bad: int) -> None:
    content = cv2.imencode(".png", np.zeros((400, 400, 3), np.uint8))[1].tobytes()
    places = [(object_id, view) for view in range(OCCLUDER_VIEWS) for object_id in OCCLUDER_OBJECTS["test"]]
    for object_id, view in places[:bad]:
        replace(photograph(copied, object_id, view), content)
    arguments = ["build", "tless", "--source", str(copied), "--output", str(tmp_path / "a.h5"), "--workers", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    [sentence] = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert f"{bad} of 36 occluders/test cannot be cut out (no object found in {bad}; first train_prim" in sentence
    assert "expected at most 4" in sentence
    assert not (tmp_path / "a.h5").exists()
    result = CliRunner().invoke(main, [*arguments, "--skip-bad"])
    if bad == 36:  # nothing would be left to lay over the targets
        assert result.exit_code == 1
        assert not (tmp_path / "a.h5").exists()
        return
    assert result.exit_code == 0, result.output
    assert FusionDataset(tmp_path / "a.h5").header.occluders["test"] == 31
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "without 5 originals that could not be used" in refused.stderr


def test_missing_and_broken_photographs_are_named(copied: Path, tmp_path: Path) -> None:
    whole = photograph(copied, 20, 3).read_bytes()
    photograph(copied, 19, 5).unlink()
    replace(photograph(copied, 20, 3), whole[: len(whole) // 2])
    replace(photograph(copied, 21, 9), b"")
    replace(photograph(copied, 1, 0), b"GIF89a")
    replace(photograph(copied, 4, 1), cv2.imencode(".png", np.zeros((540, 720, 3), np.uint8))[1].tobytes())
    arguments = ["build", "tless", "--source", str(copied), "--output", str(tmp_path / "a.h5"), "--workers", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "5 of 138 originals cannot be used" in result.stderr
    for part in (
        "train_primesense/01/rgb/0000.png (no PNG)",
        "train_primesense/04/rgb/0001.png (720×540 pixels instead of 400×400)",
        "train_primesense/19/rgb/0005.png (missing)",
        "train_primesense/20/rgb/0003.png (cut short)",
        "train_primesense/21/rgb/0009.png (empty)",
    ):
        assert part in result.stderr
    assert not (tmp_path / "a.h5").exists()
    result = CliRunner().invoke(main, [*arguments, "--skip-bad"])
    assert result.exit_code == 0, result.output
    data = FusionDataset(tmp_path / "a.h5")
    assert data.header.rows == {"train": 58, "test": 5}


def test_the_poses_say_which_photographs_there_must_be(tless_folder: Path, tmp_path: Path) -> None:
    bop = as_bop(tless_folder, tmp_path / "bop")
    (bop / "train_primesense" / "000024" / "scene_gt.json").write_text(
        json.dumps({str(i): [] for i in range(VIEWS + 9)})
    )
    source = TlessSource(bop)
    assert source.num_images("test") == 7
    [last] = source.read("test", 6, 7).unreadable
    assert last.name == "train_primesense/000024/rgb/000019.png"
    assert last.reason == "missing"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder / "train_primesense"), "in no layout known"),
        (lambda folder: shutil.rmtree(folder / "train_primesense" / "23"), "no images of object 23"),
        (lambda folder: [photograph(folder, 22, n).unlink() for n in range(9, VIEWS)], "9 images of object 22"),
        (lambda folder: photograph(folder, 7, 2).rename(photograph(folder, 7, 9999)), "more than half are missing"),
        (
            lambda folder: (folder / "train_primesense" / "05" / "gt.yml").write_bytes(b"\xff\xfe"),
            "gt.yml cannot be read",
        ),
        (lambda folder: (folder / "train_primesense" / "05" / "gt.yml").write_text("{}"), "names no images"),
        (lambda folder: shutil.copytree(folder / "train_primesense", folder / "test_primesense"), "alone"),
    ],
    ids=["nothing", "an object", "too few", "a stray number", "poses unreadable", "poses empty", "two sets"],
)
def test_other_folders_are_answered_in_one_sentence(copied: Path, damage: object, sentence: str) -> None:
    damage(copied)  # type: ignore[operator]
    with pytest.raises(FusionDatasetsError, match=sentence) as caught:
        TlessSource(copied)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(main, ["build", "tless", "--source", str(copied), "--output", str(copied / "a.h5")])
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert not (copied / "a.h5").exists()


def test_a_limit_takes_of_every_object(tless_folder: Path, tmp_path: Path) -> None:
    execute(plan_tless(tless_folder, tmp_path / "a.h5", limit=6), progress=False)
    data = FusionDataset(tmp_path / "a.h5", "train")
    assert {example.label for example in data} == set(TARGET_OBJECTS)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_damaged_photographs_are_read_or_named_but_never_crash(
    copied: Path, place: float, flip: int, cut: bool
) -> None:
    content = bytearray(photograph(copied, 24, 8).read_bytes())
    at = int(place * len(content))
    content[at] ^= flip
    replace(photograph(copied, 24, 9), bytes(content[:at] if cut else content))
    clean = TlessSource(copied).read("test", 5, 6)
    assert len(clean.images) + len(clean.unreadable) == 1
    assert len(clean.unreadable) == 1 or clean.images.shape == (1, 128, 128, 3)
