"""``fusion-bench report`` and ``compare``: results beside the paper's, and beside each other."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, get_args

import click
import torch

from fusion_datasets import FusionDataset
from fusionvae_bench import comparison
from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.cli.failures import stated_failures
from fusionvae_bench.errors import ResultError
from fusionvae_bench.evaluate import Request, check_request, model_config, weights_digest
from fusionvae_bench.processes import device_of
from fusionvae_bench.records import to_csv, to_eval_results, to_json
from fusionvae_bench.rendering import to_latex_document
from fusionvae_bench.report import markdown_report, read_history
from fusionvae_bench.results import Result, find_results
from fusionvae_bench.rows import model_title
from fusionvae_bench.tables import ALL_TABLES, all_tables
from fusionvae_bench.weights import WEIGHTS, load_model, model_name
from fusionvae_model.checkpoint import model_folder

Format = Literal["md", "latex", "html", "csv", "json", "hf-eval-results"]
_BY_SUFFIX: dict[str, Format] = {".html": "html", ".htm": "html", ".tex": "latex", ".csv": "csv", ".json": "json"}


@click.command()
@click.option(
    "--results",
    "folder",
    default=Path("results"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder with result files, however deep.",
)
@click.option("--format", "form", type=click.Choice(get_args(Format)), help="[default: by the name after -o, or md]")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here; stdout otherwise.")
@click.option("--table", "numbers", multiple=True, type=click.IntRange(1, 12), help="Only this table; may be repeated.")
@click.option(
    "--weights",
    "weights",
    multiple=True,
    metavar=WEIGHTS,
    help="Model for the pictures and the learning curve; the page is about the first, the figures show all.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also draw the figures into this folder, PNG and PDF.",
)
@click.option("--data", "data_path", type=click.Path(path_type=Path), help="Data for the pictures; needs --weights.")
@click.option("--split", type=click.Choice(["valid", "test"]), help="Of the pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the pictures.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--dataset-id", metavar="OWNER/NAME", help="Of the benchmark on the Hub, for hf-eval-results.")
@stated_failures
def report(
    folder: Path,
    form: Format | None,
    output: Path | None,
    numbers: tuple[int, ...],
    weights: tuple[str, ...],
    figures: Path | None,
    data_path: Path | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: str,
    dataset_id: str | None,
) -> None:
    """Lay the results beside the paper's: paper, here, difference."""
    if data_path and not weights:
        raise click.UsageError("--data needs --weights: the pictures show one model")
    form = form or _BY_SUFFIX.get(output.suffix if output else "", "md")
    if (form == "hf-eval-results") != bool(dataset_id):
        raise click.UsageError(
            "--format hf-eval-results and --dataset-id belong together: the Hub wants to know of which"
        )
    results = [result for _, result in find_results(folder)]
    if not results:
        click.echo(f"no result files below {folder}: the tables hold the paper's numbers alone", err=True)
    wanted = tuple(sorted(set(numbers))) or ALL_TABLES
    if form == "html":
        text = _page(
            results, wanted, weights[0] if weights else None, data_path, split, seed, device_of(device, os.environ)
        )
    elif form == "md":
        text = markdown_report(results, wanted)
    elif form == "latex":
        text = to_latex_document(all_tables(results, wanted))
    elif form == "csv":
        text = to_csv(all_tables(results, wanted))
    elif form == "json":
        text = to_json(all_tables(results, wanted), results)
    else:
        assert dataset_id
        text = to_eval_results(results, dataset_id)
    if figures:
        _figures(figures, results, weights, data_path, split, seed, device_of(device, os.environ))
    if output:
        write_atomically(output, text.encode())
        click.echo(str(output))
    else:
        click.echo(text, nl=False)


@click.command()
@click.argument("first", metavar="A.json", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("second", metavar="B.json", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@stated_failures
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Compare two results image by image: differences, their intervals, and whether they are noise.

    Both are to be scored with --per-image on the same file.
    """
    found = comparison.compare(first, second)
    click.echo(json.dumps(found.to_dict()) if as_json else found.to_text())


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
        from fusionvae_bench.report import html_report
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
            with FusionDataset(data_path, split, grey=None) as stored:
                data = stored.with_channels(model_config(model).get("channels", stored.shape[-1]))
                check_request(model, data, Request())
                gallery = make_gallery(model, data, seed=seed, device=device)
    return html_report(results, gallery=gallery, history=history, featured=featured, numbers=numbers)


def _figures(
    folder: Path,
    results: list[Result],
    weights: tuple[str, ...],
    data_path: Path | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: torch.device,
) -> None:
    try:
        from fusionvae_bench.plates import write_plates
    except ModuleNotFoundError as error:
        raise ResultError(
            f"the figures need {error.name}, which is not installed; pip install 'fusionvae-bench[report]'"
        ) from error
    models, histories = {}, {}
    with ExitStack() as stack:
        data = stack.enter_context(FusionDataset(data_path, split)) if data_path else None
        digests = []
        for name in weights:
            model = load_model(name, data, device)
            if data:
                check_request(model, data, Request(metrics="mse"))
            digest = weights_digest(model)
            digests.append(digest)
            result = next((r for r in results if digest and r.weights_digest == digest), None)
            title = model_title(result) if result else model_name(name)
            models[title] = model
            if ":" not in name and (history := read_history(model_folder(name))):
                histories[title] = history
        ordered = sorted(results, key=lambda r: digests.index(r.weights_digest) if r.weights_digest in digests else 99)
        alike = [r for r in ordered if (r.benchmark, r.is_stand_in) == (ordered[0].benchmark, ordered[0].is_stand_in)]
        for path in write_plates(folder, alike, models, histories, data, seed=seed, device=device):
            click.echo(str(path), err=True)
