"""Reading files: rows, processes, and files that are none."""

import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fusion_datasets import BENCHMARKS, FusionDataset, FusionDatasetsError, store
from fusion_datasets.build import build_mnist
from fusion_datasets.corruptions import render_example
from fusion_datasets.flushing import Flusher
from fusion_datasets.store import write_atomically

TEST_ROWS = 40


@pytest.fixture
def broken_file(benchmark_file: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copy(benchmark_file, tmp_path / "broken.h5"))


def test_examples_and_batches_agree(benchmark_file: Path) -> None:
    with FusionDataset(benchmark_file) as data:
        batch = data.read(5, 9)
        assert batch.target.shape == (4, 32, 32, 1)
        assert batch.inputs is not None
        assert batch.masks is not None
        assert batch.inputs.shape == (4, 3, 32, 32, 1)
        assert batch.masks.shape == (4, 3, 32, 32)
        assert (batch.target.dtype, batch.inputs.dtype, batch.masks.dtype) == (np.uint8, np.uint8, np.bool_)
        for i in range(4):
            example = data[5 + i]
            assert np.array_equal(example.target, batch.target[i])
            assert np.array_equal(example.inputs, batch.inputs[i])
            assert np.array_equal(example.masks, batch.masks[i])
            assert (example.index, example.label) == (5 + i, batch.label[i])  # type: ignore[index]
        assert data.read(3, 3).target.shape == (0, 32, 32, 1)


def test_the_training_split_has_targets_only(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file, split="train")
    assert data[0].inputs is None
    assert data[0].masks is None
    assert data.read(0, 2).inputs is None
    with pytest.raises(FusionDatasetsError, match="render them live"):
        data.inputs_beyond(0, 3)


def test_a_data_set_is_a_sequence(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    assert len(data) == TEST_ROWS
    assert [example.index for example in data] == list(range(TEST_ROWS))
    assert data[-1].index == data[np.int64(TEST_ROWS - 1)].index == TEST_ROWS - 1  # type: ignore[index]
    for row in (TEST_ROWS, -TEST_ROWS - 1):
        with pytest.raises(IndexError):
            data[row]
    for several in (slice(0, 5), 1.0, "1", None):
        with pytest.raises(FusionDatasetsError, match=r"as a row; expected a whole number: read\(start, stop\)"):
            data[several]  # type: ignore[index]
    for start, stop in ((-1, 2), (3, 2), (0, TEST_ROWS + 1)):
        with pytest.raises(FusionDatasetsError, match="0 ≤ start ≤ stop ≤ 40"):
            data.read(start, stop)


def test_what_it_says_of_itself(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    assert data.spec == BENCHMARKS["fusion-mnist"]
    assert (data.benchmark, data.seed, data.splits, data.shape) == ("fusion-mnist", 3, ("train", "test"), (32, 32, 1))
    assert data.is_stand_in
    assert data.source["layout"] == "mnist-idx"
    assert len(data.digest) == 64
    data.content_sha256.clear()
    assert data.content_sha256
    assert "40 rows" in repr(data)


def test_the_stream_of_a_row_goes_on_after_the_stored_inputs(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    for row in (0, 17, -1):
        for num_inputs in (1, 3, 8):
            beyond = data.inputs_beyond(row, num_inputs)
            assert beyond.shape == (num_inputs, 32, 32, 1)
            assert np.array_equal(beyond[:3], data[row].inputs[:num_inputs])  # type: ignore[index]
            rendered = data.render(row, num_inputs)
            assert np.array_equal(rendered.inputs, beyond)
            assert np.array_equal(rendered.target, data[row].target)
            assert np.array_equal(rendered.masks[:3], data[row].masks[:num_inputs])  # type: ignore[index]
            assert rendered.masks.shape == (num_inputs, 32, 32)
    expected = render_example(data[17].target, data.spec, 3, "test", 17, 8)
    assert np.array_equal(data.inputs_beyond(17, 8), expected.inputs)
    assert np.array_equal(data.render(17, 8).masks, expected.masks)
    for number in (0, 9):
        with pytest.raises(FusionDatasetsError, match=r"a row yields 1 … 8"):
            data.inputs_beyond(0, number)


def sums(data: FusionDataset, rows: range) -> list[int]:
    return [int(data[row].target.sum()) for row in rows]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_read_on_their_own(benchmark_file: Path, method: str) -> None:
    data = FusionDataset(benchmark_file)
    everything = sums(data, range(TEST_ROWS))  # opens the file: the handle crosses the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        parts = [pool.apply_async(sums, (data, range(start, start + 10))) for start in range(0, TEST_ROWS, 10)]
        assert [value for part in parts for value in part.get(timeout=60)] == everything
    assert sums(data, range(TEST_ROWS)) == everything


def read_inherited(connection: object, data: FusionDataset) -> None:
    inherited = data._file
    connection.send(sums(data, range(TEST_ROWS)))  # type: ignore[attr-defined]
    assert inherited is not None
    assert data._file is not inherited
    data.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_handle_that_crossed_a_fork_is_left_alone(benchmark_file: Path) -> None:
    context = multiprocessing.get_context("fork")
    data = FusionDataset(benchmark_file)
    everything = sums(data, range(TEST_ROWS))
    pipes, processes = [], []
    for _ in range(3):
        here, there = context.Pipe()
        processes.append(context.Process(target=read_inherited, args=(there, data)))
        processes[-1].start()
        pipes.append(here)
    while_they_read = sums(data, range(TEST_ROWS))
    for pipe, process in zip(pipes, processes, strict=True):
        assert pipe.recv() == everything
        process.join()
        assert process.exitcode == 0
    assert while_they_read == sums(data, range(TEST_ROWS)) == everything


def test_pickles_hold_a_path_and_a_split(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file, split="train")
    data[0]
    content = pickle.dumps(data)
    assert len(content) < 400
    again = pickle.loads(content)
    assert (again.path, again.split, again.digest) == (data.path, data.split, data.digest)
    assert np.array_equal(again[3].target, data[3].target)


def test_closing_is_not_the_end(benchmark_file: Path) -> None:
    data = FusionDataset(benchmark_file)
    with data:
        first = data[0].target
    data.close()
    assert np.array_equal(data[0].target, first)
    data.close()


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(benchmark_file: Path, tmp_path: Path) -> None:
    path, other = Path(shutil.copy(benchmark_file, tmp_path)), tmp_path / "other.h5"
    build_mnist("stand-in", other, limit=5, progress=False)
    data, open_one = FusionDataset(path), FusionDataset(path)
    first = open_one[3].target
    other.replace(path)
    assert np.array_equal(open_one[3].target, first)  # it still has the old file
    with pytest.raises(FusionDatasetsError, match="was replaced after it had been opened"):
        data.read(0, 3)
    assert len(FusionDataset(path)) == 5


def test_a_relative_path_means_the_same_file_wherever_the_process_goes(
    benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(benchmark_file.parent)
    data = FusionDataset(benchmark_file.name)
    monkeypatch.chdir(tmp_path)
    assert len(data.read(0, 5).target) == 5
    assert pickle.loads(pickle.dumps(data))[3].index == data[3].index


def test_files_are_not_locked(benchmark_file: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with benchmark_file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with FusionDataset(benchmark_file) as data:
            assert data[0].index == 0


def set_attribute(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return change


def change_file(action: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            action(file)

    return change


def replace(path: str, array: np.ndarray) -> Callable[[Path], None]:
    def action(file: h5py.File) -> None:
        del file[path]
        file[path] = array

    return change_file(action)


def foreign(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = [1]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is no file"),
    "empty": (lambda path: path.write_bytes(b""), "no HDF5 file"),
    "text": (lambda path: path.write_text("hello"), "no HDF5 file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated"),
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
    "foreign": (foreign, "of another kind"),
    "newer": (set_attribute("format_version", 2), "format version 2; this release reads version 1"),
    "seed": (set_attribute("seed", "x"), "attribute seed is 'x'; expected int"),
    "source": (set_attribute("source", "[1]"), "attribute source is no JSON object"),
    "digests": (set_attribute("content_sha256", "{"), "attribute content_sha256 is no JSON object"),
    "spec": (set_attribute("spec", "{}"), "spec cannot be read"),
    "splits": (
        set_attribute("spec", BENCHMARKS["fusion-mnist"].to_json().replace('["train", "test"]', "7")),
        "splits 7",
    ),
    "default split": (
        set_attribute(
            "spec", BENCHMARKS["fusion-mnist"].to_json().replace('"default_split": "test"', '"default_split": {}')
        ),
        "is evaluated on {}; expected one of its splits",
    ),
    "omitted": (set_attribute("source", '{"omitted": 7}'), "omitted is no table of lists"),
    "omitted what": (set_attribute("source", '{"omitted": {"train": [[1]]}}'), "omitted is no table of lists"),
    "no license": (change_file(lambda file: file.attrs.__delitem__("license")), "attribute license is None"),
    "no split": (change_file(lambda file: file.__delitem__("test")), "lacks /test/target"),
    "no inputs": (change_file(lambda file: file.__delitem__("test/inputs")), "lacks /test/inputs"),
    "no label": (change_file(lambda file: file.__delitem__("test/label")), "do not match the arrays (/test/label"),
    "a group": (change_file(lambda file: file.create_group("extra")), "holds /extra"),
    "an array": (change_file(lambda file: file.__setitem__("train/inputs", [0])), "/train/inputs, which has no place"),
    "shape": (replace("test/masks", np.zeros((40, 3, 32, 31), "u1")), "/test/masks is uint8 [40, 3, 32, 31]; expected"),
    "rows": (replace("test/label", np.zeros(39, "i8")), "/test/label is int64 [39]; expected int64 [40]"),
    "type": (replace("test/index", np.zeros(40, "i4")), "/test/index is int32"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_none_are_refused_in_one_sentence(broken_file: Path, case: str) -> None:
    harm, sentence = BROKEN[case]
    harm(broken_file)
    with pytest.raises(FusionDatasetsError) as caught:
        FusionDataset(broken_file)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_one_sentence(broken_file: Path) -> None:
    with h5py.File(broken_file) as file:
        offset = file["test/target"].id.get_chunk_info(0).byte_offset
    content = bytearray(broken_file.read_bytes())
    content[offset : offset + 200] = bytes(200)
    broken_file.write_bytes(content)
    with pytest.raises(FusionDatasetsError, match="is damaged in /test, rows 0 … 1"):
        FusionDataset(broken_file)[0]


def test_unknown_splits_are_refused(benchmark_file: Path) -> None:
    with pytest.raises(FusionDatasetsError, match="no split ''"):
        FusionDataset(benchmark_file, "")  # type: ignore[arg-type]
    with pytest.raises(FusionDatasetsError, match="no split 'valid'; it has train, test"):
        FusionDataset(benchmark_file, split="valid")


def test_small_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note"
    write_atomically(path, b"old")

    def fail(self: Path, content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_what_the_disk_refuses_beside_other_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"rows")
    flusher = Flusher(tmp_path / "a")
    flusher.flush()
    flusher.wait()

    def refuse(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", refuse)
    flusher.flush()
    with pytest.raises(OSError, match="no space left"):
        flusher.wait()
    flusher.close()
    flusher.close()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "replace_durably", full)
    with pytest.raises(OSError, match="No space left"):
        store.copy_durably(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
