"""docs/format.md is enough: a reader written from its text alone, with h5py and a JSON parser."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fusion_datasets import BENCHMARKS, FusionDataset, FusionDatasetsError
from fusion_datasets.build import execute
from fusion_datasets.plans import plan_tless
from fusion_datasets.schema import ATTRIBUTES, FIELDS, OCCLUDER_FIELDS

TYPES = {"uint8": "|u1", "int64": "<i8"}


@pytest.fixture(scope="module")
def text() -> str:
    return (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, code marks removed."""
    part = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


def read_by_the_text(path: Path, text: str) -> dict[str, Any]:
    """Read a file, checking every rule of the page on the way."""
    content = path.read_bytes()
    block = content[:512].decode().rstrip()
    words = re.findall(r"^      (\S.*)$", text, re.MULTILINE)
    assert block == "\n".join([*words[:2], hashlib.sha256(content[512:]).hexdigest()])
    found: dict[str, Any] = {}
    with h5py.File(path, locking=False) as file:
        attributes = dict(file.attrs)
        assert (attributes["format"], attributes["format_version"]) == ("fusion-datasets", 1)
        assert set(attributes) == {row[0] for row in table(text, "Attributes of the root")}
        spec, digests = json.loads(attributes["spec"]), json.loads(attributes["content_sha256"])
        sections = list(spec["splits"]) + [f"occluders/{split}" for split in spec["splits"] if "objects" in spec]
        sizes = {"h": spec["height"], "w": spec["width"], "c": spec["channels"], "k": spec["max_inputs"], "4": 4}
        sizes["p"] = spec.get("objects", {}).get("crop_px")
        for section in sections:
            pattern = "/occluders/SPLIT/" if section.startswith("occluders/") else "/SPLIT/"
            for name, kind, shape, meaning in table(text, "Sections and arrays"):
                if not re.fullmatch(f"{pattern}[a-z_]+", name):
                    continue
                array = file[section].get(name.removeprefix(pattern))
                if array is None:
                    assert (section == "train" and "not in train" in meaning) or "absent" in meaning
                    continue
                local = dict(sizes)
                if section == "train" and spec.get("train_size_px"):
                    local |= dict.fromkeys("hw", spec["train_size_px"])
                axes = shape.strip("[]").split(", ")[1:]
                assert array.shape[1:] == tuple(local[axis] for axis in axes)
                values = array[:]
                head = f"{TYPES[kind]} [{', '.join(map(str, array.shape))}]\n".encode()
                place = f"{section}/{name.removeprefix(pattern)}"
                sha256 = hashlib.sha256(head + values.astype(TYPES[kind]).tobytes("C")).hexdigest()
                assert digests.pop(place) == sha256
                found[place] = values
        assert not digests
    return found


def test_a_reader_needs_the_text_alone(benchmark_file: Path, text: str) -> None:
    found = read_by_the_text(benchmark_file, text)
    data = FusionDataset(benchmark_file)
    batch = data.read(0, len(data))
    for name in ("target", "inputs", "masks", "index", "label"):
        assert np.array_equal(found[f"test/{name}"], getattr(batch, name))
    assert "train/inputs" not in found
    lines = "".join(f"{path} {sha}\n" for path, sha in sorted(data.content_sha256.items()))
    assert data.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_a_reader_of_occluders_needs_no_more(tless_folder: Path, text: str, tmp_path: Path) -> None:
    file = execute(plan_tless(tless_folder, tmp_path / "a.h5", limit=12), progress=False)
    found = read_by_the_text(file, text)
    assert {path: array.shape for path, array in found.items() if path.startswith("occluders/test")} == {
        "occluders/test/rgba": (12, 100, 100, 4),
        "occluders/test/object_id": (12,),
        "occluders/test/index": (12,),
    }
    assert found["train/target"].shape[1:] == (128, 128, 3)
    assert found["test/inputs"].shape[1:] == (3, 64, 64, 3)


def test_the_text_names_all_that_is_written(text: str) -> None:
    arrays = {row[0].rpartition("/")[2] for row in table(text, "Sections and arrays")}
    assert arrays == {field.name for field in (*FIELDS, *OCCLUDER_FIELDS)}
    assert {row[0] for row in table(text, "Attributes of the root")} == set(ATTRIBUTES)
    spec = text.split("## The spec\n", 1)[1].split("\n## ", 1)[0]
    for benchmark in BENCHMARKS.values():
        fields = json.loads(benchmark.to_json())
        for key in (*fields, *fields.get("ellipses", ()), *fields.get("objects", ())):
            assert f"`{key}`" in spec


def test_newer_versions_are_refused_and_additions_are_ignored(benchmark_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(benchmark_file, path)
    with h5py.File(path, "r+") as file:
        file.attrs["invented_later"] = 1
    assert len(FusionDataset(path)) == 40
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(FusionDatasetsError, match="format version 2; this release reads version 1"):
        FusionDataset(path)
