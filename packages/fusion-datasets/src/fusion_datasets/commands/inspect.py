"""`fusion-datasets info`, `verify` and `preview`: what a file is, whether it is whole, what it looks like."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from fusion_datasets.commands.options import BENCHMARK, COUNT, FILE, SEED, STAND_IN, given
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.preview import SHOWN, Show, check_sheet_name, save_contact_sheet
from fusion_datasets.seal import has_seal
from fusion_datasets.sources import named
from fusion_datasets.sources.opening import open_source, recipe_of
from fusion_datasets.spec import SPLITS, Split
from fusion_datasets.store import FusionDataset
from fusion_datasets.verification import sampled_rows, verify
from fusion_datasets.visibility import visibility


@click.command()
@click.argument("file", type=BENCHMARK)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(file: Path, as_json: bool) -> None:
    """Print what a file is and holds."""
    data = FusionDataset(file, split="train")
    header = data.header
    evaluated = [split for split in header.spec.splits if split != "train" and header.rows[split]]
    shown = {split: visibility(FusionDataset(data.path, split)) for split in evaluated}
    about: dict[str, Any] = {
        "path": str(file),
        "benchmark": header.benchmark,
        "rows": header.rows,
        "occluders": header.occluders,
        "visible": {split: seen._asdict() for split, seen in shown.items()},
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
        **(
            {"occluders": ", ".join(f"{n} for {split}" for split, n in header.occluders.items())}
            if header.occluders
            else {}
        ),
        **(
            {"left out": "; ".join(f"{len(some)} {name}: {named(some)}" for name, some in header.omitted.items())}
            if header.omitted
            else {}
        ),
        "inputs": f"{header.spec.max_inputs} per evaluation row: {header.spec.law}"
        + f", noise of standard deviation {header.spec.noise_std}" * bool(header.spec.noise_std),
        **{f"{split} shows": str(seen) for split, seen in shown.items()},
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
        click.echo(f"  /{path:<28}{sha256}")


@click.command("verify")
@click.argument("file", type=BENCHMARK)
@click.option("--source", help="The original files, or 'stand-in': compare rows with what they yield.")
@click.option("--sample", type=COUNT, default=200, show_default=True, help="Evaluation rows compared, of each split.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Draws the sample.")
@click.option("--all", "every_row", is_flag=True, help="Compare every row, also of the training split.")
@click.option("--occluders", type=click.Path(path_type=Path), help="With --source: the occluders of a folder's build.")
def verify_command(
    file: Path, source: str | None, sample: int, seed: int, every_row: bool, occluders: Path | None
) -> None:
    """Check layout, ranges, digests and seal; with the source, render rows again and compare them bit for bit."""
    if source is None and (needless := given("sample", "seed", "every_row", "occluders")):
        raise click.UsageError(f"{needless[0]} is about comparing with the source; name that by --source")
    if every_row and (needless := given("sample", "seed")):
        raise click.UsageError(f"--all compares every row; leave {needless[0]} out")
    if source == STAND_IN and occluders is not None:
        raise click.UsageError("--occluders are those of a folder's build; a stand-in has its own")
    with ExitStack() as stack:
        origin = None
        if source == STAND_IN:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            origin = recipe_of(FusionDataset(file).header).write(Path(folder))
        elif source is not None:
            origin = open_source(FusionDataset(file).header, Path(source), occluders)
        header = verify(file, origin, sample=None if every_row else sample, seed=seed)
    evaluated = sum(rows for split, rows in header.rows.items() if split != "train")
    rows = "every row" if every_row else f"{sampled_rows(header, sample)} of its {evaluated} evaluation rows"
    compared = f", equal to its source in {rows}" if source else ""
    found = "whole and unaltered" if has_seal(file) else "sound arrays, but no seal over the bytes outside them"
    click.echo(f"{file}: {header.spec.title}, {sum(header.rows.values())} rows, {found}{compared}")


@click.command()
@click.argument("file", type=BENCHMARK)
@click.option("-o", "--output", type=FILE, required=True, help="The PNG or PDF to write.")
@click.option("--split", type=click.Choice(SPLITS), help="Split to show; by default the one that is evaluated.")
@click.option("--rows", type=COUNT, default=12, show_default=True, help="How many examples, or lines of occluders.")
@click.option("--seed", type=SEED, help="Draw at random what is shown.")
@click.option(
    "--show",
    type=click.Choice(SHOWN),
    default=SHOWN[0],
    show_default=True,
    help="Targets with their inputs; these and what they show of the target; or the occluders.",
)
def preview(file: Path, output: Path, split: Split | None, rows: int, seed: int | None, show: Show) -> None:
    """Draw a contact sheet of targets and their inputs, of what is visible, or of the occluders."""
    if output.exists() and output.samefile(file):
        raise FusionDatasetsError(
            f"got {output} for both the file and its sheet; name another one ending in .png or .pdf"
        )
    check_sheet_name(output)
    with FusionDataset(file, split=split) as data:
        save_contact_sheet(data, output, rows=rows, seed=seed, show=show)
    click.echo(output)
