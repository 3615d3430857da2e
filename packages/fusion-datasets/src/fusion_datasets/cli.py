"""The command `fusion-datasets`: data on stdout, progress on stderr, a stated failure is one sentence and exit 1."""

import json
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import click

from fusion_datasets.build import STAND_IN_COUNT, BuildPlan, execute, is_built, plan_mnist
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.preview import save_contact_sheet
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInMnist
from fusion_datasets.spec import SPLITS, Split
from fusion_datasets.store import FusionDataset
from fusion_datasets.verification import verify

STAND_IN: Final = "stand-in"
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_SEED = click.IntRange(min=0)
_COUNT = click.IntRange(min=1)


class StatedFailures(click.Group):
    """A group whose commands end in one sentence and exit 1 where a user or the disk is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FusionDatasetsError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(
                f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
            ) from error


@click.group(cls=StatedFailures, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("fusion-datasets"), prog_name="fusion-datasets")
def main() -> None:
    """Build and inspect benchmarks for fusing several occluded, noisy images of one thing."""


@main.group()
def build() -> None:
    """Build a benchmark file from original files."""


@build.command("mnist")
@click.option(
    "--source",
    default=STAND_IN,
    show_default=True,
    help="Folder with MNIST's four IDX files, or 'stand-in' for rendered look-alikes.",
)
@click.option("--output", type=_FILE, required=True, help="The HDF5 file to make.")
@click.option("--limit", type=_COUNT, help="Most rows per split.")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of the frozen inputs.")
@click.option("--workers", type=_COUNT, default=1, show_default=True, help="Processes; the content is the same.")
@click.option(
    "--stand-in-count",
    type=_COUNT,
    default=STAND_IN_COUNT,
    show_default=True,
    help="Training digits of the stand-in; a sixth of them again for testing.",
)
@click.option("--force", is_flag=True, help="Replace another build.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def build_mnist_command(
    source: str,
    output: Path,
    limit: int | None,
    seed: int,
    workers: int,
    stand_in_count: int,
    force: bool,
    dry_run: bool,
) -> None:
    """Build FusionMNIST. An identical build is reused, an interrupted one continued."""
    origin: Path | Literal["stand-in"] = "stand-in" if source == STAND_IN else Path(source)
    plan = plan_mnist(origin, output, seed=seed, limit=limit, stand_in_count=stand_in_count)
    reused = output.exists() and not force and is_built(plan)
    if dry_run:
        click.echo(_describe(plan, reused))
        return
    execute(plan, workers=workers, force=force)
    click.echo(f"{output}: {'already built' if reused else 'built'}, {_contents(plan)}")


def _describe(plan: BuildPlan, reused: bool) -> str:
    if reused:
        return f"would keep {plan.output}: it is this very build"
    verb = "replace" if plan.output.exists() else "write"
    resumed = ", continuing an interrupted build" if plan.partial.exists() else ""
    return f"would {verb} {plan.output}: {_contents(plan)}{resumed}"


def _contents(plan: BuildPlan) -> str:
    rows = " and ".join(f"{count} {split} rows" for split, count in plan.rows.items())
    return f"{plan.spec.title} from {plan.source.description['name']}, {rows}, seed {plan.seed}"


@main.group("stand-in")
def stand_in() -> None:
    """Render look-alikes of original files, in their layout."""


@stand_in.command("mnist")
@click.option("--output", type=_FOLDER, required=True, help="Folder for the four IDX files.")
@click.option(
    "--count", type=_COUNT, default=STAND_IN_COUNT, show_default=True, help="Training digits; a sixth again to test."
)
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of the handwriting.")
def stand_in_mnist_command(output: Path, count: int, seed: int) -> None:
    """Render digits from strokes, and write them as MNIST's four files."""
    recipe = StandInMnist(count, -(-count // 6), seed)
    recipe.write(output)
    click.echo(f"{output}: {recipe.num_train} training and {recipe.num_test} test digits")


@main.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(file: Path, as_json: bool) -> None:
    """Print what a file is and holds."""
    data = FusionDataset(file, split="train")
    header = data.header
    about: dict[str, Any] = {
        "path": str(file),
        "benchmark": header.benchmark,
        "rows": header.rows,
        "occluders": header.occluders,
        "shape": list(data.shape),
        "seed": header.seed,
        "source": header.source,
        "license": header.license,
        "created_with": header.created_with,
        "numpy_version": header.numpy_version,
        "bytes": file.stat().st_size,
        "digest": data.digest,
        "content_sha256": header.content_sha256,
        "spec": json.loads(header.spec.to_json()),
    }
    if as_json:
        click.echo(json.dumps(about, indent=2))
        return
    h, w, c = data.shape
    source = header.source
    lines = {
        "benchmark": f"{header.spec.title}, {h}×{w}×{c}",
        "rows": ", ".join(f"{count} {split}" for split, count in header.rows.items()),
        "inputs": f"{header.spec.max_inputs} per evaluation row: {header.spec.law}"
        + f", noise of standard deviation {header.spec.noise_std}" * bool(header.spec.noise_std),
        "source": f"{source['name']}, {source['layout']}, {source['digest'][:12]}…",
        "seed": header.seed,
        "license": header.license,
        "created with": f"{header.created_with}, NumPy {header.numpy_version}",
        "size": f"{file.stat().st_size / 1e6:.1f} MB",
        "digest": data.digest,
    }
    for name, value in lines.items():
        click.echo(f"{name:<14}{value}")
    for path, sha256 in sorted(header.content_sha256.items()):
        click.echo(f"  /{path:<14}{sha256}")


@main.command("verify")
@click.argument("file", type=_FILE)
@click.option("--source", help="The original files, or 'stand-in': compare every row with what they yield.")
def verify_command(file: Path, source: str | None) -> None:
    """Check layout, ranges and digests; with the source, every pixel."""
    with ExitStack() as stack:
        origin = None
        if source == STAND_IN:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            origin = _recipe_of(file).write(Path(folder))
        elif source is not None:
            origin = MnistSource(Path(source))
        header = verify(file, origin)
    compared = ", equal to its source in every row" if source else ""
    click.echo(f"{file}: {header.spec.title}, {sum(header.rows.values())} rows, whole and unaltered{compared}")


def _recipe_of(file: Path) -> StandInMnist:
    source = FusionDataset(file, split="train").source
    try:
        return StandInMnist(source["counts"]["train"], source["counts"]["test"], source["seed"])
    except (KeyError, TypeError):
        raise FusionDatasetsError(
            f"{file} was not built from a stand-in; name the folder of its source instead"
        ) from None


@main.command()
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="The PNG to write.")
@click.option("--split", type=click.Choice(SPLITS), help="Split to show; by default the one that is evaluated.")
@click.option("--rows", type=_COUNT, default=12, show_default=True, help="How many examples.")
@click.option("--seed", type=_SEED, help="Draw the examples at random instead of taking the first.")
def preview(file: Path, output: Path, split: Split | None, rows: int, seed: int | None) -> None:
    """Draw a contact sheet of targets and their inputs."""
    with FusionDataset(file, split=split) as data:
        save_contact_sheet(data, output, rows=rows, seed=seed)
    click.echo(output)
