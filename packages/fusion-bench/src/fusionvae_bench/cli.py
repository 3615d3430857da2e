"""The command ``fusion-bench``: data on stdout, progress on stderr, one sentence where something fails."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import click
import torch

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusionvae_bench import __version__
from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import BenchError, ModelError, ResultError
from fusionvae_bench.evaluate import Request, check_request, evaluate, fingerprint, weights_digest
from fusionvae_bench.results import Result, find_results, read_result, write_per_image, write_result
from fusionvae_bench.tables import score_tables, to_markdown
from fusionvae_model import FusionVAE, FusionVAEError
from fusionvae_model.checkpoint import model_folder
from fusionvae_model.device import keep_freed_memory

P = ParamSpec("P")
R = TypeVar("R")

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
@click.option("--weights", required=True, metavar="DIR|NAME|MODULE:FACTORY", help="The model to score.")
@click.option("--data", "data_path", required=True, type=click.Path(path_type=Path), help="A file of fusion-datasets.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "valid", "test"]))
@click.option("--num-samples", default=1000, show_default=True, type=click.IntRange(1), help="S, for NLL and MSE_min.")
@click.option("--limit", type=click.IntRange(1), help="Score the first N images only.")
@click.option(
    _MANY_VALUES,
    multiple=True,
    default=(0, 1, 2, 3),
    type=click.IntRange(0),
    help="Numbers of inputs, several after one flag.  [default: 0 1 2 3]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
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
    split: Literal["train", "valid", "test"],
    num_samples: int,
    limit: int | None,
    num_inputs: tuple[int, ...],
    seed: int,
    device: str,
    as_json: bool,
    dry_run: bool,
    force: bool,
    per_image: bool,
    output: Path,
) -> None:
    """Score a model: NLL and MSE_min for each number of inputs.

    Interrupted, it resumes when called again with the same settings; finished, it says so.
    """
    request = Request(num_samples=num_samples, limit=limit, num_inputs=num_inputs, seed=seed)
    where, partial = _device(device), output.with_name(f"{output.name}.partial")
    with FusionDataset(data_path, split) as data:
        keep_freed_memory()
        model = _load(weights, where)
        check_request(model, data, request)
        earlier = None if force else _earlier(output, fingerprint(model, data, request, where), request, data)
        if dry_run:
            plan = _plan(weights, data_path, data, request, where, output, already_done=earlier is not None)
            click.echo(json.dumps(plan) if as_json else "\n".join(f"{k}: {v}" for k, v in plan.items()))
            return
        if earlier is None:
            if force:
                shutil.rmtree(partial, ignore_errors=True)
            result = evaluate(
                model,
                data,
                num_samples,
                limit,
                num_inputs,
                seed,
                device=where,
                name=_name(weights),
                training=_training(weights),
                partial=partial,
                quiet=False,
            )
            if per_image:
                write_per_image(result, data.read(0, result.num_images), _per_image_path(output))
            write_result(result, output)
            shutil.rmtree(partial, ignore_errors=True)
        else:
            result = earlier
            click.echo(f"{output} holds this result already; --force scores again", err=True)
            if per_image and not _per_image_path(output).is_file():
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
@click.option("--weights", metavar="DIR|NAME|MODULE:FACTORY", help="Model for the pictures and the learning curve.")
@click.option("--data", "data_path", type=click.Path(path_type=Path), help="Data for the pictures; needs --weights.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["valid", "test"]))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the pictures.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@_stated_failures
def report(
    folder: Path,
    form: Literal["md", "html"] | None,
    output: Path | None,
    weights: str | None,
    data_path: Path | None,
    split: Literal["valid", "test"],
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
    text = _page(results, weights, data_path, split, seed, _device(device)) if form == "html" else _markdown(results)
    if output:
        write_atomically(output, text.encode())
        click.echo(str(output))
    else:
        click.echo(text, nl=False)


def _markdown(results: list[Result]) -> str:
    from fusionvae_bench.report import markdown_report

    return markdown_report(results)


def _page(
    results: list[Result],
    weights: str | None,
    data_path: Path | None,
    split: Literal["valid", "test"],
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
        model = _load(weights, device)
        history = read_history(model_folder(weights))
        digest = weights_digest(model)
        featured = next((r for r in results if r.weights_digest == digest), None)
        if data_path:
            with FusionDataset(data_path, split) as data:
                check_request(model, data, Request())
                gallery = make_gallery(model, data, seed=seed, device=device)
    return html_report(results, gallery=gallery, history=history, featured=featured)


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


def _load(weights: str, device: torch.device) -> Any:
    """Load a folder, a published name, or what a third party's factory returns."""
    if Path(weights).exists() or ":" not in weights:
        return FusionVAE.from_pretrained(weights, device=device)
    module, _, factory = weights.partition(":")
    try:
        model = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{weights} cannot be loaded ({error}); expected a folder, or MODULE:FACTORY with an importable module"
        ) from error
    return model.to(device).eval() if isinstance(model, torch.nn.Module) else model


def _name(weights: str) -> str:
    return Path(weights).resolve().name if Path(weights).exists() else weights


def _training(weights: str) -> dict[str, Any] | None:
    path = model_folder(weights) / "training.json"
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); copy it again, or remove it to go without") from error
    return {key: value for key, value in summary.items() if key != "history"}


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("got --device cuda, but PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _per_image_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.per-image.csv")


def _short(result: Result) -> str:
    tables = score_tables([result])
    return "\n".join(to_markdown(table) for table in tables[: 2 if result.is_stand_in else None])
