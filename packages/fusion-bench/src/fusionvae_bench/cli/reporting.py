"""``fusion-bench report``, ``compare`` and ``project``: results beside the paper's, and beside each other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fusionvae_bench import comparison, projection
from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.cli.failures import stated_failures
from fusionvae_bench.errors import ResultError
from fusionvae_bench.formats import FORMATS, REPORTS, Format, report_format
from fusionvae_bench.outputs import check_output
from fusionvae_bench.processes import device_of
from fusionvae_bench.records import to_csv, to_eval_results, to_json
from fusionvae_bench.rendering import to_latex_document
from fusionvae_bench.report import html_report, markdown_report
from fusionvae_bench.results import Result, find_results
from fusionvae_bench.tables import ALL_TABLES, all_tables
from fusionvae_bench.weights import WEIGHTS

if TYPE_CHECKING:
    from fusionvae_bench.exhibits import Exhibits


@click.command()
@click.option(
    "--results",
    "folder",
    default=Path("results"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder with result files, however deep.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="[default: by the name after -o, or md]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here, replacing only a report; stdout otherwise.",
)
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
@click.option("--data", "data_path", type=click.Path(), help="Data for the pictures, as in `run`; needs --weights.")
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
    data_path: str | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: str,
    dataset_id: str | None,
) -> None:
    """Lay the results beside the paper's: paper, here, difference."""
    if data_path and not weights:
        raise click.UsageError("--data needs --weights: the pictures show one model")
    form = form or (report_format(output) if output else "md")
    if (form == "hf-eval-results") != bool(dataset_id):
        raise click.UsageError(
            "--format hf-eval-results and --dataset-id belong together: the Hub wants to know of which"
        )
    if output:
        check_output(output, REPORTS[form])
    results = [result for _, result in find_results(folder)]
    if not results:
        click.echo(f"no result files below {folder}: the tables hold the paper's numbers alone", err=True)
    wanted = tuple(sorted(set(numbers))) or ALL_TABLES
    if form == "html" or figures:
        shown = _exhibits(results, weights, data_path, split, seed, device)
    if form == "html":
        text = html_report(
            results, gallery=shown.gallery, history=shown.history, plates=shown.plates, featured=shown.featured,
            numbers=wanted,
        )  # fmt: skip
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
        from fusionvae_bench.plates import write_plates

        for path in write_plates(figures, shown.plates):
            click.echo(str(path), err=True)
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
    """Compare two results image by image: differences, their intervals, and what they decide.

    Both are to be scored with --per-image on the same file.
    """
    found = comparison.compare(first, second)
    click.echo(json.dumps(found.to_dict()) if as_json else found.to_text())


@click.command()
@click.argument("all_images", metavar="ALL.json", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("some_images", metavar="SOME.json", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@stated_failures
def project(all_images: Path, some_images: Path, as_json: bool) -> None:
    """Say what the many samples of SOME images would give on ALL of them, with standard errors.

    Both are scores of one model with --per-image: ALL with few samples, SOME of the same images with many, best
    --evenly-spaced. The mean of ALL is corrected by what the samples change where both are known.
    """
    found = projection.project(all_images, some_images)
    click.echo(json.dumps(found.to_dict()) if as_json else found.to_text())


def _exhibits(
    results: list[Result],
    weights: tuple[str, ...],
    data_path: str | None,
    split: Literal["valid", "test"] | None,
    seed: int,
    device: str,
) -> Exhibits:
    try:
        from fusionvae_bench.exhibits import exhibits
    except ModuleNotFoundError as error:
        raise ResultError(
            f"the page and the figures need {error.name}, which is not installed; pip install 'fusionvae-bench[report]'"
        ) from error
    where = device_of(device, os.environ)
    return exhibits(results, weights, data_path, split, seed=seed, device=where)
