"""FusionCelebA: the layouts that people have, the law of window and scale, what happens to broken originals."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from kills import kill_and_continue

from fusion_datasets import BENCHMARKS, FusionDataset, FusionDatasetsError
from fusion_datasets.build import execute
from fusion_datasets.cli import main
from fusion_datasets.plans import plan_celeba
from fusion_datasets.sources.area import area_means
from fusion_datasets.sources.celeba import CelebaSource
from fusion_datasets.sources.faces import HEIGHT, WIDTH, Identity, render_face
from fusion_datasets.sources.pictures import decode_jpeg
from fusion_datasets.sources.standin import StandInCelebA
from fusion_datasets.torch import FusionCelebA
from fusion_datasets.verification import verify

COUNTS = {"train": 26, "valid": 9, "test": 7}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 rendered faces in CelebA's layout; never written to."""
    folder = tmp_path_factory.mktemp("faces")
    StandInCelebA(*COUNTS.values(), seed=4).write(folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def faces_file(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FusionCelebA of these faces; never written to."""
    return build(faces, tmp_path_factory.mktemp("built"))


def build(source: Path, folder: Path, **settings: Any) -> Path:
    return execute(plan_celeba(source, folder / "fusion-celeba.h5", seed=2, **settings), progress=False)


def name(position: int) -> str:
    return f"{position + 1:06d}.jpg"


def test_rows_are_windows_of_the_photographs_scaled_by_area(faces_file: Path, faces: Path) -> None:
    assert FusionDataset(faces_file).split == "valid"
    assert FusionDataset(faces_file).header.rows == COUNTS
    first = 0
    for split in ("train", "valid", "test"):
        data = FusionDataset(faces_file, split)  # type: ignore[arg-type]
        assert data.read(0, len(data)).index.tolist() == list(range(first, first + len(data)))
        for example in (data[0], data[-1]):
            photograph = cv2.imread(str(faces / "img_align_celeba" / name(example.index)))
            window = photograph[40:188, 15:163]
            expected = cv2.resize(window, (64, 64), interpolation=cv2.INTER_AREA)[..., ::-1]
            assert np.array_equal(example.target, expected)
            means = window.reshape(4, 37, 4, 37, 3).mean(axis=(1, 3))  # an area average whatever computes it
            assert np.allclose(example.target.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3))[..., ::-1], means, atol=0.6)
        first += len(data)


@pytest.mark.parametrize("shape", [(37, 37, 3), (37, 20, 1), (32, 64, 3)])
def test_area_means_are_the_nearest_levels_to_the_exact_means(shape: tuple[int, int, int]) -> None:
    h, w, c = shape
    height, width = h // 2, 16
    images = np.random.default_rng(h).integers(0, 256, (8, *shape), np.uint8)
    fine = images.astype(np.int64).repeat(height, axis=1).repeat(width, axis=2)
    sums = fine.reshape(8, height, h, width, w, c).sum(axis=(2, 4))
    means = area_means(iter(images), 9, shape, height, width).astype(np.int64)
    assert np.abs(2 * (means * (h * w) - sums)).max() <= h * w


def test_windows_are_scaled_as_by_opencv() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 148, 148, 3), np.uint8)
    images[10:] = (images[10:] > 127) * np.uint8(255)
    expected = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in images]
    assert np.array_equal(area_means(images, 20, (148, 148, 3), 64, 64), expected)
    assert area_means((), 5, (148, 148, 3), 64, 64).shape == (0, 64, 64, 3)


def test_inputs_show_ellipses_and_no_noise(faces_file: Path) -> None:
    batch = FusionDataset(faces_file).read(0, 9)
    assert batch.inputs is not None
    assert batch.masks is not None
    assert np.array_equal(batch.inputs, batch.target[:, None] * batch.masks[..., None])
    assert 0.05 < batch.masks.mean() < 0.35


def test_identities_become_labels(faces_file: Path, faces: Path) -> None:
    lines = (faces / "identity_CelebA.txt").read_text().splitlines()
    labels = FusionDataset(faces_file, "train").read(0, 26).label
    assert labels is not None
    assert labels.tolist() == [int(line.split()[1]) for line in lines[:26]]
    people = {split: set(FusionDataset(faces_file, split).read(0, 7).label) for split in COUNTS}  # type: ignore[arg-type]
    assert not people["train"] & people["valid"]
    assert not people["valid"] & people["test"]


def as_torchvision(faces: Path, folder: Path) -> Path:
    shutil.copytree(faces, folder / "celeba")
    return folder


def as_downloaded(faces: Path, folder: Path) -> Path:
    for name_ in ("Img", "Eval"):
        (folder / name_).mkdir(parents=True)
    pack(faces, folder / "Img" / "img_align_celeba.zip")
    shutil.copy(faces / "list_eval_partition.txt", folder / "Eval")
    return folder


def as_zip(faces: Path, folder: Path) -> Path:
    folder.mkdir()
    pack(faces, folder / "img_align_celeba.zip")
    shutil.copy(faces / "list_eval_partition.txt", folder)
    return folder / "img_align_celeba.zip"


def as_kaggle(faces: Path, folder: Path) -> Path:
    shutil.copytree(faces / "img_align_celeba", folder / "img_align_celeba" / "img_align_celeba")
    lines = (faces / "list_eval_partition.txt").read_text().replace(" ", ",")
    (folder / "list_eval_partition.csv").write_text(f"image_id,partition\n{lines}")
    return folder


def as_flat(faces: Path, folder: Path) -> Path:
    shutil.copytree(faces / "img_align_celeba", folder)
    shutil.copy(faces / "list_eval_partition.txt", folder)
    return folder


def pack(faces: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((faces / "img_align_celeba").iterdir()):
            file.write(path, f"img_align_celeba/{path.name}")


@pytest.mark.parametrize("arrange", [as_torchvision, as_downloaded, as_zip, as_kaggle, as_flat])
def test_any_layout_gives_the_same_images(faces: Path, faces_file: Path, tmp_path: Path, arrange: Any) -> None:
    arranged = arrange(faces, tmp_path / "celeba-files")
    made, expected = FusionDataset(build(arranged, tmp_path)), FusionDataset(faces_file)
    for path, digest in made.content_sha256.items():
        assert digest == expected.content_sha256[path]
    assert made.source["digest"] == expected.source["digest"]
    assert made.is_stand_in == (arrange is as_torchvision)  # the others lost the note that says so
    if not made.is_stand_in:
        assert made.header.license == BENCHMARKS["fusion-celeba"].license
        assert made.source["name"] == "celeba-like"
    verify(made.path, CelebaSource(arranged), sample=None, progress=False)


def harmed(faces: Path, folder: Path) -> Path:
    """A copy in which five originals are broken in five ways."""
    shutil.copytree(faces, folder)
    images = folder / "img_align_celeba"
    (images / name(3)).unlink()
    content = (images / name(11)).read_bytes()
    (images / name(11)).write_bytes(content[: len(content) // 2])
    (images / name(26)).write_bytes(b"<html>quota exceeded</html>")
    cv2.imwrite(str(images / name(30)), np.zeros((20, 30, 3), np.uint8))
    content = (images / name(37)).read_bytes()
    (images / name(37)).write_bytes(content[:-1500] + bytes(512) + content[-988:])  # a block of the disk is lost
    return folder


@pytest.mark.parametrize(("rows", "columns"), [(20, 30), (300, 300), (178, 218)])
def test_photographs_of_another_size_are_named_by_it(rows: int, columns: int) -> None:
    content = simplejpeg.encode_jpeg(np.zeros((rows, columns, 3), np.uint8))
    with pytest.raises(FusionDatasetsError, match=f"^{columns}×{rows} pixels instead of 178×218$"):
        decode_jpeg(content, HEIGHT, WIDTH)


def test_broken_photographs_are_named_counted_and_left_out_on_request(
    faces: Path, faces_file: Path, tmp_path: Path
) -> None:
    source = harmed(faces, tmp_path / "harmed")
    with pytest.raises(FusionDatasetsError) as caught:
        build(source, tmp_path)
    sentence = str(caught.value)
    assert sentence.startswith("5 of 42 originals cannot be used: ")
    flaws = ["missing", "cut short", "no JPEG", "30×20 pixels instead of 178×218", "damaged"]
    for position, flaw in zip((3, 11, 26, 30, 37), flaws, strict=True):
        assert f"{name(position)} ({flaw})" in sentence
    assert "--skip-bad" in sentence
    assert not (tmp_path / "fusion-celeba.h5").exists()
    part, whole = FusionDataset(build(source, tmp_path, skip_bad=True)), FusionDataset(faces_file)
    assert part.header.rows == {"train": 24, "valid": 7, "test": 6}
    assert [entry[2] for entry in part.source["omitted"]["valid"]] == flaws[2:4]
    batch, expected = part.read(0, 7), whole.read(0, 9)
    kept = [1, 2, 3, 5, 6, 7, 8]
    assert batch.index.tolist() == expected.index[kept].tolist()
    assert np.array_equal(batch.inputs, expected.inputs[kept])  # type: ignore[index,arg-type]
    verify(part.path, CelebaSource(source), sample=None, progress=False)
    shutil.copy(faces / "img_align_celeba" / name(3), source / "img_align_celeba")
    with pytest.raises(FusionDatasetsError, match="another source"):
        verify(part.path, CelebaSource(source), sample=None, progress=False)


def test_what_was_left_out_is_said_and_not_counted_as_rows(faces: Path, tmp_path: Path) -> None:
    source, output = harmed(faces, tmp_path / "harmed"), str(tmp_path / "a.h5")
    said = CliRunner().invoke(main, ["build", "celeba", "--source", str(source), "--output", output, "--skip-bad"])
    assert said.exit_code == 0, said.output
    assert "24 train rows, 7 valid rows and 6 test rows" in said.stdout
    assert f"; 2 of 26 train left out: {name(3)} (missing), {name(11)} (cut short); 2 of 9 valid" in said.stdout
    assert f"2 train: {name(3)} (missing), {name(11)} (cut short)" in CliRunner().invoke(main, ["info", output]).stdout


def test_folders_that_are_not_celeba_are_refused_in_one_sentence(faces: Path, tmp_path: Path) -> None:
    partition, identities = "list_eval_partition.txt", "identity_CelebA.txt"
    cases: dict[str, tuple[dict[str, str | None], str]] = {
        "none": ({partition: None}, "lacks list_eval_partition.txt"),
        "empty": ({partition: ""}, "lists no image for train"),
        "prose": ({partition: "000001.jpg 0\nwhat is this\n"}, "line 2, is 'what is this'"),
        "part": ({partition: "a.jpg 0\nb.jpg 1\nc.jpg 2\nd.jpg 3\n"}, "none of 0, 1, 2"),
        "twice": ({partition: "a.jpg 0\na.jpg 1\n"}, "names an image twice"),
        "outside": ({partition: "../a.jpg 0\n../b.jpg 1\n"}, "line 2"),
        "others": ({partition: "a.jpg 0\nb.jpg 1\nc.jpg 2\n", identities: None}, "nor a folder with a.jpg"),
        "identity": ({identities: "000001.jpg 4\n"}, "lacks 000002.jpg"),
    }
    for case, (files, sentence) in cases.items():
        folder = tmp_path / case / "deep" / "down"
        shutil.copytree(faces, folder)
        for file, content in files.items():
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_text(content)
        with pytest.raises(FusionDatasetsError) as caught:
            CelebaSource(folder)
        assert sentence in str(caught.value), case
    with pytest.raises(FusionDatasetsError, match="does not exist"):
        CelebaSource(tmp_path / "nowhere")
    shutil.copy(faces / partition, tmp_path)
    (tmp_path / "img_align_celeba.zip").write_text("<html>")
    with pytest.raises(FusionDatasetsError, match="no zip"):
        CelebaSource(tmp_path / "img_align_celeba.zip")


def test_any_number_of_workers_gives_the_same_bytes(faces: Path, faces_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "fusion-celeba.h5"
    execute(plan_celeba(faces, output, seed=2), workers=2, progress=False)
    assert output.read_bytes() == faces_file.read_bytes()


def test_a_stand_in_continues_where_it_was_interrupted(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "half")
    for position in range(5, 42):
        (tmp_path / "half" / "img_align_celeba" / name(position)).unlink()
    kept = (tmp_path / "half" / "img_align_celeba" / name(0)).stat().st_mtime_ns
    source = StandInCelebA(*COUNTS.values(), seed=4).write(tmp_path / "half", progress=False)
    assert source.digest(COUNTS) == CelebaSource(faces).digest(COUNTS)
    assert (tmp_path / "half" / "img_align_celeba" / name(0)).stat().st_mtime_ns == kept
    with pytest.raises(FusionDatasetsError, match="another stand-in"):
        StandInCelebA(3, 1, 1).write(tmp_path / "half", progress=False)
    with pytest.raises(FusionDatasetsError, match="at least one face"):
        StandInCelebA(3, 0, 1)


def test_faces_depend_on_seed_person_and_photograph_alone_and_differ() -> None:
    face = render_face(3, 1, 7)
    assert face.shape == (HEIGHT, WIDTH, 3) == (218, 178, 3)
    assert np.array_equal(face, render_face(3, 1, 7))
    for other in ((4, 1, 7), (3, 2, 7), (3, 1, 8)):
        assert np.abs(face.astype(int) - render_face(*other)).mean() > 5
    assert Identity.draw(3, 1).hair_style == Identity.draw(3, 1).hair_style
    people = [Identity.draw(0, i) for i in range(300)]
    assert {person.hair_style for person in people} == set(range(6))
    skins = np.array([person.skin.mean() for person in people])
    assert skins.std() > 30
    assert 0.1 < np.mean([person.wears_glasses for person in people]) < 0.3


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_build_continues_to_the_same_content(
    faces: Path, faces_file: Path, tmp_path: Path, kills: int
) -> None:
    killed = kill_and_continue("plan_celeba", faces, tmp_path, kills, seed=2, shard_rows=2, most=17)  # of 22
    assert killed.content_sha256 == FusionDataset(faces_file).content_sha256


def test_training_faces_are_flipped_half_of_the_time_anew_in_each_epoch(faces_file: Path, tmp_path: Path) -> None:
    shutil.copy(faces_file, tmp_path / "fusion-celeba.h5")
    data = FusionCelebA(tmp_path, "train")
    flipped = []
    for epoch in range(6):
        data.set_epoch(epoch)
        for row in range(len(data)):
            shown = np.rint(data[row].target.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            stored = data.data[row].target
            as_it_is, mirrored = np.array_equal(shown, stored), np.array_equal(shown, stored[:, ::-1])
            assert as_it_is != mirrored
            flipped.append(mirrored)
    by_row = np.array(flipped).reshape(6, -1)
    assert 0.35 < by_row.mean() < 0.65  # 156 of them: four standard errors
    assert 0 < (by_row[0] != by_row[1]).mean() < 1
