"""``fusion-bench reproduce``: a table of the paper again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fusionvae_bench.cli.failures import stated_failures
from fusionvae_bench.processes import device_of
from fusionvae_bench.reproduction import PROFILES, ProfileName, Reproduction, run_steps


@click.command()
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
@click.option(
    "--workers", type=click.IntRange(1), help="Processes that build and score.  [default: those commands' own]"
)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="With smoke: T-LESS's CAD models, to render its stand-ins from instead of built-in solids.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the plan as JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it takes here, and stop.")
@stated_failures
def reproduce(
    number: int,
    profile: ProfileName,
    output: Path,
    data_root: Path | None,
    minutes_per_row: float | None,
    only: tuple[str, ...],
    seeds: int,
    workers: int | None,
    device: str,
    models: Path | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Build, train, score and report one of the paper's Tables 1–5.

    Interrupted, it resumes when called again; the same models serve several tables of one folder.
    """
    plan = Reproduction(number, profile, output, data_root, minutes_per_row, seeds, workers, device, only, models)
    steps = plan.steps()
    if dry_run:
        from fusionvae_bench.cost import describe

        click.echo(describe(plan, steps, device_of(device, os.environ), as_json=as_json))
        return
    run_steps(steps)
