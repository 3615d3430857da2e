"""From source to benchmark file: shards first, with a journal that a killed build continues from."""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.schema import validate
from fusion_datasets.shards import Journal, Shard, ShardRenderer
from fusion_datasets.sources import Source
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInMnist
from fusion_datasets.spec import BENCHMARKS, BenchmarkSpec, Split
from fusion_datasets.store import DatasetWriter, opened

STAND_IN_COUNT: Final = 12_000
"""Training digits of a stand-in; a sixth of them again for testing, MNIST's own proportion."""

_SHARD_ROWS: Final = 1000


@dataclass(frozen=True)
class BuildPlan:
    """A build, described completely, before anything is written.

    Arguments:
        spec: The benchmark.
        source: Original files, or the recipe of a stand-in.
        output: The file to make.
        seed: Seed of the frozen inputs, ≥ 0.
        limit: Most rows per split, or None for all.
    """

    spec: BenchmarkSpec
    source: MnistSource | StandInMnist
    output: Path
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise FusionDatasetsError(f"got seed {self.seed}; seeds count from 0")
        if self.limit is not None and self.limit < 1:
            raise FusionDatasetsError(f"got a limit of {self.limit} rows; expected at least 1")

    @cached_property
    def rows(self) -> dict[Split, int]:
        """Rows of each split."""
        counts = {split: self.source.num_images(split) for split in self.spec.splits}
        return {split: min(count, self.limit or count) for split, count in counts.items()}

    @property
    def partial(self) -> Path:
        """The folder of unfinished work."""
        return self.output.with_name(f"{self.output.name}.partial")

    @cached_property
    def workshop(self) -> Path:
        """The folder for the shards of this very build, named by all that they depend on."""
        settings = {
            "spec": json.loads(self.spec.to_json()),
            "source": self.source.description,
            "seed": self.seed,
            "rows": self.rows,
            "shard_rows": _SHARD_ROWS,
            "versions": {"fusion-datasets": version("fusion-datasets"), "numpy": np.__version__},
        }
        return self.partial / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def difference(self) -> str | None:
        """Say how the file at `output` differs from this build, or None if it is the same build.

        Raises:
            FusionDatasetsError: If there is a file, but none that could be compared.
        """
        with opened(self.output) as file:
            header = validate(file)
        if header.spec != self.spec:
            return f"{header.benchmark} of other settings"
        if header.seed != self.seed:
            return f"seed {header.seed} instead of {self.seed}"
        for split, count in self.rows.items():
            if header.rows[split] != count:
                return f"{header.rows[split]} {split} rows instead of {count}"
        wanted = self.source.description
        if header.source.get("name") != wanted["name"]:
            return f"from {header.source.get('name')} instead of {wanted['name']}"
        if any(header.source.get(key) != value for key, value in wanted.items()):
            return f"from other contents named {wanted['name']}"
        if header.numpy_version != np.__version__:
            return f"rendered with NumPy {header.numpy_version} instead of {np.__version__}"
        return None

    def shards(self) -> list[Shard]:
        """The pieces of work, in the order of the file's rows."""
        return [
            Shard(split, start, min(start + _SHARD_ROWS, count))
            for split, count in self.rows.items()
            for start in range(0, count, _SHARD_ROWS)
        ]


def plan_mnist(
    source: Path | Literal["stand-in"],
    output: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    stand_in_count: int = STAND_IN_COUNT,
) -> BuildPlan:
    """Plan FusionMNIST (Sec. 5.1); for the arguments see `build_mnist`."""
    origin: MnistSource | StandInMnist
    if source == "stand-in":
        train, test = (min(count, limit or count) for count in (stand_in_count, -(-stand_in_count // 6)))
        origin = StandInMnist(train, test, seed)
    else:
        origin = MnistSource(Path(source))
    return BuildPlan(BENCHMARKS["fusion-mnist"], origin, Path(output), seed, limit)


def build_mnist(
    source: Path | Literal["stand-in"],
    output: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    workers: int = 1,
    force: bool = False,
    stand_in_count: int = STAND_IN_COUNT,
    progress: bool = True,
) -> Path:
    """Build FusionMNIST (Sec. 5.1): clean training targets, and test rows with three frozen inputs each.

    Arguments:
        source: The folder with MNIST's four files, or `"stand-in"` for rendered look-alikes.
        output: The file to make. An identical build is kept; an interrupted one is continued.
        seed: Seed of the frozen inputs and of the stand-in, ≥ 0.
        limit: Most rows per split, or None for all.
        workers: Processes; the content does not depend on it.
        force: Replace another build under that name.
        stand_in_count: Training digits of the stand-in; a sixth as many for testing.
        progress: Report on stderr.

    Returns:
        The output's path.

    Raises:
        FusionDatasetsError: If the source cannot be used, or the output is another build and `force` is not set.
    """
    plan = plan_mnist(source, output, seed=seed, limit=limit, stand_in_count=stand_in_count)
    return execute(plan, workers=workers, force=force, progress=progress)


def execute(plan: BuildPlan, *, workers: int = 1, force: bool = False, progress: bool = True) -> Path:
    """Carry out a plan; see `build_mnist`."""
    if workers < 1:
        raise FusionDatasetsError(f"got {workers} workers; expected at least 1")
    if plan.output.exists() and not force and is_built(plan):
        return plan.output
    workshop = plan.workshop  # looks at the source: a bad one is met before anything is written
    try:
        plan.partial.mkdir(parents=True, exist_ok=True)
        with _locked(plan.partial):
            for child in plan.partial.iterdir():
                if child.is_dir() and child != workshop:
                    shutil.rmtree(child, ignore_errors=True)
            workshop.mkdir(exist_ok=True)
            source = plan.source
            if isinstance(source, StandInMnist):
                source = source.write(workshop / "stand-in", progress=progress)
            _render(plan, source, workshop, workers, progress)
            _assemble(plan, source, workshop, progress)
            shutil.rmtree(plan.partial, ignore_errors=True)
    except OSError as error:
        raise FusionDatasetsError(
            f"{plan.output} cannot be written: {error.strerror or error}; free some space or choose another place"
        ) from error
    return plan.output


def is_built(plan: BuildPlan) -> bool:
    """Whether the output is this very build.

    Raises:
        FusionDatasetsError: If it is anything else.
    """
    try:
        difference = plan.difference()
    except FusionDatasetsError as error:
        raise FusionDatasetsError(f"{error}; or replace it with --force") from error
    if difference:
        raise FusionDatasetsError(
            f"{plan.output} is another build ({difference}); choose another output, or replace it with --force"
        )
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second build of the same file out; the system frees the lock however the process ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FusionDatasetsError(f"{folder} is being worked on by another process; wait for it") from None
        yield


def _render(plan: BuildPlan, source: Source, workshop: Path, workers: int, progress: bool) -> None:
    journal = Journal(workshop)
    shards = plan.shards()
    todo = [shard for shard in shards if shard.name not in journal.done]
    total, left = (sum(shard.stop - shard.start for shard in some) for some in (shards, todo))
    renderer = ShardRenderer(workshop, source, plan.spec, plan.seed)
    with Progress(f"{plan.spec.title} rows", total, done=total - left, shown=progress) as bar:
        for shard, sha256 in renderer.render_all(todo, min(workers, len(todo))):
            journal.record(shard.name, sha256)
            bar.advance(shard.stop - shard.start)


def _assemble(plan: BuildPlan, source: Source, workshop: Path, progress: bool) -> None:
    temporary = workshop / "assembled.h5"
    with (
        Progress(f"{plan.spec.title} file", sum(plan.rows.values()), shown=progress) as bar,
        DatasetWriter(temporary, plan.rows, plan.spec, has_labels=True) as writer,
    ):
        for shard in plan.shards():
            with np.load(workshop / shard.name, allow_pickle=False) as arrays:
                writer.append(shard.split, arrays.items())
            bar.advance(shard.stop - shard.start)
        writer.publish(plan.output, seed=plan.seed, source=source.description, license_name=source.license)
