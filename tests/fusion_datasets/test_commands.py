"""The command line: what it prints where, and how it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.preview import contact_sheet
from fusion_datasets.visibility import visibility


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_build_says_what_it_did(tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    arguments = ("build", "mnist", "--output", output, "--stand-in-count", 20, "--seed", 2)
    planned = run(*arguments, "--dry-run")
    assert planned.exit_code == 0
    assert "would write" in planned.stdout
    assert "20 train rows and 4 test rows, seed 2" in planned.stdout
    assert not list(tmp_path.iterdir())
    built = run(*arguments)
    assert built.exit_code == 0
    assert "a.h5: built, FusionMNIST from mnist-stand-in, 20 train rows and 4 test rows, seed 2" in built.stdout
    assert built.stderr == ""
    assert "already built" in run(*arguments).stdout
    assert "would keep" in run(*arguments, "--dry-run").stdout
    refused = run(*arguments[:-1], 3)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "seed 2 instead of 3" in refused.stderr
    assert "would replace" in run(*arguments[:-1], 3, "--force", "--dry-run").stdout
    assert run(*arguments[:-1], 3, "--force").exit_code == 0
    assert FusionDataset(output).seed == 3


def test_stand_in_then_build_then_verify(tmp_path: Path) -> None:
    made = run("stand-in", "mnist", "--output", tmp_path / "digits", "--count", 13)
    assert "13 training and 3 test digits" in made.stdout
    built = run("build", "mnist", "--source", tmp_path / "digits", "--output", tmp_path / "a.h5", "--workers", 1)
    assert built.exit_code == 0
    for source in ((), ("--source", tmp_path / "digits"), ("--source", "stand-in")):
        verified = run("verify", tmp_path / "a.h5", *source)
        assert verified.exit_code == 0
        assert "16 rows, whole and unaltered" in verified.stdout
        assert (", equal to its source in 3 of its 3 evaluation rows" in verified.stdout) == bool(source)


def test_faces_from_stand_in_to_verified_file(tmp_path: Path) -> None:
    made = run("stand-in", "celeba", "--output", tmp_path / "faces", "--count", 9, "--seed", 1)
    assert "9 training, 2 validation and 2 test faces" in made.stdout
    output = tmp_path / "a.h5"
    build = ("build", "celeba", "--output", output, "--workers", 1, "--seed", 1)
    planned = run(*build, "--source", tmp_path / "faces", "--dry-run")
    assert "FusionCelebA from celeba-stand-in, 9 train rows, 2 valid rows and 2 test rows, seed 1" in planned.stdout
    assert run(*build, "--source", tmp_path / "faces").exit_code == 0
    assert "already built" in run(*build, "--source", "stand-in", "--stand-in-count", 9).stdout
    for source in (tmp_path / "faces", "stand-in"):
        assert "equal to its source in every row" in run("verify", output, "--all", "--source", source).stdout
    assert "4 ellipses each\n" in run("info", output).stdout
    (tmp_path / "faces" / "img_align_celeba" / "000012.jpg").unlink()
    broken = run("build", "celeba", "--source", tmp_path / "faces", "--output", tmp_path / "b.h5", "--workers", 1)
    assert broken.exit_code == 1
    assert "1 of 13 originals cannot be used: 000012.jpg (missing)" in broken.stderr
    for end in (".png", ".pdf"):
        assert run("preview", output, "-o", tmp_path / f"sheet{end}").exit_code == 0
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")


def test_info(benchmark_file: Path) -> None:
    printed = run("info", benchmark_file).stdout
    data = FusionDataset(benchmark_file)
    for part in ("FusionMNIST", "90 train, 40 test", "mnist-stand-in", "CC0-1.0", data.digest):
        assert part in printed
    about = json.loads(run("info", benchmark_file, "--json").stdout)
    assert about["rows"] == {"train": 90, "test": 40}
    assert about["digest"] == data.digest
    assert about["content_sha256"] == data.content_sha256
    assert about["spec"]["nll_size"] == 28
    masks = data.read(0, len(data)).masks
    assert masks is not None
    share, together = masks.mean((2, 3)), masks.any(1).mean()
    assert about["visible"].keys() == {"test"}
    shown = {"mean": share.mean(), "standard_deviation": share.std(), "together": together}
    assert about["visible"]["test"] == pytest.approx(shown)
    assert f"shows    {100 * share.mean():.1f} ± {100 * share.std():.1f} % of an image in each input, " in printed


def test_info_of_a_split_without_rows(benchmark_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(benchmark_file, locking=False) as whole, h5py.File(path, "w") as file:
        file.attrs.update(whole.attrs)
        for name in whole["test"]:
            file[f"test/{name}"] = whole[f"test/{name}"][:0]
        for name in whole["train"]:
            file[f"train/{name}"] = whole[f"train/{name}"][:]
    assert json.loads(run("info", path, "--json").stdout)["visible"] == {}
    for split, said in (("test", "has no rows"), ("train", "has no frozen inputs")):
        with pytest.raises(FusionDatasetsError, match=said):
            visibility(FusionDataset(path, split))  # type: ignore[arg-type]
    with pytest.raises(FusionDatasetsError, match="has no rows in the split test; choose another with --split"):
        contact_sheet(FusionDataset(path))


def test_a_sheet_that_cannot_be_written_is_named(benchmark_file: Path, tmp_path: Path) -> None:
    done = run("preview", benchmark_file, "-o", tmp_path / "no" / "sheet.png")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path}/no/sheet.png cannot be used: No such file or directory\n"


@pytest.mark.parametrize("split", ["train", "test"])
def test_preview_shows_inputs_and_target(benchmark_file: Path, tmp_path: Path, split: str) -> None:
    sheet = tmp_path / "sheet.png"
    assert run("preview", benchmark_file, "-o", sheet, "--split", split, "--rows", 5).exit_code == 0
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    assert pixels.shape[-1] == 3
    assert (pixels[:8] == 255).all()  # a white margin
    target = FusionDataset(benchmark_file, split=split)[0].target  # type: ignore[arg-type]
    tile = np.kron(target[..., 0], np.ones((3, 3), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], tile.shape)
    assert any(np.array_equal(windows[y, x], tile) for y, x in np.argwhere(windows[..., 48, 48] == tile[48, 48]))


def test_a_sheet_does_not_replace_its_file(benchmark_file: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(benchmark_file, tmp_path / "a.h5"))
    done = run("preview", file, "-o", file)
    assert done.exit_code == 1
    assert "for both the file and its sheet" in done.stderr
    assert file.read_bytes() == benchmark_file.read_bytes()
    another = Path(shutil.copy(file, tmp_path / "b.h5"))
    refused = run("preview", file, "-o", another)
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: got {another} for the sheet; name a file ending in .png or .pdf\n"
    assert another.read_bytes() == benchmark_file.read_bytes()


def test_preview_shows_what_is_hidden(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    plain, both = (np.asarray(contact_sheet(data, rows=1, show=show)) for show in ("inputs", "masks"))
    assert np.array_equal(both[40 : plain.shape[0] - 20, : plain.shape[1]], plain[40:-20])
    masks = data[0].masks
    assert masks is not None
    hidden = (both == (222, 142, 56)).all(axis=-1)
    below = hidden[hidden.any(axis=1)][:, hidden.any(axis=0)].sum() / 9  # a pixel is 3×3 points
    assert below == sum((~mask).sum() for mask in (*masks, masks.any(axis=0)))


def test_preview_draws_other_examples_from_a_seed(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    first, one, again, two = (contact_sheet(data, rows=4, seed=seed).tobytes() for seed in (None, 1, 1, 2))
    assert one == again
    assert len({first, one, two}) == 3
    assert contact_sheet(data, rows=1000).height > contact_sheet(data, rows=1).height


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "mnist"),
        ("build", "celeba"),
        ("build", "folder", "--output", "a.h5"),
        ("build", "cifar", "--output", "a.h5"),
        ("build", "mnist", "--output", "a.h5", "--seed", "-1"),
        ("build", "mnist", "--output", "a.h5", "--seed", 2**63),
        ("build", "mnist", "--output", "a.h5", "--limit", "0"),
        ("verify", "a.h5", "--source", "stand-in", "--occluders", "b"),
        ("verify", "a.h5", "--source", "stand-in", "--all", "--sample", "5"),
        ("info",),
        ("preview", "a.h5"),
        ("preview", "a.h5", "-o", "b.png", "--split", "dev"),
        ("preview", "a.h5", "-o", "b.png", "--show", "all"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_2(
    arguments: tuple[str, ...], benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(benchmark_file, tmp_path / "a.h5")
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        *(
            (("verify", "FILE"), option)
            for option in (("--all",), ("--sample", 5), ("--seed", 1), ("--occluders", "."))
        ),
        *((("build", name, "--source", "."), ("--stand-in-count", 5)) for name in ("mnist", "celeba")),
        *((("build", "tless", "--source", "."), option) for option in (("--views", 10), ("--models", "."))),
        *((("build", name), ("--data-root", ".")) for name in ("mnist", "celeba", "tless")),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    command: tuple[str, ...], needless: tuple[object, ...], benchmark_file: Path, tmp_path: Path
) -> None:
    words = [benchmark_file if word == "FILE" else word for word in command]
    words += ["--output", tmp_path / "a.h5"] if command[0] == "build" else []
    done = run(*words, *needless)
    assert done.exit_code == 2
    assert needless[0] in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_stated_failures_are_one_sentence_and_exit_1(benchmark_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("hello")
    altered = tmp_path / "altered.h5"
    shutil.copy(benchmark_file, altered)
    altered.write_bytes(altered.read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    for arguments in (
        ("info", tmp_path / "nowhere.h5"),
        ("info", text),
        ("verify", text),
        ("verify", altered),
        ("verify", benchmark_file, "--source", tmp_path / "empty"),
        ("preview", text, "-o", tmp_path / "sheet.png"),
        ("preview", benchmark_file, "-o", tmp_path / "sheet.png", "--split", "valid"),
        ("preview", benchmark_file, "-o", tmp_path / "sheet.png", "--show", "occluders"),
        ("preview", benchmark_file, "-o", tmp_path / "no" / "folder.png"),
        ("build", "mnist", "--source", tmp_path / "empty", "--output", tmp_path / "a.h5"),
        ("build", "mnist", "--source", tmp_path / "nowhere", "--output", tmp_path / "a.h5", "--dry-run"),
        ("build", "mnist", "--output", text, "--limit", 3),
        ("stand-in", "mnist", "--output", text / "below"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Errno" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["altered.h5", "empty", "text.h5"]


def test_as_a_process(benchmark_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fusion_datasets"]
    output = tmp_path / "a.h5"
    built = subprocess.run(
        [*command, "build", "mnist", "--output", output, "--limit", "6", "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert FusionDataset(output).header.rows == {"train": 6, "test": 6}
    failed = subprocess.run([*command, "info", tmp_path / "none.h5"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == f"Error: {tmp_path}/none.h5 does not exist; make it with `fusion-datasets build`\n"


def test_the_package_is_light() -> None:
    code = "import sys, fusion_datasets; assert not {'torch', 'PIL', 'cv2', 'click', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_runs(benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "packages" / "fusion-datasets" / "README.md"
    code = readme.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    shutil.copy(benchmark_file, tmp_path / "fusion-mnist.h5")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["inputs"].shape == (32, 3, 1, 32, 32)
    assert names["masks"].shape == (32, 3, 32, 32)
    assert names["more"].shape == (8, 32, 32, 1)
