"""``fusion-bench run``: score a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import click
import torch

from fusion_datasets import FusionDataset
from fusion_datasets.locking import locked
from fusionvae_bench.cli.failures import stated_failures
from fusionvae_bench.errors import ResultError
from fusionvae_bench.evaluate import (
    Metrics,
    Request,
    answers,
    check_request,
    evaluate,
    expected_seconds,
    fingerprint,
    model_config,
    score_tiles,
)
from fusionvae_bench.outputs import check_output
from fusionvae_bench.paper import NUM_SAMPLES
from fusionvae_bench.per_image import per_image_path, read_per_image, write_per_image
from fusionvae_bench.processes import device_of, processes_that_pay, score_in_processes, share_of
from fusionvae_bench.rendering import to_markdown
from fusionvae_bench.results import RESULT, Result, read_result, write_result
from fusionvae_bench.rows import ROWS, row_title
from fusionvae_bench.tables import own_tables, score_tables, tables_beyond
from fusionvae_bench.tiles import TileStore
from fusionvae_bench.weights import WEIGHTS, load_model, model_name, origin, training_summary
from fusionvae_model.device import PRECISIONS, Precision, bfloat16_warning, keep_freed_memory, subnormals_as_zero

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


@click.command(cls=_ManyValuesCommand)
@click.option("--weights", required=True, metavar=WEIGHTS, help="The model to score.")
@click.option(
    "--data", "data_path", required=True, type=click.Path(), help="Benchmark file, or hf://owner/name@revision."
)
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="[default: the one the paper scores]")
@click.option(
    "--num-samples",
    type=click.IntRange(1),
    help="S, for NLL and MSE_min.  [default: the paper's, 1000 for FusionMNIST and 100 for the others]",
)
@click.option("--metrics", default="all", show_default=True, type=click.Choice(["all", "nll", "mse"]))
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Score N images only, the first ones.")
@click.option("--evenly-spaced", is_flag=True, help="Take those of --limit at even distances, to stand for all.")
@click.option(
    _MANY_VALUES,
    multiple=True,
    default=(0, 1, 2, 3),
    type=click.IntRange(0),
    help="Numbers of inputs up to 8, several after one flag.  [default: 0 1 2 3]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option(
    "--precision",
    default="32",
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="What the model computes in; bf16 is faster on GPUs and on CPUs that multiply it.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes; the same numbers.  [default: where it pays, one for each core]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--force", is_flag=True, help="Start over, replacing what an earlier call left; never what is no result.")
@click.option("--per-image", is_flag=True, help="Also write each image's scores, as CSV beside the result.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="RESULT.json",
    help="The result file.",
)
@stated_failures
def run(
    weights: str,
    data_path: str,
    split: Literal["train", "valid", "test"] | None,
    num_samples: int | None,
    metrics: Metrics,
    limit: int | None,
    evenly_spaced: bool,
    num_inputs: tuple[int, ...],
    seed: int,
    device: str,
    precision: Precision,
    workers: int | None,
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
    if share.count > 1 and ((workers or 1) > 1 or force):
        raise click.UsageError("under torchrun, --workers and --force are not for use: its processes share the images")
    if evenly_spaced and limit is None:
        raise click.UsageError(
            "--evenly-spaced chooses the images of --limit N; give it, or score all without the flag"
        )
    check_output(output, RESULT)
    partial = output.with_name(f"{output.name}.partial")
    with subnormals_as_zero(), FusionDataset(data_path, split, grey=None) as data:
        request = Request(
            num_samples=num_samples or NUM_SAMPLES.get(data.benchmark, 100),
            limit=limit,
            evenly_spaced=evenly_spaced,
            num_inputs=num_inputs,
            seed=seed,
            metrics=metrics,
            precision=precision,
        )
        keep_freed_memory()
        model = load_model(weights, data, where)
        data = data.with_channels(model_config(model).get("channels", data.shape[-1]))
        check_request(model, data, request)
        of_whom = origin(weights)
        identity = fingerprint(model, data, request, where, origin=of_whom)
        if workers is None:
            workers = 1 if share.count > 1 else processes_that_pay(model, request, data, where)
        earlier = None if force else _earlier(output, model, data, request, where, of_whom)
        if earlier is None and not share.rank and (warning := bfloat16_warning(precision, where)):
            click.secho(f"WARNING: {warning}", fg="yellow", err=True)
        if dry_run:
            plan = _plan(weights, data_path, data, request, where, output, workers, already_done=earlier is not None)
            plan["minutes"] = round(expected_seconds(model, data, request, where) / 60, 1) if earlier is None else 0
            click.echo(json.dumps(plan) if as_json else "\n".join(f"{k}: {v}" for k, v in plan.items()))
            return
        if share.rank and earlier is None:
            score_tiles(model, data, request, TileStore(partial, identity, rank=share.rank), where, share=share)
            return
        if earlier is None:
            partial.mkdir(parents=True, exist_ok=True)
            with locked(partial):  # against a second call; processes of this one share the folder
                if force:
                    TileStore.clear(partial)
                store = TileStore(partial, identity)  # refuses another evaluation's tiles before any process starts
                if workers > 1:
                    score_in_processes(weights, data, request, partial, where, workers=workers)
                result = evaluate(
                    model,
                    data,
                    request.num_samples,
                    limit,
                    num_inputs,
                    seed,
                    evenly_spaced=evenly_spaced,
                    metrics=metrics,
                    precision=precision,
                    device=where,
                    name=model_name(weights),
                    training=training_summary(weights),
                    origin=of_whom,
                    partial=partial,
                    share=share,
                    quiet=workers > 1,
                )
                if per_image:
                    write_per_image(result, data, per_image_path(output))
                write_result(result, output)
                if not per_image:
                    per_image_path(output).unlink(missing_ok=True)  # of a result that is no more
                store.discard()
        else:
            result = earlier
            click.echo(f"{output} holds this result already; --force scores again", err=True)
            if per_image:
                read_per_image(output, result)  # there, and of this result
    for warning in result.warnings:
        click.secho(f"WARNING: {warning}", fg="red", bold=True, err=True)
    click.echo(json.dumps(result.to_dict()) if as_json else _short(result))


def _earlier(
    output: Path, model: Any, data: FusionDataset, request: Request, device: torch.device, of_whom: str | None
) -> Result | None:
    if not output.exists():
        return None
    result = read_result(output)
    if answers(result, model, data, request, device, origin=of_whom):
        return result
    raise ResultError(
        f"{output} holds a result of other weights, data or settings; choose another name, "
        "or pass --force to replace it"
    )


def _plan(
    weights: str,
    data_path: str,
    data: FusionDataset,
    request: Request,
    device: torch.device,
    output: Path,
    workers: int,
    *,
    already_done: bool,
) -> dict[str, Any]:
    images = request.num_images(data)
    return {
        "weights": weights,
        "data": data_path,
        "split": data.split,
        "images": images,
        "evenly_spaced": request.leaves_gaps(data),
        "num_samples": request.num_samples,
        "num_inputs": list(request.num_inputs),
        "seed": request.seed,
        "device": str(device),
        "precision": request.precision,
        "workers": workers,
        "output": str(output),
        "already_done": already_done,
    }


def _short(result: Result) -> str:
    """Print the first of the paper's tables that the result has a row in, or a table of its own where there is none.

    Scores with more inputs than the paper has come last.
    """
    number = next((number for number in ROWS if row_title(result, number)), None)
    if number is None:
        tables = own_tables([result])
    else:
        tables = [table for table in score_tables([result], number) if table.is_stand_in == result.is_stand_in]
    return "\n".join(map(to_markdown, tables + tables_beyond([result])))
