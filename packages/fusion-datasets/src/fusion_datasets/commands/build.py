"""`fusion-datasets build`: from original files to a benchmark file."""

from pathlib import Path
from typing import Literal

import click

from fusion_datasets.build import STAND_IN_COUNT, BuildPlan, execute, is_built, plan_mnist
from fusion_datasets.commands.options import COUNT, DATA_ROOT, DOWNLOAD, FILE, SEED, STAND_IN
from fusion_datasets.sources.download import RemoteFile
from fusion_datasets.sources.originals import fetch, originals, originals_folder


@click.group()
def build() -> None:
    """Build a benchmark file from original files."""


@build.command("mnist")
@click.option(
    "--source",
    default=STAND_IN,
    show_default=True,
    help="Folder with MNIST's four IDX files, 'download' to fetch them, or 'stand-in' for rendered look-alikes.",
)
@DATA_ROOT
@click.option("--output", type=FILE, required=True, help="The HDF5 file to make.")
@click.option("--limit", type=COUNT, help="Most rows per split.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the frozen inputs.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Processes; the content is the same.")
@click.option(
    "--stand-in-count",
    type=COUNT,
    default=STAND_IN_COUNT,
    show_default=True,
    help="Training digits of the stand-in; a sixth of them again for testing.",
)
@click.option("--force", is_flag=True, help="Replace another build.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def build_mnist_command(
    source: str,
    data_root: Path | None,
    output: Path,
    limit: int | None,
    seed: int,
    workers: int,
    stand_in_count: int,
    force: bool,
    dry_run: bool,
) -> None:
    """Build FusionMNIST. An identical build is reused, an interrupted one continued."""
    origin: Path | Literal["stand-in"]
    if source == DOWNLOAD:
        if dry_run and (missing := originals("mnist").missing(originals_folder("mnist", data_root))):
            click.echo(_describe_fetch(missing, originals_folder("mnist", data_root)))
            return
        origin = fetch("mnist", data_root)
    else:
        origin = "stand-in" if source == STAND_IN else Path(source)
    plan = plan_mnist(origin, output, seed=seed, limit=limit, stand_in_count=stand_in_count)
    reused = output.exists() and not force and is_built(plan)
    if dry_run:
        click.echo(_describe(plan, reused))
        return
    execute(plan, workers=workers, force=force)
    click.echo(f"{output}: {'already built' if reused else 'built'}, {_contents(plan)}")


def _describe_fetch(missing: tuple[RemoteFile, ...], folder: Path) -> str:
    sizes = [file.size for file in missing if file.size is not None]
    size = f"{sum(sizes) / 1e6:.0f} MB" if len(sizes) == len(missing) else "of unknown size"
    return f"would fetch {', '.join(file.name for file in missing)} ({size}) into {folder}, and build from there"


def _describe(plan: BuildPlan, reused: bool) -> str:
    if reused:
        return f"would keep {plan.output}: it is this very build"
    verb = "replace" if plan.output.exists() else "write"
    resumed = ", continuing an interrupted build" if plan.partial.exists() else ""
    return f"would {verb} {plan.output}: {_contents(plan)}{resumed}"


def _contents(plan: BuildPlan) -> str:
    rows = " and ".join(f"{count} {split} rows" for split, count in plan.rows.items())
    return f"{plan.spec.title} from {plan.source.description['name']}, {rows}, seed {plan.seed}"
