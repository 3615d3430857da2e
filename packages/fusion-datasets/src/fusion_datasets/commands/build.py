"""`fusion-datasets build`: from original files to a benchmark file."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import click

from fusion_datasets.build import STAND_IN_COUNT, BuildPlan, execute, is_built, plan_mnist
from fusion_datasets.commands.options import COUNT, DATA_ROOT, DOWNLOAD, FILE, RECIPE, SEED, STAND_IN, given
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.hub import SCHEME, HubAddress, local_file
from fusion_datasets.plans import STAND_IN_FACES, plan_celeba, plan_folder, plan_tless
from fusion_datasets.publication.recipe import Recipe, read_recipe
from fusion_datasets.shards import file_sha256
from fusion_datasets.sources import named
from fusion_datasets.sources.download import RemoteFile
from fusion_datasets.sources.folder import MAX_SIZE, MIN_SIZE, FolderSource
from fusion_datasets.sources.originals import fetch, originals, originals_folder
from fusion_datasets.spec import BENCHMARKS
from fusion_datasets.store import FusionDataset, copy_durably, require_replaceable
from fusion_datasets.verification import verify

PATH = click.Path(path_type=Path, exists=True)


@click.group()
def build() -> None:
    """Build a benchmark file from original files."""


@dataclass(frozen=True)
class Execution:
    """How a plan is carried out, whatever it is for.

    Arguments:
        workers: Processes.
        force: Replace another build.
        dry_run: Only say what would be done.
        recipe: What the file must be, row by row; it decides the seed and the number of rows.
    """

    workers: int
    force: bool
    dry_run: bool
    recipe: Path | None = None

    def carry_out(self, plan: BuildPlan) -> None:
        """Build, and say so."""
        recipe = None if self.recipe is None else read_recipe(self.recipe)
        if recipe is not None:
            plan = recipe.applied_to(plan)
        require_replaceable(plan.output)
        reused = plan.output.exists() and not self.force and is_built(plan)
        if self.dry_run:
            click.echo(_describe(plan, reused))
            return
        execute(plan, workers=self.workers, force=self.force)
        if recipe is not None and (differing := recipe.differing_rows(plan.output)):
            rows, cause = _rows(differing), _cause(plan, recipe)
            raise FusionDatasetsError(f"{plan.output} was built, but is not what the recipe says in {rows}; {cause}")
        same = ", as the recipe says in every row" * (recipe is not None)
        with FusionDataset(plan.output) as data:
            header = data.header
        contents = _contents(plan, header.rows)
        left_out = "".join(
            f"; {len(flaws)} of {plan.originals[section]} {section} left out: {named(flaws)}"
            for section, flaws in header.omitted.items()
        )
        click.echo(f"{plan.output}: {'already built' if reused else 'built'}, {contents}{same}{left_out}")


def execution_options(default_workers: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that every build has; those of its execution arrive as one `Execution`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(*, workers: int, force: bool, dry_run: bool, recipe: Path | None, **settings: Any) -> None:
            if recipe is not None and (settled := given("seed", "limit")):
                raise click.UsageError(f"a recipe decides the seed and the number of rows; leave {settled[0]} out")
            command(execution=Execution(workers, force, dry_run, recipe), **settings)

        options = (
            click.option("--output", type=FILE, required=True, help="The HDF5 file to make."),
            click.option("--limit", type=COUNT, help="Most rows per split, and pictures that occluders are cut from."),
            click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the frozen inputs."),
            click.option(
                "--workers",
                type=COUNT,
                default=default_workers,
                show_default=True,
                help="Processes; the content is the same.",
            ),
            click.option(
                "--recipe",
                type=RECIPE,
                metavar="FILE|hf://owner/name",
                help="recipe.json of a publication: make that very file.",
            ),
            click.option("--force", is_flag=True, help="Replace another build; never what is no benchmark file."),
            click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        )
        for option in reversed(options):
            run = option(run)
        return run

    return decorate


SKIP_BAD = click.option("--skip-bad", is_flag=True, help="Leave out originals that cannot be used, and record which.")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@build.command("mnist")
@click.option(
    "--source",
    default=STAND_IN,
    show_default=True,
    help="Folder with MNIST's four IDX files, 'download' to fetch them, "
    "'stand-in' for rendered look-alikes, or hf://owner/name for the published file.",
)
@DATA_ROOT
@click.option(
    "--stand-in-count",
    type=COUNT,
    default=STAND_IN_COUNT,
    show_default=True,
    help="Training digits of the stand-in; a sixth of them again for testing.",
)
@execution_options(default_workers=1)
def build_mnist_command(source: str, data_root: Path | None, execution: Execution, **settings: Any) -> None:
    """Build FusionMNIST. An identical build is reused, an interrupted one continued."""
    if source.startswith(SCHEME):
        _take("fusion-mnist", HubAddress.parse(source), settings["output"], execution)
    elif origin := _origin("mnist", source, data_root, execution):
        execution.carry_out(plan_mnist(origin, **settings))


@build.command("celeba")
@click.option(
    "--source",
    default=STAND_IN,
    show_default=True,
    help="img_align_celeba.zip, or a folder with it or its images, and list_eval_partition.txt beside them; "
    "'download' to fetch them, 'stand-in' for rendered faces, or hf://owner/name for their published file.",
)
@DATA_ROOT
@click.option(
    "--stand-in-count",
    type=COUNT,
    default=STAND_IN_FACES,
    show_default=True,
    help="Training faces of the stand-in; an eighth of them again for validation, and for testing.",
)
@SKIP_BAD
@execution_options(default_workers=usable_cores())
def build_celeba_command(source: str, data_root: Path | None, execution: Execution, **settings: Any) -> None:
    """Build FusionCelebA. An identical build is reused, an interrupted one continued."""
    if source.startswith(SCHEME):
        _take("fusion-celeba", HubAddress.parse(source), settings["output"], execution)
    elif origin := _origin("celeba", source, data_root, execution):
        execution.carry_out(plan_celeba(origin, **settings))


@build.command("tless")
@click.option(
    "--source",
    default=STAND_IN,
    show_default=True,
    help="Folder or zip with T-LESS's Primesense training images, as train_primesense/05/rgb/0123.png or "
    "train_primesense/000005/rgb/000123.png; or folder with the zips of release v2; 'download' to fetch them, "
    "'stand-in' for rendered views, or hf://owner/name for the published file.",
)
@DATA_ROOT
@click.option("--views", type=click.IntRange(min=10), help="Of the stand-in: views of each object.")
@click.option(
    "--models", type=PATH, help="Of the stand-in: folder of CAD models to render, instead of built-in solids."
)
@SKIP_BAD
@execution_options(default_workers=usable_cores())
def build_tless_command(source: str, data_root: Path | None, execution: Execution, **settings: Any) -> None:
    """Build FusionT-LESS. An identical build is reused, an interrupted one continued."""
    if source.startswith(SCHEME):
        _take("fusion-tless", HubAddress.parse(source), settings["output"], execution)
    elif origin := _origin("tless", source, data_root, execution):
        execution.carry_out(plan_tless(origin, **settings))


@build.command("folder")
@click.option("--source", type=PATH, required=True, help="Folder or zip of pictures; sub-folders become labels.")
@click.option("--size", type=click.IntRange(MIN_SIZE, MAX_SIZE), default=64, show_default=True, help="Side in pixels.")
@click.option("--occlusion", type=click.Choice(["ellipses", "objects"]), help="By default objects if there are any.")
@click.option("--occluders", type=PATH, help="Folder or zip of pictures with transparency, to lay over the others.")
@click.option("--grey", is_flag=True, help="Keep one channel instead of three.")
@click.option("--flips", is_flag=True, help="Flip training pictures left to right at random.")
@click.option("--license", "license_name", default="unknown", show_default=True, help="Licence of the pictures.")
@SKIP_BAD
@execution_options(default_workers=usable_cores())
def build_folder_command(
    source: Path, occlusion: str | None, occluders: Path | None, execution: Execution, **settings: Any
) -> None:
    """Build a benchmark of your own pictures, one in ten of them for testing."""
    if (occlusion == "objects") != (occluders is not None) and occlusion is not None:
        raise click.UsageError("--occlusion objects and --occluders go together")
    plan = plan_folder(source, cutouts=occluders, **settings)
    assert isinstance(plan.source, FolderSource)
    if unread := plan.source.unread:
        endings = ", ".join(sorted({Path(name).suffix.lower() for name in unread}))
        click.echo(f"passed over: {len(unread)} files in formats that are not read ({endings})", err=True)
    execution.carry_out(plan)


def _origin(name: str, source: str, data_root: Path | None, execution: Execution) -> Path | Literal["stand-in"] | None:
    """Where the originals are; None where a dry run would have to fetch them first, and says so."""
    if source != STAND_IN and (of_stand_in := given("stand_in_count", "views", "models")):
        raise click.UsageError(f"{of_stand_in[0]} is for --source stand-in, but the source is {source}; leave it out")
    if source != DOWNLOAD and given("data_root"):
        raise click.UsageError(f"--data-root is for --source download, but the source is {source}; leave it out")
    if source != DOWNLOAD:
        return "stand-in" if source == STAND_IN else Path(source)
    folder = originals_folder(name, data_root)
    if execution.dry_run and (missing := originals(name).missing(folder)):
        click.echo(_describe_fetch(missing, folder))
        return None
    return fetch(name, data_root)


def _take(benchmark: str, address: HubAddress, output: Path, execution: Execution) -> None:
    """Put the file of a publication at the output, verified; nothing is rendered."""
    if settled := given("seed", "limit", "recipe", "skip_bad", "stand_in_count", "views", "models", "data_root"):
        raise click.UsageError(f"{address} is a whole file; leave {settled[0]} out")
    require_replaceable(output)
    if execution.dry_run:
        click.echo(f"would fetch the file of {address} into {output}")
        return
    published = local_file(address)
    with FusionDataset(published) as data:
        if data.benchmark != benchmark:
            raise FusionDatasetsError(f"{address} holds {data.spec.title}; expected {BENCHMARKS[benchmark].title}")
        about = f"{data.spec.title}, {sum(data.header.rows.values())} rows, as {address} has it"
    same = output.exists() and file_sha256(output) == file_sha256(published)
    if output.exists() and not same and not execution.force:
        raise FusionDatasetsError(f"{output} is another file; choose another output, or replace it with --force")
    if not same:
        output.parent.mkdir(parents=True, exist_ok=True)
        copy_durably(published, output)
    verify(output)
    click.echo(f"{output}: {'already ' * same}fetched and verified, {about}")


def _describe_fetch(missing: tuple[RemoteFile, ...], folder: Path) -> str:
    sizes = [file.size for file in missing if file.size is not None]
    size = f"{sum(sizes) / 1e6:.0f} MB" if len(sizes) == len(missing) else "of unknown size"
    return f"would fetch {', '.join(file.name for file in missing)} ({size}) into {folder}, and build from there"


def _rows(differing: dict[str, list[int]]) -> str:
    named = (
        f"{split} row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:10]))}"
        + f", … ({len(rows)} of them)" * (len(rows) > 10)
        for split, rows in differing.items()
    )
    return " and ".join(named)


def _cause(plan: BuildPlan, recipe: Recipe) -> str:
    """Why a file may differ from its recipe: other originals, or other versions of what rendered them."""
    with FusionDataset(plan.output) as data:
        source, numpy_version = data.source, data.header.numpy_version
    if source["digest"] != recipe.about["source"]["digest"]:
        return "the originals are not those that it was made from"
    used = f"NumPy {recipe.about['numpy_version']} and {recipe.about['source'].get('decoder', 'no decoder')}"
    have = f"NumPy {numpy_version} and {source.get('decoder', 'no decoder')}"
    return f"the originals are the same, but it was made with {used}, here with {have}"


def _describe(plan: BuildPlan, reused: bool) -> str:
    if reused:
        return f"would keep {plan.output}: it is this very build"
    verb = "replace" if plan.output.exists() else "write"
    resumed = ", continuing an interrupted build" if plan.partial.exists() else ""
    return f"would {verb} {plan.output}: {_contents(plan, plan.rows)}{resumed}"


def _contents(plan: BuildPlan, counts: Mapping[str, int]) -> str:
    *most, last = (f"{count} {split} rows" for split, count in counts.items())
    rows = f"{', '.join(most)} and {last}"
    return f"{plan.spec.title} from {plan.source.description['name']}, {rows}, seed {plan.seed}"
