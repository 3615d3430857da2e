"""The command ``fusion-bench``: data on stdout, progress on stderr, one sentence where something fails."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import click
import torch

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusionvae_bench import __version__
from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import BenchError, ResultError
from fusionvae_bench.evaluate import Metrics, Request, check_request, evaluate, fingerprint, score_tiles, weights_digest
from fusionvae_bench.paper import NUM_SAMPLES
from fusionvae_bench.per_image import per_image_path, write_per_image
from fusionvae_bench.processes import device_of, score_in_processes, share_of
from fusionvae_bench.rendering import to_markdown
from fusionvae_bench.reproduction import PROFILES, ProfileName, Reproduction, run_steps
from fusionvae_bench.results import Result, find_results, read_result, write_result
from fusionvae_bench.rows import ROWS, row_title
from fusionvae_bench.tables import ALL_TABLES, score_tables
from fusionvae_bench.tiles import TileStore
from fusionvae_bench.weights import load_model, model_name, training_summary
from fusionvae_model import FusionVAEError
from fusionvae_model.checkpoint import model_folder
from fusionvae_model.device import keep_freed_memory

P = ParamSpec("P")
R = TypeVar("R")

WEIGHTS = "DIR|NAME|MODULE:FACTORY|trivial:{merge,mean,nearest}"
_MANY_VALUES = "--num-inputs"


class _ManyValuesCommand(click.Command):
    """A command whose --num-inputs takes all the numbers that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeated: list[str] = []
        for arg in args:
            if arg.isdigit() and repeated[-2:-1] == [_MANY_VALUES]:
                repeated.append(_MANY_VALUES)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)


def _stated_failures(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what may fail for a user into one sentence and exit 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (BenchError, FusionDatasetsError, FusionVAEError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusion-bench")
def main() -> None:
    """Score image fusion models and lay the scores beside the paper's."""


@main.command(cls=_ManyValuesCommand)
@click.option("--weights", required=True, metavar=WEIGHTS, help="The model to score.")
@click.option("--data", "data_path", required=True, type=click.Path(path_type=Path), help="A file of fusion-datasets.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="[default: the one the paper scores]")
@click.option(
    "--num-samples",
    type=click.IntRange(1),
    help="S, for NLL and MSE_min.  [default: the paper's, 1000 for FusionMNIST and 100 for the others]",
)
@click.option("--metrics", default="all", show_default=True, type=click.Choice(["all", "nll", "mse"]))
@click.option("--limit", type=click.IntRange(1), help="Score the first N images only.")
@click.option(
    _MANY_VALUES,
    multiple=True,
    default=(0, 1, 2, 3),
    type=click.IntRange(0),
    help="Numbers of inputs up to 8, several after one flag.  [default: 0 1 2 3]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes; the same numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--force", is_flag=True, help="Start over, replacing what an earlier call left.")
@click.option("--per-image", is_flag=True, help="Also write each image's scores, as CSV beside the result.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="RESULT.json",
    help="The result file.",
)
@_stated_failures
def run(
    weights: str,
    data_path: Path,
    split: Literal["train", "valid", "test"] | None,
    num_samples: int | None,
    metrics: Metrics,
    limit: int | None,
    num_inputs: tuple[int, ...],
    seed: int,
    device: str,
    workers: int,
    as_json: bool,
    dry_run: bool,
    force: bool,
    per_image: bool,
    output: Path,
) -> None:
    """Score a model: NLL and MSE_min for each number of inputs.

    Interrupted, it resumes when called again with the same settings; finished, it says so. Under torchrun, the
    processes share the images.
    """
    share, where = share_of(os.environ), device_of(device, os.environ)
    if share.count > 1 and (workers > 1 or force):
        raise click.UsageError("under torchrun, --workers and --force are not for use: its processes share the images")
    partial = output.with_name(f"{output.name}.partial")
    with FusionDataset(data_path, split) as data:
        request = Request(
            num_samples=num_samples or NUM_SAMPLES.get(data.benchmark, 100),
            limit=limit,
            num_inputs=num_inputs,
            seed=seed,
            metrics=metrics,
        )
        keep_freed_memory()
        model = load_model(weights, data, where)
        check_request(model, data, request)
        identity = fingerprint(model, data, request, where)
        earlier = None if force else _earlier(output, identity, request, data)
        if dry_run:
            plan = _plan(weights, data_path, data, request, where, output, already_done=earlier is not None)
            click.echo(json.dumps(plan) if as_json else "\n".join(f"{k}: {v}" for k, v in plan.items()))
            return
        if earlier is None:
            if force:
                shutil.rmtree(partial, ignore_errors=True)
            if share.rank:
                score_tiles(model, data, request, TileStore(partial, identity, rank=share.rank), where, share=share)
                return
            if workers > 1:
                TileStore(partial, identity)  # refuses another evaluation's tiles before any process starts
                score_in_processes(weights, data, request, partial, where, workers=workers)
            result = evaluate(
                model,
                data,
                request.num_samples,
                limit,
                num_inputs,
                seed,
                metrics=metrics,
                device=where,
                name=model_name(weights),
                training=training_summary(weights),
                partial=partial,
                share=share,
                quiet=workers > 1,
            )
            if per_image:
                write_per_image(result, data.read(0, result.num_images), per_image_path(output))
            write_result(result, output)
            shutil.rmtree(partial, ignore_errors=True)
        else:
            result = earlier
            click.echo(f"{output} holds this result already; --force scores again", err=True)
            if per_image and not per_image_path(output).is_file():
                raise ResultError(f"{output} was scored without --per-image; pass --force to score again with it")
    for warning in result.warnings:
        click.secho(f"WARNING: {warning}", fg="red", bold=True, err=True)
    click.echo(json.dumps(result.to_dict()) if as_json else _short(result))


@main.command()
@click.option(
    "--results",
    "folder",
    default=Path("results"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder with result files, however deep.",
)
@click.option("--format", "form", type=click.Choice(["md", "html"]), help="[default: by the name after -o, or md]")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here; stdout otherwise.")
@click.option("--table", "numbers", multiple=True, type=click.IntRange(1, 12), help="Only this table; may be repeated.")
@click.option("--weights", metavar=WEIGHTS, help="Model for the pictures and the learning curve.")
@click.option("--data", "data_path", type=click.Path(path_type=Path), help="Data for the pictures; needs --weights.")
@click.option("--split", type=click.Choice(["valid", "test"]), help="Of the pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the pictures.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@_stated_failures
def report(
    folder: Path,
    form: Literal["md", "html"] | None,
    output: Path | None,
    numbers: tuple[int, ...],
    weights: str | None,
    data_path: Path | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: str,
) -> None:
    """Lay the results beside the paper's: paper, here, difference."""
    if data_path and not weights:
        raise click.UsageError("--data needs --weights: the pictures show one model")
    if form is None:
        form = "html" if output and output.suffix in (".html", ".htm") else "md"
    results = [result for _, result in find_results(folder)]
    if not results:
        click.echo(f"no result files below {folder}: the tables hold the paper's numbers alone", err=True)
    wanted = tuple(sorted(set(numbers))) or ALL_TABLES
    text = (
        _page(results, wanted, weights, data_path, split, seed, device_of(device, os.environ))
        if form == "html"
        else _markdown(results, wanted)
    )
    if output:
        write_atomically(output, text.encode())
        click.echo(str(output))
    else:
        click.echo(text, nl=False)


@main.command()
@click.option("--table", "number", required=True, type=click.IntRange(1, 5), help="Of the paper.")
@click.option(
    "--profile",
    required=True,
    type=click.Choice(list(PROFILES)),
    help="smoke: tiny models on stand-ins, to see that everything works; quick: minutes a row; full: the paper's.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of everything.")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the originals, with mnist/, celeba/, tless/.",
)
@click.option(
    "--minutes-per-row", type=click.FloatRange(0, min_open=True), help="Instead of the profile's, training and scoring."
)
@click.option("--row", "only", multiple=True, help="Only this row of the table, such as FusionVAE; may be repeated.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Trainings of each row.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that build and score.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the plan as JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it takes here, and stop.")
@_stated_failures
def reproduce(
    number: int,
    profile: ProfileName,
    output: Path,
    data_root: Path | None,
    minutes_per_row: float | None,
    only: tuple[str, ...],
    seeds: int,
    workers: int,
    device: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Build, train, score and report one of the paper's Tables 1–5.

    Interrupted, it resumes when called again; the same models serve several tables of one folder.
    """
    plan = Reproduction(number, profile, output, data_root, minutes_per_row, seeds, workers, device, only)
    steps = plan.steps()
    if dry_run:
        from fusionvae_bench.cost import describe

        click.echo(describe(plan, steps, device_of(device, os.environ), as_json=as_json))
        return
    run_steps(steps)


def _markdown(results: list[Result], numbers: tuple[int, ...]) -> str:
    from fusionvae_bench.report import markdown_report

    return markdown_report(results, numbers)


def _page(
    results: list[Result],
    numbers: tuple[int, ...],
    weights: str | None,
    data_path: Path | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: torch.device,
) -> str:
    try:
        from fusionvae_bench.gallery import make_gallery
        from fusionvae_bench.report import html_report, read_history
    except ModuleNotFoundError as error:
        raise ResultError(
            f"the page needs {error.name}, which is not installed; pip install 'fusionvae-bench[report]'"
        ) from error
    gallery = history = featured = None
    if weights:
        model = load_model(weights, None, device)
        history = read_history(model_folder(weights))
        digest = weights_digest(model)
        featured = next((r for r in results if r.weights_digest == digest), None)
        if data_path:
            with FusionDataset(data_path, split) as data:
                check_request(model, data, Request())
                gallery = make_gallery(model, data, seed=seed, device=device)
    return html_report(results, gallery=gallery, history=history, featured=featured, numbers=numbers)


def _earlier(output: Path, identity: str, request: Request, data: FusionDataset) -> Result | None:
    if not output.exists():
        return None
    result = read_result(output)
    if result.fingerprint == identity and result.num_images == request.num_images(data):
        return result
    raise ResultError(
        f"{output} holds a result of other weights, data or settings; choose another name, "
        "or pass --force to replace it"
    )


def _plan(
    weights: str,
    data_path: Path,
    data: FusionDataset,
    request: Request,
    device: torch.device,
    output: Path,
    *,
    already_done: bool,
) -> dict[str, Any]:
    images = request.num_images(data)
    return {
        "weights": weights,
        "data": str(data_path),
        "split": data.split,
        "images": images,
        "num_samples": request.num_samples,
        "num_inputs": list(request.num_inputs),
        "seed": request.seed,
        "device": str(device),
        "decoded_images": images * request.num_samples * (1 + sum(k > 0 for k in request.num_inputs)),
        "output": str(output),
        "already_done": already_done,
    }


def _short(result: Result) -> str:
    """Print the first of the paper's tables that the result has a row in, or what it holds where there is none."""
    number = next((number for number in ROWS if row_title(result, number)), None)
    if number is None:
        return json.dumps({k: dataclasses.asdict(score) for k, score in result.scores.items()}, indent=1)
    tables = score_tables([result], number)
    return "\n".join(to_markdown(table) for table in tables if table.is_stand_in == result.is_stand_in)
