"""Builds from any source: sections, what is left out of them, and targets of two sizes."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_datasets import BENCHMARKS, BenchmarkSpec, FusionDataset, FusionDatasetsError
from fusion_datasets import build as building
from fusion_datasets.build import BuildPlan, execute
from fusion_datasets.composition import grey_levels
from fusion_datasets.corruptions import RenderedExample
from fusion_datasets.sources import CleanImages, Occluders, Omission, originals_digest
from fusion_datasets.spec import Split
from fusion_datasets.verification import verify

COLOURED = replace(BENCHMARKS["fusion-celeba"], height=8, width=8, nll_size=8)
OBJECTS = replace(BENCHMARKS["fusion-tless"], height=8, width=8, nll_size=8, train_size_px=16)


@dataclass(frozen=True)
class Squares:
    """Squares of one colour each, 11 in a split; some are broken."""

    broken: tuple[tuple[str, int], ...] = ()
    side: int = 8

    description: Any = None
    license = "CC0-1.0"
    has_labels = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "description", {"name": "squares", "layout": "none", "stand_in": True})

    @property
    def fingerprint(self) -> str:
        return repr(self)

    def num_images(self, split: Split) -> int:
        return 11

    def num_occluders(self, split: Split) -> int:
        return 7

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        good, bad, index = self._sort(split, start, stop)
        colours = np.array([[i, 2 * i, 3 * i] for i in good], np.uint8).reshape(-1, 1, 1, 3)
        images = np.broadcast_to(colours, (len(good), self.side, self.side, 3))
        return CleanImages(images, None, index, self._sha256(start, stop), bad)

    def read_occluders(self, split: Split, start: int, stop: int) -> Occluders:
        good, bad, index = self._sort(f"occluders/{split}", start, stop)
        rgba = np.broadcast_to(np.array(good, np.uint8).reshape(-1, 1, 1, 1), (len(good), 100, 100, 4))
        return Occluders(rgba, index // 2, index, self._sha256(start, stop), rejected=bad)

    def digest(self, rows: Mapping[str, int]) -> str:
        return originals_digest((section, self._sha256(0, count)) for section, count in rows.items())

    def _sort(self, section: str, start: int, stop: int) -> tuple[list[int], tuple[Omission, ...], np.ndarray]:
        good = [i for i in range(start, stop) if (section, i) not in self.broken]
        bad = tuple(Omission(100 + i, f"{i}.png", "torn") for i in range(start, stop) if i not in good)
        return good, bad, np.array(good, "i8") + 100

    @staticmethod
    def _sha256(start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop, dtype=np.uint8)[:, None] + np.zeros(32, np.uint8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_ROWS", 4)


def plan(folder: Path, source: Squares, spec: BenchmarkSpec = COLOURED, **settings: Any) -> BuildPlan:
    return BuildPlan(spec, source, folder / "a.h5", **settings)


def test_a_source_without_labels(tmp_path: Path) -> None:
    execute(plan(tmp_path, Squares()), progress=False)
    data = FusionDataset(tmp_path / "a.h5")
    assert (data.split, data.splits, len(data)) == ("valid", ("train", "valid", "test"), 11)
    assert data[3].label is None
    assert data[3].index == 103
    assert data[3].target[0, 0].tolist() == [3, 6, 9]
    assert data.source["digest"] == Squares().digest({"train": 11, "valid": 11, "test": 11})
    assert data.occluders is None
    verify(tmp_path / "a.h5", Squares(), progress=False)


def test_colours_can_be_read_as_grey(tmp_path: Path) -> None:
    execute(plan(tmp_path, Squares()), progress=False)
    coloured, grey = (FusionDataset(tmp_path / "a.h5", grey=grey) for grey in (False, True))
    assert (coloured.shape, grey.shape) == ((8, 8, 3), (8, 8, 1))
    assert grey[7].target[0, 0].tolist() == [13]  # 0.299 · 7 + 0.587 · 14 + 0.114 · 21
    for one in (grey, pickle.loads(pickle.dumps(grey))):
        assert np.array_equal(one[7].inputs, grey_levels(coloured[7].inputs))  # type: ignore[arg-type]
        assert np.array_equal(one.inputs_beyond(7, 5)[:3], one[7].inputs)  # type: ignore[arg-type]
    assert grey.digest == coloured.digest
    assert coloured.with_channels(1).shape == grey.shape
    assert grey.with_channels(3).shape == coloured.shape
    assert grey.with_channels(1) is grey
    assert list(grey.occluder_blocks()) == []


def test_broken_originals_stop_a_build_by_name(tmp_path: Path) -> None:
    broken = Squares(tuple(("train", i) for i in range(6)))
    with pytest.raises(FusionDatasetsError) as caught:
        execute(plan(tmp_path, broken), progress=False)
    assert str(caught.value).startswith("6 of 33 originals cannot be used: 0.png (torn), 1.png (torn)")
    assert "4.png (torn), …; mend them" in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_broken_originals_are_left_out_on_request_and_change_no_other_row(tmp_path: Path) -> None:
    broken = Squares((("train", 2), ("valid", 0), ("valid", 10)))
    execute(plan(tmp_path / "broken", broken, skip_bad=True), progress=False)
    execute(plan(tmp_path / "whole", Squares()), progress=False)
    path = tmp_path / "broken" / "a.h5"
    part, whole = FusionDataset(path), FusionDataset(tmp_path / "whole" / "a.h5")
    assert part.header.rows == {"train": 10, "valid": 9, "test": 11}
    assert part.source["omitted"] == {"train": [[102, "2.png", "torn"]], "valid": [[100, "0.png", "torn"], [110, "10.png", "torn"]]}  # fmt: skip # noqa: E501
    for row in range(9):
        assert part[row].index == whole[row + 1].index
        assert np.array_equal(part[row].inputs, whole[row + 1].inputs)  # type: ignore[arg-type]
        assert np.array_equal(part.inputs_beyond(row, 5), whole.inputs_beyond(row + 1, 5))
    assert part.content_sha256["test/inputs"] == whole.content_sha256["test/inputs"]
    assert part.digest != whole.digest
    verify(path, broken, progress=False)
    execute(plan(tmp_path / "broken", broken, skip_bad=True), progress=False)  # this very build
    with pytest.raises(FusionDatasetsError, match="without 3 originals"):
        execute(plan(tmp_path / "broken", broken), progress=False)


def test_mended_originals_are_read_again(tmp_path: Path) -> None:
    broken = Squares((("train", 5),))
    with pytest.raises(FusionDatasetsError):
        execute(plan(tmp_path, broken), progress=False)
    object.__setattr__(broken, "broken", ())
    execute(plan(tmp_path, broken), progress=False)
    assert FusionDataset(tmp_path / "a.h5", "train").read(0, 11).index.tolist() == list(range(100, 111))


def test_occluders_and_targets_of_two_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def render(original: Any, spec: Any, seed: int, split: str, index: int, k: int, occluders: Any) -> RenderedExample:
        seen.append((len(occluders), occluders[1][0, 0, 0]))
        return RenderedExample(original[::2, ::2], np.zeros((k, 8, 8, 3), "u1"), np.ones((k, 8, 8), "?"))

    monkeypatch.setattr("fusion_datasets.corruptions.render_example", render)
    source = Squares((("occluders/test", 0), ("occluders/train", 6)), side=16)
    execute(plan(tmp_path, source, OBJECTS), progress=False)
    test, train = (FusionDataset(tmp_path / "a.h5", split) for split in ("test", "train"))
    assert (train[4].target.shape, test[4].target.shape) == ((16, 16, 3), (8, 8, 3))
    assert test.header.occluders == {"train": 6, "test": 6}
    assert test.header.originals == {"occluders/train": 7, "occluders/test": 7, "train": 11, "test": 11}
    assert test.source["omitted"]["occluders/test"] == [[100, "0.png", "torn"]]
    assert test.occluders is not None
    assert train.occluders is not None
    assert [int(pool[0][0, 0, 0]) for pool in (test.occluders, train.occluders)] == [1, 0]
    assert [len(block) for block in test.occluder_blocks()] == [6]
    assert seen == [(6, 2)] * 11
    verify(tmp_path / "a.h5", source, progress=False)
    with pytest.raises(FusionDatasetsError, match="another source"):
        verify(tmp_path / "a.h5", replace_digest(source), progress=False)


def replace_digest(source: Squares) -> Squares:
    class Others(Squares):
        def digest(self, rows: Mapping[str, int]) -> str:
            return "0" * 64

    return Others(source.broken, source.side)
