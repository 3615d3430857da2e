"""A full disk, attributes that say anything, and CelebA rebuilt from a recipe."""

import base64
import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.publication.folder import check_sums
from fusion_datasets.sources import STAND_IN_NOTE
from fusion_datasets.sources.standin import StandInCelebA

LIMIT_BYTES = 60_000


def on_a_full_disk(*arguments: object) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    command = [sys.executable, "-m", "fusion_datasets", *map(str, arguments)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_full_disk_leaves_the_previous_build_whole(benchmark_file: Path, digits_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    shutil.copy(benchmark_file, output)
    command = ("build", "mnist", "--source", digits_folder, "--output", output, "--seed", 4, "--force")
    said = on_a_full_disk(*command)
    assert said.returncode == 1, said.stderr
    assert "Traceback" not in said.stderr
    assert len([line for line in said.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert output.read_bytes() == benchmark_file.read_bytes()
    assert run(*command).exit_code == 0
    assert FusionDataset(output).seed == 4


def test_a_full_disk_leaves_no_half_publication(benchmark_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    said = on_a_full_disk("publish", benchmark_file, "--to", tmp_path / "out")
    assert said.returncode == 1, said.stderr
    assert "Traceback" not in said.stderr
    assert "cannot be written: File too large; free some space" in said.stderr
    assert not (tmp_path / "out").exists()
    assert run("publish", benchmark_file, "--to", tmp_path / "out").exit_code == 0
    whole = check_sums(tmp_path / "out")
    assert on_a_full_disk("publish", benchmark_file, "--to", tmp_path / "out").returncode == 0
    assert check_sums(tmp_path / "out") == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("name", "shape", "splits", "law", "noise_std", "max_inputs", "omitted", "stand_in", "digest", "count", "radius")


@pytest.fixture(scope="module")
def tiny_file(benchmark_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(benchmark_file, tmp_path_factory.mktemp("tiny") / "a.h5"))


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_attributes_may_say_anything(tiny_file: Path, benchmark_file: Path, data: st.DataObject) -> None:
    shutil.copy(benchmark_file, tiny_file)
    with h5py.File(tiny_file, "r+") as file:
        name = data.draw(st.sampled_from(sorted(file.attrs)))
        old = file.attrs[name]
        value: Any
        if isinstance(old, str) and old.startswith("{") and data.draw(st.booleans()):
            table = json.loads(old)
            table[data.draw(st.sampled_from([*table, *KEYS]))] = data.draw(JSON)
            value = json.dumps(table)
        else:
            value = data.draw(
                st.integers(-(2**63), 2**63 - 1)
                | st.floats()
                | st.binary(min_size=1, max_size=9).filter(lambda some: 0 not in some)
                | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
                | st.lists(st.integers(0, 9), max_size=3)
                | JSON.map(json.dumps)
            )
        file.attrs[name] = value
    with contextlib.suppress(FusionDatasetsError), FusionDataset(tiny_file, split="test") as read:
        assert repr(read)
        assert read.digest
        read.read(0, 2)


def test_splits_that_are_no_names_are_refused(tiny_file: Path, benchmark_file: Path) -> None:
    shutil.copy(benchmark_file, tiny_file)
    with h5py.File(tiny_file, "r+") as file:
        file.attrs["spec"] = json.dumps(json.loads(file.attrs["spec"]) | {"splits": [{}]})
    with pytest.raises(FusionDatasetsError, match="names the splits"):
        FusionDataset(tiny_file, split="test")


def test_celeba_is_rebuilt_from_a_recipe(tmp_path: Path) -> None:
    photographs = tmp_path / "celeba"
    StandInCelebA(6, 3, 2, seed=4).write(photographs, progress=False)
    (photographs / STAND_IN_NOTE).unlink()  # as if they were the originals
    first, again = tmp_path / "a.h5", tmp_path / "b.h5"
    assert run("build", "celeba", "--source", photographs, "--seed", 2, "--output", first).exit_code == 0
    assert FusionDataset(first).header.license == "LicenseRef-CelebA"
    assert run("publish", first, "--to", tmp_path / "out").exit_code == 0
    published = check_sums(tmp_path / "out")
    assert {*published} == {"recipe.json", "README.md", "CITATION.cff", "croissant.json"}
    target = FusionDataset(first)[0].target.tobytes()
    for name in published:
        text = (tmp_path / "out" / name).read_bytes()
        assert target not in text
        assert base64.b64encode(target[:300]) not in text
    recipe = ("--recipe", tmp_path / "out" / "recipe.json")
    built = run("build", "celeba", "--source", photographs, *recipe, "--output", again)
    assert (built.exit_code, built.stderr) == (0, "")
    assert "as the recipe says in every row" in built.stdout
    assert again.read_bytes() == first.read_bytes()
    pictures = sorted(photographs.rglob("*.jpg"))
    shutil.copy(pictures[0], pictures[7])  # the second of valid
    other = run("build", "celeba", "--source", photographs, *recipe, "--output", tmp_path / "c.h5")
    assert other.exit_code == 1
    assert "not what the recipe says in valid row 1;" in other.stderr
