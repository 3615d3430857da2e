"""From source to benchmark file: shards first, with a journal that a killed build continues from."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import numpy as np

from fusion_datasets.assembly import Assembly
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.locking import locked
from fusion_datasets.progress import Progress
from fusion_datasets.schema import MAX_SEED, OCCLUDERS, occluder_section, validate
from fusion_datasets.shards import Journal, Rendered, Shard, ShardRenderer, read_arrays
from fusion_datasets.sources import HasOccluders, Recipe, Source, named
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInMnist
from fusion_datasets.spec import BENCHMARKS, BenchmarkSpec, ObjectLaw
from fusion_datasets.store import opened, reason_of, require_replaceable

STAND_IN_COUNT: Final = 12_000
"""Training digits of a stand-in; a sixth of them again for testing, MNIST's own proportion."""

_SHARD_ROWS: Final = 1000
_SHARD_BYTES: Final = 16 * 1024 * 1024
_ONE_REJECTED_IN: Final = 10
"""Of a set of occluders: where more cannot be cut out, the source is hardly what it is taken for."""


@dataclass(frozen=True)
class BuildPlan:
    """A build, described completely, before anything is written.

    Arguments:
        spec: The benchmark.
        source: Original files, or the recipe of a stand-in.
        output: The file to make.
        seed: Seed of the frozen inputs, 0 to 2⁶³ − 1.
        limit: Most originals per split, and per set of occluders, or None for all.
        skip_bad: Leave out originals that are missing or broken, or occluders of which many cannot be cut out, and
            record which, instead of stopping.
    """

    spec: BenchmarkSpec
    source: Source | Recipe
    output: Path
    seed: int = 0
    limit: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise FusionDatasetsError(f"got seed {self.seed!r}; expected a whole number from 0 to {MAX_SEED}")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise FusionDatasetsError(f"got a limit of {self.limit!r} rows; expected a whole number, at least 1")
        if self.output.is_symlink():  # often into a larger disk: the file and what is unfinished of it belong there
            try:
                target = self.output.resolve()
            except (OSError, RuntimeError):  # of links in a ring; from Python 3.13 on they stay as they are
                target = self.output
            if target.is_symlink():
                raise FusionDatasetsError(f"{self.output} leads nowhere, as links in a ring do; choose another output")
            object.__setattr__(self, "output", target)

    @cached_property
    def originals(self) -> dict[str, int]:
        """Originals that each section is made from; one that is broken or rejected yields no row."""
        source, counts = self.source, dict[str, int]()
        if isinstance(self.spec.law, ObjectLaw):
            assert isinstance(source, HasOccluders)
            counts |= {occluder_section(split): source.num_occluders(split) for split in self.spec.splits}
        counts |= {split: source.num_images(split) for split in self.spec.splits}
        for section, count in counts.items():
            if not count:
                raise FusionDatasetsError(
                    f"{source.description['name']} holds nothing for {section}; expected at least one image of each "
                    "split"
                )
        return {section: min(count, self.limit or count) for section, count in counts.items()}

    @property
    def rows(self) -> dict[str, int]:
        """Images of each split."""
        return {split: self.originals[split] for split in self.spec.splits}

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
            "fingerprint": None if isinstance(self.source, Recipe) else self.source.fingerprint,
            "seed": self.seed,
            "originals": self.originals,
            "shard_rows": self.shard_rows,
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
        if dataclasses.replace(header.spec, title=self.spec.title) != self.spec:
            return f"{header.benchmark} of other settings"
        if header.seed != self.seed:
            return f"seed {header.seed} instead of {self.seed}"
        for section, count in self.originals.items():
            if header.originals[section] != count:
                return f"{header.originals[section]} {section} rows instead of {count}"
        wanted = dict(self.source.description)
        if self.spec.name not in BENCHMARKS:  # a folder of pictures may be renamed
            del wanted["name"]
        elif header.source.get("name") != wanted["name"]:
            return f"from {header.source.get('name')} instead of {wanted['name']}"
        if not isinstance(self.source, Recipe):
            wanted["digest"] = self.source.digest(self.originals)
            if header.license != self.source.license:
                return f"licensed {header.license} instead of {self.source.license}"
        if any(header.source.get(key) != value for key, value in wanted.items()):
            return f"from other contents named {self.source.description['name']}"
        missed = {section: len(flaws) for section, flaws in header.omitted.items()}
        if not self.skip_bad and any(count > self.most_rejected(section) for section, count in missed.items()):
            return f"without {sum(missed.values())} originals that could not be used"
        if header.numpy_version != np.__version__:
            return f"rendered with NumPy {header.numpy_version} instead of {np.__version__}"
        return None

    def most_rejected(self, section: str) -> int:
        """Originals of a section that may be left out unasked: of occluders a tenth, rounded up, of targets none."""
        return -(-self.originals[section] // _ONE_REJECTED_IN) if section.startswith(f"{OCCLUDERS}/") else 0

    @property
    def shard_rows(self) -> int:
        """Rows of a shard: so many that one is small beside a gigabyte of memory."""
        image = int(np.prod(self.spec.shape))
        return max(1, min(_SHARD_ROWS, _SHARD_BYTES // (image * (1 + self.spec.max_inputs))))

    def shards(self) -> list[Shard]:
        """The pieces of work, in the order of the file's sections and rows."""
        return [
            Shard(section, start, min(start + self.shard_rows, count))
            for section, count in self.originals.items()
            for start in range(0, count, self.shard_rows)
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
    origin: Source | Recipe
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
        force: Replace another build under that name; what is no benchmark file is never replaced.
        stand_in_count: Training digits of the stand-in; a sixth as many for testing.
        progress: Report on stderr.

    Returns:
        The output's path.

    Raises:
        FusionDatasetsError: If the source cannot be used, the output is no benchmark file, or it is another build and
            `force` is not set.
    """
    plan = plan_mnist(source, output, seed=seed, limit=limit, stand_in_count=stand_in_count)
    return execute(plan, workers=workers, force=force, progress=progress)


def execute(plan: BuildPlan, *, workers: int = 1, force: bool = False, progress: bool = True) -> Path:
    """Carry out a plan; see `build_mnist`."""
    if workers < 1:
        raise FusionDatasetsError(f"got {workers} workers; expected at least 1")
    require_replaceable(plan.output)
    if plan.output.exists() and plan.output.stat().st_size and not force and is_built(plan):
        _clear(plan)
        return plan.output
    workshop = plan.workshop  # looks at the source: a bad one is met before anything is written
    try:
        plan.partial.mkdir(parents=True, exist_ok=True)
        with locked(plan.partial):
            for child in plan.partial.iterdir():
                if child.is_dir() and child != workshop:
                    shutil.rmtree(child, ignore_errors=True)
            workshop.mkdir(exist_ok=True)
            source = plan.source
            if isinstance(source, Recipe):
                source = source.write(workshop / "stand-in", progress=progress)
            renderer = ShardRenderer(workshop, source, plan.spec, plan.seed)
            with Assembly(renderer, plan.shards()) as assembly:
                done = _render(plan, renderer, workers, assembly, progress)
                assembly.publish(plan.output, done, progress=progress)
            shutil.rmtree(plan.partial, ignore_errors=True)
    except OSError as error:
        raise FusionDatasetsError(
            f"{plan.output} cannot be written: {reason_of(error)}; free some space or choose another place"
        ) from error
    return plan.output


def _clear(plan: BuildPlan) -> None:
    """Remove what this very build left where it was killed after its file had its name; what others left is theirs."""
    with contextlib.suppress(OSError, FusionDatasetsError):  # nothing left, not ours to write, or being worked on
        leftovers = {child.name for child in plan.partial.iterdir()}
        with locked(plan.partial):
            ours = leftovers <= {"lock", plan.workshop.name}
            shutil.rmtree(plan.partial if ours else plan.workshop)


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


def _render(
    plan: BuildPlan, renderer: ShardRenderer, workers: int, assembly: Assembly, progress: bool
) -> dict[str, Rendered]:
    """Render what is missing, occluders first: the rows of the evaluation splits are made with them."""
    journal = Journal(renderer.folder)
    shards = plan.shards()
    # Rows made with occluders that are about to be cut out again, as some could not be read, are made again too.
    recut = {shard.section for shard in shards if shard.name not in journal.done}
    for shard in shards:
        if shard.section != "train" and occluder_section(shard.section) in recut:
            journal.done.pop(shard.name, None)
    todo = [shard for shard in shards if shard.name not in journal.done]
    total, left = (sum(shard.stop - shard.start for shard in some) for some in (shards, todo))
    with Progress(f"{plan.spec.title} rows", total, done=total - left, shown=progress) as bar:
        for wants_occluders in (True, False):
            stage = [shard for shard in todo if shard.section.startswith(f"{OCCLUDERS}/") == wants_occluders]
            if not wants_occluders:
                _check_cuts(plan, journal.done)
                if stage and isinstance(plan.spec.law, ObjectLaw):
                    _pool_occluders(plan, renderer)
            for shard, rendered in renderer.render_all(stage, min(workers, len(stage))):
                journal.record(shard.name, rendered)
                bar.advance(shard.stop - shard.start)
                for _ in assembly.extend(journal.done):
                    pass
    unreadable = [flaw for shard in shards for flaw in journal.done[shard.name].unreadable]
    if unreadable and not plan.skip_bad:
        raise FusionDatasetsError(
            f"{len(unreadable)} of {total} originals cannot be used: {named(unreadable)}; mend them and run the same "
            "command again to continue, or leave them out with --skip-bad"
        )
    for section, count in plan.originals.items():
        flaws = [flaw for shard in shards if shard.section == section for flaw in journal.done[shard.name].unreadable]
        if len(flaws) == count:
            raise FusionDatasetsError(
                f"none of the {count} originals of {section} can be used: {named(flaws)}; mend them and run the same "
                "command again to continue"
            )
    return journal.done


def _check_cuts(plan: BuildPlan, done: dict[str, Rendered]) -> None:
    """Stop before occluders of which too many could not be cut out are laid over anything."""
    for section, total in plan.originals.items():
        shards = [done[shard.name] for shard in plan.shards() if shard.section == section and shard.name in done]
        rejected = [flaw for shard in shards for flaw in shard.rejected]
        none_left = len(rejected) == total
        if rejected and (none_left or (len(rejected) > plan.most_rejected(section) and not plan.skip_bad)):
            reasons = Counter(flaw.reason.partition(":")[0] for flaw in rejected)
            why = ", ".join(f"{reason} in {count}" for reason, count in reasons.most_common())
            remedy = "" if none_left else ", or leave them out with --skip-bad"
            shows = "single objects on black" if plan.spec.name in BENCHMARKS else "single things, all else transparent"
            raise FusionDatasetsError(
                f"{len(rejected)} of {total} {section} cannot be cut out ({why}; first {rejected[0].name}), expected "
                f"at most {plan.most_rejected(section)}; check that the source shows {shows}{remedy}"
            )


def _pool_occluders(plan: BuildPlan, renderer: ShardRenderer) -> None:
    """Gather the occluders of each evaluation split in one array that all processes map into memory."""
    for split in plan.spec.splits:
        if split == "train":
            continue
        shards = [shard for shard in plan.shards() if shard.section == occluder_section(split)]
        crops = [read_arrays(renderer.folder / shard.name)["rgba"] for shard in shards]
        np.save(renderer.pool_path(split), np.concatenate(crops), allow_pickle=False)
