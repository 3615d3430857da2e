"""A user's own pictures: any format, labels from sub-folders, ellipses or objects, and training on the result."""

import dataclasses
import os
import shutil
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from kills import kill_and_continue
from PIL import Image

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets import torch as live
from fusion_datasets.build import BuildPlan, execute
from fusion_datasets.cli import main
from fusion_datasets.plans import plan_folder
from fusion_datasets.sources.folder import FolderSource, folder_spec
from fusion_datasets.sources.pictures import decode_picture
from fusion_datasets.spec import EllipseLaw, ObjectLaw
from fusion_datasets.verification import verify

FORMATS = (".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff")


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of two kinds, in six formats, with things beside them that are none; never written to."""
    folder = tmp_path_factory.mktemp("animals")
    for kind, label in enumerate(("cats", "dogs")):
        (folder / label / "old").mkdir(parents=True)
        for i in range(24):
            path = folder / label / ("old" if i % 3 else "") / f"{i:02d}{FORMATS[i % 6]}"
            picture(100 * kind + i, "P" if i % 6 == 3 else "RGB").save(path)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 discs of one colour on nothing, and two pictures that cannot be laid over anything."""
    folder = tmp_path_factory.mktemp("cutouts")
    y, x = np.mgrid[:50, :60]
    for i in range(30):
        rgba = np.zeros((50, 60, 4), np.uint8)
        rgba[(y - 25) ** 2 + (x - 25 - i % 5) ** 2 < 200] = (8 * i, 255 - 8 * i, 90, 255)
        Image.fromarray(rgba).save(folder / f"{i}.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(folder / "nothing.png")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(folder / "slab.png")
    return folder


def build(source: Path, output: Path, **settings: Any) -> FusionDataset:
    return FusionDataset(execute(plan_folder(source, output, **settings), progress=False))


def test_pictures_of_any_format_become_rows_with_labels(pictures: Path, tmp_path: Path) -> None:
    data = build(pictures, tmp_path / "a.h5", size=16)
    assert (data.benchmark, data.spec.title, data.shape, data.splits) == ("folder", pictures.name, (16, 16, 3), ("train", "test"))  # fmt: skip # noqa: E501
    assert sum(data.header.rows.values()) == 48
    assert data.source["classes"] == ["cats", "dogs"]
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("[0-9]*.*"))
    for split in ("train", "test"):
        part = FusionDataset(data.path, split)  # type: ignore[arg-type]
        for example in part:
            name = names[example.index]
            assert example.label == name.startswith("dogs")
            with Image.open(pictures / name) as original:
                square = original.convert("RGB").crop((5, 0, 35, 30))
            fine = np.asarray(square, float).repeat(16, axis=0).repeat(16, axis=1)
            assert np.abs(example.target - fine.reshape(16, 30, 16, 30, 3).mean(axis=(1, 3))).max() < 1
    verify(data.path, FolderSource(pictures, data.spec), sample=None, progress=False)
    assert isinstance(data.spec.law, EllipseLaw)
    assert data.spec.law.radius_px == (0, 4)  # FusionCelebA's 14 of 64


def test_the_published_laws_are_those_of_64_pixels() -> None:
    from fusion_datasets import BENCHMARKS

    settings = {"size": 64, "grey": False, "flips": False}
    assert folder_spec(Path("a"), objects=False, **settings).law == BENCHMARKS["fusion-celeba"].law  # type: ignore[arg-type]
    objects = folder_spec(Path("a"), objects=True, **settings)  # type: ignore[arg-type]
    published = BENCHMARKS["fusion-tless"].law
    assert isinstance(published, ObjectLaw)
    assert objects.law == dataclasses.replace(published, resize_px=0, shift_px=0, turns=False)
    assert objects.train_size_px == BENCHMARKS["fusion-tless"].train_size_px


def test_a_name_keeps_its_split_whatever_comes_or_goes(pictures: Path, tmp_path: Path) -> None:
    spec = folder_spec(pictures, size=16, objects=False, grey=False, flips=False)
    before = FolderSource(pictures, spec)._names
    shutil.copytree(pictures, tmp_path / "more")
    picture(5).save(tmp_path / "more" / "cats" / "000.png")
    after = FolderSource(tmp_path / "more", spec)._names
    assert all(set(before[split]) <= set(after[split]) for split in before)
    assert 2 <= len(before["test"]) <= 10


def test_a_zip_and_its_folder_are_the_same(pictures: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "animals.zip", "w") as archive:
        for path in sorted(pictures.rglob("*.*")):
            archive.write(path, path.relative_to(pictures))
    zipped = build(tmp_path / "animals.zip", tmp_path / "zipped.h5", size=16)
    plain = build(pictures, tmp_path / "plain.h5", size=16)
    assert zipped.digest == plain.digest
    assert zipped.source["digest"] == plain.source["digest"]


def test_grey_transparency_depth_and_orientation(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        picture(i, size=(16, 16)).save(folder / f"{i}.png")
    Image.fromarray(np.full((16, 16), 32896, np.uint16)).save(folder / "deep.png")
    half = np.full((16, 16, 4), 200, np.uint8)
    half[..., 3] = 128
    Image.fromarray(half).save(folder / "half.png")
    sideways = Image.fromarray(np.repeat([[255] * 8 + [0] * 8], 16, axis=0).astype(np.uint8))
    exif = sideways.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    sideways.save(folder / "sideways.png", exif=exif)
    data = build(folder, tmp_path / "out" / "a.h5", size=16, grey=True)
    assert data.shape == (16, 16, 1)
    rows = {}
    for split in ("train", "test"):
        part = FusionDataset(data.path, split)  # type: ignore[arg-type]
        rows |= {example.index: example.target[..., 0] for example in part}
    names = sorted(path.name for path in folder.glob("*.png"))
    assert (rows[names.index("deep.png")] == 128).all()
    assert (rows[names.index("half.png")] == 100).all()
    upright = rows[names.index("sideways.png")]
    assert (upright[:8] == 255).all()
    assert (upright[8:] == 0).all()
    assert data[0].label is None


def test_objects_are_laid_over_pictures(pictures: Path, cutouts: Path, tmp_path: Path) -> None:
    data = build(pictures, tmp_path / "a.h5", size=16, cutouts=cutouts)
    assert isinstance(data.spec.law, ObjectLaw)
    assert sum(data.header.occluders.values()) == 30
    rejected = [flaw for omitted in data.source["omitted"].values() for flaw in omitted]
    assert sorted(flaw[1:] for flaw in rejected) == [
        ["nothing.png", "nothing of it is opaque"],
        ["slab.png", "nothing of it is transparent"],
    ]
    train = FusionDataset(data.path, "train")
    assert train[0].target.shape == (32, 32, 3)
    assert data[0].target.shape == (16, 16, 3)
    batch = data.read(0, len(data))
    assert batch.inputs is not None
    assert batch.masks is not None
    assert 0.02 < batch.masks.mean() < 0.7
    shown = (np.abs(batch.inputs.astype(int) - batch.target[:, None]) <= 1).all(axis=-1)
    assert shown[batch.masks].mean() > 0.7  # but for the soft edges of the occluders
    assert shown[~batch.masks].mean() < 0.2
    verify(data.path, FolderSource(pictures, data.spec, cutouts), sample=None, progress=False)
    stored = torch.from_numpy(train.read(0, 8).target).permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(0)
    targets = live.render_targets(stored, data.spec, generator=generator)
    halved = torch.nn.functional.avg_pool2d(stored, 2)  # upright, whole and unmoved
    torch.testing.assert_close(targets, halved, atol=2 / 255, rtol=0)
    flipping = dataclasses.replace(data.spec, flips=True)
    flipped = live.render_targets(stored, flipping, generator=generator)
    either = torch.stack([(flipped - way).abs().amax(dim=(1, 2, 3)) < 2 / 255 for way in (halved, halved.flip(3))])
    assert either.any(dim=0).all()
    assert (either.sum(dim=1) > 0).all()


def test_folders_that_are_none_are_refused_in_one_sentence(pictures: Path, cutouts: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    picture(0).save(tmp_path / "few" / "a.png")
    shutil.copytree(pictures, tmp_path / "broken")
    (tmp_path / "broken" / "cats" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "broken" / "cats" / "06.png").write_bytes(b"")
    cases = (
        ((tmp_path / "none",), {}, "does not exist"),
        ((tmp_path / "few",), {}, "holds 1 pictures, and none of them falls into the split test"),
        ((pictures,), {"cutouts": tmp_path / "few"}, "holds 1 occluders, and none of them"),
        ((pictures,), {"size": 4}, "got a size of 4 pixels; expected 8 … 512"),
        ((tmp_path / "broken",), {"size": 16}, "2 of 48 originals cannot be used: cats/00.png (cannot be decoded)"),
    )
    for (source,), settings, sentence in cases:
        with pytest.raises(FusionDatasetsError) as caught:
            build(source, tmp_path / "a.h5", **settings)
        assert sentence in str(caught.value)
        assert not (tmp_path / "a.h5").exists()
    assert sum(build(tmp_path / "broken", tmp_path / "a.h5", size=16, skip_bad=True).header.rows.values()) == 46


def test_damaged_jpegs_are_named_counted_and_left_out_on_request(tmp_path: Path) -> None:
    source = tmp_path / "jpegs"
    source.mkdir()
    for i in range(30):
        picture(i, "L" if i % 2 else "RGB", (200, 150)).save(source / f"{i:02d}.jpg", quality=95)
    for i, harm in enumerate(
        (
            lambda content: content[:-300],
            lambda content: content[:-1000] + bytes(512) + content[-488:],  # a block of the disk is lost
            lambda content: content[:-1000] + content[-900:],
            lambda content: b"<html>quota exceeded</html>",
            lambda content: content.replace(b"\xff\xda", b"\xff\x00"),
            lambda content: b"",
        )
    ):
        path = source / f"{i:02d}.jpg"
        path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(FusionDatasetsError) as caught:
        build(source, tmp_path / "a.h5", size=16)
    assert str(caught.value).startswith("6 of 30 originals cannot be used: ")
    assert str(caught.value).count("(cannot be decoded)") == 5  # and one more
    assert not (tmp_path / "a.h5").exists()
    data = build(source, tmp_path / "a.h5", size=16, skip_bad=True)
    assert sum(data.header.rows.values()) == 24
    omitted = sorted(flaw for flaws in data.header.omitted.values() for flaw in flaws)
    flaws = [*["cannot be decoded"] * 5, "empty"]
    assert omitted == [[i, f"{i:02d}.jpg", flaw] for i, flaw in enumerate(flaws)]


def test_once_an_occluder_is_mended_the_rows_under_it_are_made_again(
    pictures: Path, cutouts: Path, tmp_path: Path
) -> None:
    def plan(name: str) -> BuildPlan:
        return plan_folder(pictures, tmp_path / name, size=16, cutouts=occluders)

    occluders = shutil.copytree(cutouts, tmp_path / "cutouts")
    execute(plan("whole.h5"), progress=False)
    source = plan("whole.h5").source
    assert isinstance(source, FolderSource)
    path = occluders / source._cutout_names["test"][0]
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(b"\0" * len(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that could not be read for a while
    with pytest.raises(FusionDatasetsError, match="mend them and run the same command again"):
        execute(plan("mended.h5"), progress=False)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    execute(plan("mended.h5"), progress=False)
    assert FusionDataset(tmp_path / "mended.h5").content_sha256 == FusionDataset(tmp_path / "whole.h5").content_sha256


def test_the_file_does_not_go_among_the_pictures(pictures: Path, cutouts: Path, tmp_path: Path) -> None:
    for output, folder in ((pictures / "cats" / "a.h5", pictures), (cutouts / "a.h5", cutouts)):
        with pytest.raises(FusionDatasetsError, match=f"inside {folder}, whose pictures are read"):
            plan_folder(pictures, output, cutouts=cutouts)


def test_however_a_name_is_spelled_it_keeps_its_split_and_its_label(pictures: Path, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "käfer/é") for form in ("NFC", "NFD"))
    built = []
    for name in (composed, decomposed):
        folder = tmp_path / f"of {len(name)}"
        for path in sorted(pictures.rglob("[0-9]*.*")):
            target = folder / name.partition("/")[0] / f"{name.partition('/')[2]} {path.parent.name} {path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        built.append(build(folder, tmp_path / f"{len(name)}.h5", size=16))
    assert built[0].digest == built[1].digest
    assert built[0].source["classes"] == built[1].source["classes"] == ["käfer"]


def test_of_a_folder_within_the_other_each_picture_is_one_thing(pictures: Path, cutouts: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "all")
    shutil.copytree(cutouts, tmp_path / "all" / "occluders")
    within = build(tmp_path / "all", tmp_path / "within.h5", size=16, cutouts=tmp_path / "all" / "occluders")
    beside = build(pictures, tmp_path / "beside.h5", size=16, cutouts=cutouts)
    assert within.digest == beside.digest
    assert within.source["classes"] == ["cats", "dogs"]
    shutil.rmtree(tmp_path / "all" / "occluders")
    (tmp_path / "all" / "occluders").symlink_to(cutouts)
    for named in (cutouts, tmp_path / "all" / "occluders"):
        linked = build(tmp_path / "all", tmp_path / f"{named.name}.h5", size=16, cutouts=named)
        assert linked.digest == beside.digest


def test_a_folder_may_be_renamed(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "mine v1.5")
    built = build(tmp_path / "mine v1.5", tmp_path / "a.h5", size=16)
    assert built.spec.title == "mine v1.5"
    before = built.path.stat().st_mtime_ns
    (tmp_path / "mine v1.5").rename(tmp_path / "renamed")
    assert build(tmp_path / "renamed", tmp_path / "a.h5", size=16).path.stat().st_mtime_ns == before


def test_levels_of_unknown_range_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(30):
        picture(i).save(folder / f"{i:02d}.png")
    noise = np.random.default_rng(0).random((20, 20), np.float32)
    Image.fromarray(noise).save(folder / "float.tiff")
    Image.fromarray((255 * noise).astype(np.int32)).save(folder / "long.tiff")
    with pytest.raises(
        FusionDatasetsError, match=r"2 of 32 originals .*float.tiff \(levels of 32 bits, of unknown range"
    ):
        build(folder, tmp_path / "a.h5", size=16)


def test_nothing_but_pictures_is_opened(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    for name in ("manual.pdf", "features.h5", "film.mpg", "figure.eps", "drawing.wmf"):
        (folder / "cats" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["build", "folder", "--source", folder, "--size", 16, "--workers", 1, "--output", tmp_path / "a.h5"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert "passed over: 5 files in formats that are not read (.eps, .h5, .mpg, .pdf, .wmf)" in done.stderr
    assert sum(FusionDataset(tmp_path / "a.h5").header.rows.values()) > 0
    assert sum(build(folder, tmp_path / "a.h5", size=16).header.rows.values()) == 48
    (folder / "cats" / "figure.eps").rename(folder / "cats" / "figure.png")
    with pytest.raises(FusionDatasetsError, match=r"1 of 49 originals cannot be used: cats/figure.png"):
        build(folder, tmp_path / "b.h5", size=16)
    assert not ran.exists()


def test_a_build_of_nothing_is_none(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(FusionDatasetsError, match=r"none of the \d+ originals of train can be used: 1.png \(cannot be"):
        build(folder, tmp_path / "a.h5", size=16, skip_bad=True)
    assert not (tmp_path / "a.h5").exists()
    with pytest.raises(FusionDatasetsError, match="check that the source shows single things, all else transparent"):
        build(pictures, tmp_path / "a.h5", size=16, cutouts=pictures.parent / pictures.name / "cats")


def test_another_licence_is_another_build(pictures: Path, tmp_path: Path) -> None:
    words = ["build", "folder", "--source", str(pictures), "--size", "16", "--workers", "1"]
    words += ["--output", str(tmp_path / "a.h5"), "--license"]
    assert CliRunner().invoke(main, [*words, "CC0-1.0"]).exit_code == 0
    done = CliRunner().invoke(main, [*words, "CC-BY-4.0"])
    assert done.exit_code == 1
    assert "is another build (licensed CC0-1.0 instead of CC-BY-4.0)" in done.stderr


def test_jpegs_are_upright_and_as_pillow_reads_them(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "CMYK"):
        sideways = picture(3, mode, (40, 40))
        exif = sideways.getexif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise
        sideways.save(tmp_path / f"{mode}.jpg", exif=exif)
        with Image.open(tmp_path / f"{mode}.jpg") as stored:
            expected = np.rot90(np.asarray(stored.convert("RGB")), -1)
        assert np.array_equal(decode_picture((tmp_path / f"{mode}.jpg").read_bytes()), expected)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_build_continues_to_the_same_content(pictures: Path, tmp_path: Path, kills: int) -> None:
    whole = build(pictures, tmp_path / "whole.h5", seed=5)
    (tmp_path / "killed").mkdir()
    killed = kill_and_continue(
        "plan_folder", pictures, tmp_path / "killed", kills, seed=5, shard_rows=2, most=20
    )  # of 24 or 25
    assert killed.content_sha256 == whole.content_sha256


def test_the_command(pictures: Path, cutouts: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    build_ = ("build", "folder", "--source", pictures, "--size", 16, "--workers", 1, "--output")
    assert "48" not in run(*build_, tmp_path / "a.h5", "--license", "CC-BY-4.0")
    assert "CC-BY-4.0" in run("info", tmp_path / "a.h5")
    assert "equal to its source" in run("verify", tmp_path / "a.h5", "--all", "--source", pictures)
    run(*build_, tmp_path / "b.h5", "--occlusion", "objects", "--occluders", cutouts)
    assert "5 to 8 occluders each" in run("info", tmp_path / "b.h5")
    assert "equal to its source" in run("verify", tmp_path / "b.h5", "--source", pictures, "--occluders", cutouts)
    for split in ("train", "test"):
        run("preview", tmp_path / "b.h5", "-o", tmp_path / "b.png", "--split", split, "--rows", 3)
    wrong = CliRunner().invoke(main, [str(a) for a in (*build_, tmp_path / "c.h5", "--occlusion", "objects")])
    assert wrong.exit_code == 2
