"""Builds: the same content from any number of workers, after any interruption; whole files or none."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from kills import kill_and_continue

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets import build as building
from fusion_datasets.assembly import Assembly
from fusion_datasets.build import build_mnist, plan_mnist
from fusion_datasets.locking import locked
from fusion_datasets.plans import plan_celeba
from fusion_datasets.shards import Journal, Rendered, Shard, ShardRenderer
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInCelebA, StandInMnist


def digests(path: Path) -> dict[str, str]:
    return FusionDataset(path).content_sha256


def test_rows_are_the_source_padded(benchmark_file: Path, digits_folder: Path) -> None:
    source = MnistSource(digits_folder)
    for split in ("train", "test"):
        data = FusionDataset(benchmark_file, split=split)
        assert len(data) == source.num_images(split)
        clean = source.read(split, 0, len(data))
        batch = data.read(0, len(data))
        assert np.array_equal(batch.target[:, 2:-2, 2:-2], clean.images)
        assert batch.target.sum() == clean.images.sum(dtype=np.int64)
        assert np.array_equal(batch.label, clean.labels)
        assert batch.index.tolist() == list(range(len(data)))


def test_any_number_of_workers_gives_the_same_bytes(
    benchmark_file: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_SHARD_ROWS", 17)
    one, two = (
        build_mnist(digits_folder, tmp_path / f"{workers}.h5", seed=3, workers=workers, progress=False)
        for workers in (1, 2)
    )
    assert digests(one) == digests(benchmark_file)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5"]


def test_limit_takes_the_first_rows(benchmark_file: Path, digits_folder: Path, tmp_path: Path) -> None:
    short = FusionDataset(build_mnist(digits_folder, tmp_path / "b.h5", seed=3, limit=7, progress=False))
    assert short.header.rows == {"train": 7, "test": 7}
    expected = FusionDataset(benchmark_file).read(0, 7)
    assert np.array_equal(short.read(0, 7).inputs, expected.inputs)


def test_the_seed_changes_the_inputs_and_nothing_else(
    benchmark_file: Path, digits_folder: Path, tmp_path: Path
) -> None:
    other = digests(build_mnist(digits_folder, tmp_path / "b.h5", seed=4, progress=False))
    differing = {path for path, sha256 in digests(benchmark_file).items() if other[path] != sha256}
    assert differing == {"test/inputs", "test/masks"}


def test_a_stand_in_equals_a_build_from_its_files(tmp_path: Path) -> None:
    direct = build_mnist("stand-in", tmp_path / "a.h5", seed=6, stand_in_count=30, progress=False)
    StandInMnist(30, 5, seed=6).write(tmp_path / "files", progress=False)
    by_hand = build_mnist(tmp_path / "files", tmp_path / "b.h5", seed=6, progress=False)
    assert direct.read_bytes() == by_hand.read_bytes()
    data = FusionDataset(direct)
    assert data.is_stand_in
    assert data.header.license == "CC0-1.0"
    assert data.header.rows == {"train": 30, "test": 5}


def test_an_identical_build_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    build_mnist("stand-in", path, limit=6, progress=False)
    made = path.stat().st_mtime_ns
    build_mnist("stand-in", path, limit=6, progress=False)
    assert path.stat().st_mtime_ns == made
    for change, sentence in (
        ({"seed": 1, "limit": 6}, "seed 0 instead of 1"),
        ({"limit": 5}, "6 train rows instead of 5"),
    ):
        with pytest.raises(FusionDatasetsError, match=f"another build .{sentence}"):
            build_mnist("stand-in", path, progress=False, **change)  # type: ignore[arg-type]
    assert path.stat().st_mtime_ns == made
    build_mnist("stand-in", path, seed=1, limit=6, force=True, progress=False)
    assert FusionDataset(path).seed == 1


def test_another_source_of_the_same_name_is_another_build(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        StandInMnist(6, 2, seed).write(tmp_path / name, progress=False)
    build_mnist(tmp_path / "one", tmp_path / "a.h5", progress=False)
    with pytest.raises(FusionDatasetsError, match="other contents named mnist-stand-in"):
        build_mnist(tmp_path / "two", tmp_path / "a.h5", progress=False)


@pytest.mark.parametrize("force", [False, True])
def test_files_of_another_kind_are_never_replaced(force: bool, tmp_path: Path, digits_folder: Path) -> None:
    thesis, original, matrix = tmp_path / "a.h5", tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "matrix.h5"
    thesis.write_bytes(b"my thesis")
    for file in digits_folder.iterdir():
        shutil.copy(file, tmp_path)
    with h5py.File(matrix, "w") as file:
        file["matrix"] = np.eye(3)
    for source, output in (("stand-in", thesis), (tmp_path, original), ("stand-in", matrix), ("stand-in", tmp_path)):
        before = output.is_file() and output.read_bytes()
        with pytest.raises(FusionDatasetsError, match=r"another output$"):
            build_mnist(source, output, limit=3, force=force, progress=False)  # type: ignore[arg-type]
        assert (output.is_file() and output.read_bytes()) == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_file_is_replaced_where_one_says_so(tmp_path: Path) -> None:
    path = build_mnist("stand-in", tmp_path / "a.h5", limit=3, progress=False)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FusionDatasetsError, match=r"truncated.*--force"):
        build_mnist("stand-in", path, limit=3, progress=False)
    build_mnist("stand-in", path, limit=3, force=True, progress=False)
    for force in (False, True):  # in an empty file there is nothing to lose
        path.write_bytes(b"")
        build_mnist("stand-in", path, limit=3, force=force, progress=False)
        assert len(FusionDataset(path)) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(force: bool, tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo.h5", tmp_path / "link.h5"
    os.mkfifo(fifo)
    link.symlink_to(os.devnull)
    for path in (fifo, link):
        with pytest.raises(FusionDatasetsError, match="is no benchmark file, and nothing else is ever replaced"):
            build_mnist("stand-in", path, limit=3, force=force, progress=False)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert link.is_symlink()
    assert Path(os.devnull).is_char_device()


def test_a_link_to_a_larger_disk_is_followed(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk", tmp_path / "here" / "a.h5"
    disk.mkdir()
    link.parent.mkdir()
    link.symlink_to(disk / "real.h5")
    for seed in (1, 2):
        build_mnist("stand-in", link, limit=3, seed=seed, force=True, progress=False)
        assert link.is_symlink()
        assert FusionDataset(disk / "real.h5").seed == seed
    assert [path.name for path in link.parent.iterdir()] == ["a.h5"]
    for one, other in (("b.h5", "c.h5"), ("c.h5", "b.h5")):
        (tmp_path / one).symlink_to(tmp_path / other)
    with pytest.raises(FusionDatasetsError, match="leads nowhere"):
        build_mnist("stand-in", tmp_path / "b.h5", limit=3, progress=False)


def test_a_split_without_images_is_met_before_anything_is_written(digits_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(digits_folder, tmp_path / "digits")
    for kind, dims in (("images-idx3", (0, 28, 28)), ("labels-idx1", (0,))):
        for path in source.glob(f"t10k-{kind}*"):
            path.unlink()
        head = bytes((0, 0, 8, len(dims))) + b"".join(n.to_bytes(4, "big") for n in dims)
        (source / f"t10k-{kind}-ubyte").write_bytes(head)
    with pytest.raises(
        FusionDatasetsError, match=r"mnist-stand-in holds nothing for test; expected at least one image"
    ):
        build_mnist(source, tmp_path / "a.h5", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_bad_source_leaves_nothing_behind(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for file in digits_folder.glob("*.gz"):
        (tmp_path / "bad" / file.name).write_bytes(file.read_bytes()[:100])
    with pytest.raises(FusionDatasetsError, match="truncated"):
        build_mnist(tmp_path / "bad", tmp_path / "a.h5", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_impossible_settings(tmp_path: Path) -> None:
    for settings in (
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.5},
        {"limit": 2.5},
        {"limit": 0},
        {"workers": 0, "limit": 2},
        {"stand_in_count": 0},
    ):
        with pytest.raises(FusionDatasetsError, match="got"):
            build_mnist("stand-in", tmp_path / "a.h5", progress=False, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FusionDatasetsError, match="cannot be written"):
        build_mnist("stand-in", tmp_path / "file" / "a.h5", limit=2, progress=False)


def test_two_builds_of_one_file_do_not_mix(tmp_path: Path) -> None:
    plan = plan_mnist("stand-in", tmp_path / "a.h5", limit=3)
    plan.partial.mkdir()
    with locked(plan.partial), pytest.raises(FusionDatasetsError, match="by another process"):
        building.execute(plan, progress=False)
    building.execute(plan, progress=False)
    assert plan.output.is_file()


def test_a_journal_forgets_what_is_torn_or_altered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in ("a.shard", "b.shard", "c.shard"):
        (tmp_path / name).write_bytes(name.encode())
        journal.record(name, Rendered(zlib.crc32(name.encode()), 1))
    (tmp_path / "b.shard").write_bytes(b"altered")
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert set(Journal(tmp_path).done) == {"a.shard"}
    assert len(path.read_text().splitlines()) == 1


def test_an_interrupted_build_does_no_shard_twice(
    benchmark_file: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_SHARD_ROWS", 10)
    render, rendered = ShardRenderer.render, []

    def render_some(self: ShardRenderer, shard: Shard) -> Rendered:
        if len(rendered) == 5:
            raise KeyboardInterrupt
        rendered.append(shard.name)
        return render(self, shard)

    def continue_rendering(self: ShardRenderer, shard: Shard) -> Rendered:
        rendered.append(shard.name)
        return render(self, shard)

    monkeypatch.setattr(ShardRenderer, "render", render_some)
    with pytest.raises(KeyboardInterrupt):
        build_mnist(digits_folder, tmp_path / "a.h5", seed=3, progress=False)
    monkeypatch.setattr(ShardRenderer, "render", continue_rendering)
    again = build_mnist(digits_folder, tmp_path / "a.h5", seed=3, progress=False)
    assert len(rendered) == len(set(rendered)) == 13
    assert digests(again) == digests(benchmark_file)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped into memory")
def test_shards_that_are_in_the_file_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_ROWS", 3)
    StandInCelebA(6, 4, 2, seed=1).write(tmp_path / "faces", progress=False)
    publish, mapped = Assembly.publish, []

    def look(self: Assembly, output: Path, done: dict[str, Rendered], *, progress: bool) -> None:
        mapped.append([line for line in Path("/proc/self/maps").read_text().splitlines() if ".shard" in line])
        publish(self, output, done, progress=progress)

    monkeypatch.setattr(Assembly, "publish", look)
    building.execute(plan_celeba(tmp_path / "faces", tmp_path / "a.h5"), progress=False)
    assert mapped == [[]]


def test_shards_of_other_settings_are_not_continued_from(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    publish = Assembly.publish
    monkeypatch.setattr(Assembly, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        build_mnist(digits_folder, tmp_path / "a.h5", seed=1, progress=False)
    monkeypatch.setattr(Assembly, "publish", publish)
    other = build_mnist(digits_folder, tmp_path / "a.h5", seed=2, progress=False)
    assert digests(other) == digests(build_mnist(digits_folder, tmp_path / "b.h5", seed=2, progress=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_killed_build_continues_to_the_same_content(
    digits_folder: Path, benchmark_file: Path, tmp_path: Path
) -> None:
    killed = kill_and_continue("plan_mnist", digits_folder, tmp_path, 5, seed=3, shard_rows=10, most=9)  # of 13
    assert killed.content_sha256 == digests(benchmark_file)


BUILDS_KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from fusion_datasets import FusionDataset, build

source, folder = map(Path, sys.argv[1:])

def fork(output, fatal_operation):
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    left, published = fatal_operation, build.Assembly.publish
    def count(event, arguments):
        nonlocal left
        if event in ("os.rename", "os.remove", "os.rmdir") or (event == "open" and output.name in str(arguments[0])):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
    def publish(*arguments, **options):
        sys.addaudithook(count)
        published(*arguments, **options)
    if fatal_operation:
        build.Assembly.publish = publish
    build.build_mnist(source, output, seed=3, progress=False)
    os._exit(0)

whole, output = folder / "whole.h5", folder / "killed.h5"
fork(whole, 0)
wanted, found = FusionDataset(whole).digest, []
while fork(output, len(found) + 1):
    found.append(output.exists())
    assert not output.exists() or FusionDataset(output).digest == wanted, "half a file"
    assert not fork(output, 0)
    assert FusionDataset(output).digest == wanted, "another file"
    assert sorted(os.listdir(folder)) == ["killed.h5", "whole.h5"], os.listdir(folder)
    output.unlink()
print(found.count(False), found.count(True))
"""


def test_killed_at_any_operation_of_its_publication_a_build_leaves_all_or_nothing(
    digits_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", BUILDS_KILLED_WHILE_PUBLISHING, str(digits_folder), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    before, after = map(int, ended.stdout.split())
    assert before >= 2  # opened, renamed
    assert after >= 6  # two shards, journal, lock and two folders to be removed


def test_what_another_build_left_beside_a_built_file_is_kept(digits_folder: Path, tmp_path: Path) -> None:
    plan = plan_mnist(digits_folder, tmp_path / "a.h5", seed=3)
    building.execute(plan, progress=False)
    for folder in (plan.workshop, plan.partial / "0123456789abcdef"):
        folder.mkdir(parents=True)
    with locked(plan.partial):
        building.execute(plan, progress=False)
        assert plan.workshop.exists()  # somebody works there, with force
    building.execute(plan, progress=False)
    assert sorted(path.name for path in plan.partial.iterdir()) == ["0123456789abcdef", "lock"]


def test_the_file_says_what_it_is(benchmark_file: Path) -> None:
    with h5py.File(benchmark_file) as file:
        attributes = dict(file.attrs)
    assert attributes["format"] == "fusion-datasets"
    assert attributes["format_version"] == 1
    assert attributes["benchmark"] == "fusion-mnist"
    assert attributes["seed"] == 3
    assert attributes["numpy_version"] == np.__version__
    assert json.loads(attributes["source"]).keys() >= {"name", "layout", "digest", "stand_in"}
    assert json.loads(attributes["content_sha256"]).keys() == {
        *("train/target", "train/index", "train/label"),
        *("test/target", "test/inputs", "test/masks", "test/index", "test/label"),
    }


@pytest.mark.originals
def test_fusion_mnist_of_the_original(mnist_root: Path, tmp_path: Path) -> None:
    data = FusionDataset(build_mnist(mnist_root, tmp_path / "a.h5", limit=300, progress=False))
    assert data.source["name"] == "mnist"
    assert not data.is_stand_in
    assert data.header.license == "CC-BY-SA-3.0"
    assert data.read(0, 10).label.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # type: ignore[union-attr]


BUILD_ON_A_DISK_OF_ITS_OWN = """
set -e
mount -t tmpfs -o size=$2 none "$1"
shift 2
"$@"
"""
BUILD = """
import sys
from pathlib import Path
from fusion_datasets import FusionDatasetsError, build

build._SHARD_ROWS = 10
try:
    build.build_mnist(Path(sys.argv[1]), Path(sys.argv[2]), seed=3, progress=False)
except FusionDatasetsError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("size_kib", [200, 300, 400, 500])
def test_a_full_disk_is_one_sentence(digits_folder: Path, tmp_path: Path, size_kib: int) -> None:
    """Full while shards are written beside the growing file, or while that is completed."""
    disk = ["unshare", "--map-root-user", "--mount", "sh", "-c", BUILD_ON_A_DISK_OF_ITS_OWN, "sh", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*disk, "64k", "true"], capture_output=True).returncode:
        pytest.skip("no disk of our own can be had here")
    output = tmp_path / "a.h5"
    build_ = [sys.executable, "-c", BUILD, str(digits_folder), str(output)]
    ended = subprocess.run([*disk, f"{size_kib}k", *build_], capture_output=True, text=True)
    said = f"{output} cannot be written: No space left on device; free some space or choose another place\n"
    assert (ended.returncode, ended.stderr) == (1, said)  # no traceback, and HDF5 does not crash at the end
