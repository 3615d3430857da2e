"""The command ``fusionvae``: train, fuse, info."""

import errno
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fusionvae_model import __version__
from fusionvae_model.catalogue import load_model
from fusionvae_model.checkpoint import model_folder, read_training_summary
from fusionvae_model.config import AGGREGATIONS, MODEL_KINDS, PRESETS, preset
from fusionvae_model.device import PRECISIONS, is_out_of_memory
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.initial_weights import extinct_channels
from fusionvae_model.overrides import described_settings
from fusionvae_model.sheets import FITS


class _OneSentenceErrors(click.Group):
    """Turns a stated failure into one sentence on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FusionVAEError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has had enough
                raise
            raise click.ClickException(f"{error.filename or 'the output'}: {error.strerror or error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise click.ClickException(
                "there is not enough memory for this; ask for less at once: in training a smaller --batch-size, or "
                "several passes by --accumulate; in fusing fewer --samples"
            ) from error


class _FiniteRange(click.FloatRange):
    """A range of numbers, to which "nan" and "inf" do not belong."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _list_settings(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None and not ctx.resilient_parsing:
        click.echo(described_settings(preset(name)))
        ctx.exit()


SEED = click.IntRange(min=0, max=2**63 - 1)
DEVICE = click.Choice(["auto", "cpu", "cuda"])


@click.group(cls=_OneSentenceErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusionvae")
def main() -> None:
    """Train FusionVAE, fuse images with it, look at it."""


@main.command()
@click.option("--data", required=True, type=click.Path(), help="Benchmark file, or hf://owner/name@revision.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--model", type=click.Choice(list(MODEL_KINDS)), default="fusionvae", show_default=True, help="Kind.")
@click.option("--posterior", type=click.Choice(["y", "xy"]), help="What q may see; fusionvae alone.  [default: y]")
@click.option("--aggregation", type=click.Choice(AGGREGATIONS), help="fusionvae alone.  [default: max-add]")
@click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)), default="fusion-mnist", show_default=True)
@click.option(
    "--init",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Start from a trained model: its folder, or `fusion-mnist`; given several times, from their mean.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Length instead of the preset's.")
@click.option("--minutes", type=_FiniteRange(min=0, min_open=True), help="Length in wall time instead, all in all.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Targets per step instead of the preset's.")
@click.option("--device", type=DEVICE, default="auto", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="32", show_default=True)
@click.option("--compile", "compile_code", is_flag=True, help="Fuse kernels, on a GPU also CUDA graphs; for GPUs.")
@click.option("--tensorboard", is_flag=True, help="Write event files beside the log.")
@click.option("--sheet-every", type=click.IntRange(min=1), metavar="STEPS", help="Draw a sheet of samples so often.")
@click.option(
    "--log-every", type=click.IntRange(min=1), default=20, show_default=True, metavar="STEPS", help="Lines of the log."
)
@click.option(
    "--checkpoint-seconds",
    type=_FiniteRange(min=0),
    default=120.0,
    show_default=True,
    help="Least time between two checkpoints.",
)
@click.option(
    "--hold-out",
    type=click.IntRange(min=1),
    metavar="IMAGES",
    help="Keep so many training images out of the training; their bound is in the log, up to fifty times a run.",
)
@click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Passes per step.")
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of a moving average of the weights.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Replace a setting of the preset.")
@click.option(
    "--list-settings",
    type=click.Choice(list(PRESETS)),
    metavar="PRESET",
    is_eager=True,
    expose_value=False,
    callback=_list_settings,
    help="Print what --set can replace, with its meaning, and stop.",
)
@click.option("--seed", type=SEED, help="Of weights, order, inputs and noise; 0 unless given.")
@click.option("--resume", is_flag=True, help="Continue the run in --output (or begin it).")
@click.option("--dry-run", is_flag=True, help="Print what would be done, write nothing.")
def train(
    data: str,
    output: Path,
    model: str,
    posterior: str | None,
    aggregation: str | None,
    preset_name: str,
    init: tuple[Path, ...],
    epochs: int | None,
    minutes: float | None,
    batch_size: int | None,
    device: str,
    precision: str,
    compile_code: bool,
    tensorboard: bool,
    sheet_every: int | None,
    log_every: int,
    checkpoint_seconds: float,
    hold_out: int | None,
    accumulate: int,
    ema: float | None,
    overrides: tuple[str, ...],
    seed: int | None,
    resume: bool,
    dry_run: bool,
) -> None:
    """Train a model; at the end --output is a folder for `fuse`, `fusion-bench run` and from_pretrained.

    The same call with --resume continues after an interruption, also after kill -9.
    """
    if epochs is not None and minutes is not None:
        raise click.UsageError("choose --epochs or --minutes, not both")
    if model != "fusionvae" and (posterior or aggregation):
        raise click.UsageError(f"--posterior and --aggregation choose among FusionVAEs; leave them out with {model}")
    from fusionvae_model import training  # it needs fusion-datasets, which `fuse` and `info` do without
    from fusionvae_model.device import bfloat16_warning, peak_memory_mib, resolve_device, subnormals_as_zero
    from fusionvae_model.processes import first_process, joined_processes

    settings: dict[str, Any] = {
        "preset_name": preset_name,
        "kind": model,
        "posterior": posterior,
        "aggregation": aggregation,
        "epochs": epochs,
        "minutes": minutes,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "precision": precision,
        "resume": resume,
        "accumulate": accumulate,
        "compile_code": compile_code,
        "initial_weights": init,
        "hold_out": hold_out or 0,
        "overrides": (*overrides, *([] if ema is None else [f"ema={ema}"])),
    }
    if first_process() and (warning := bfloat16_warning(precision, resolve_device(device))):
        click.secho(f"WARNING: {warning}", fg="yellow", err=True)
    if dry_run:
        with subnormals_as_zero(), joined_processes(resolve_device(device)) as (processes, own_device):
            trainer = training.prepare(data, output, **{**settings, "device": own_device, "processes": processes})
            seconds = trainer.measure_step_seconds(seconds=3)
            beside = trainer.measure_pass_seconds() * trainer.passes_beside(trainer.run.total_steps)
            memory = peak_memory_mib(trainer.device)
        if not processes.writes:
            return
        left = trainer.run.total_steps - trainer.step
        plan = {
            **trainer.run.to_dict(),
            "parameters": trainer.model.num_parameters,
            "steps_done": trainer.step,
            "steps_left": left,
            "seconds_per_step": round(seconds, 4),
            "minutes_left": round((left * seconds + beside) / 60, 1),
            "peak_memory_mib": None if memory is None else round(memory),
        }
        click.echo(json.dumps(plan, indent=2))
        return
    summary = training.train(
        data,
        output,
        **settings,
        tensorboard=tensorboard,
        sheet_every=sheet_every,
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
    )
    if not first_process():
        return
    click.echo(f"{output}: {summary['steps']} steps, {summary['epochs']} epochs, {summary['seconds']} s of training")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Print what a model is and how it was trained."""
    model = load_model(folder)
    extinct = extinct_channels(model, model.state_dict()).values()
    values: dict[str, Any] = {
        "parameters": model.num_parameters,
        "hidden_channels": sum(len(channels) for channels in extinct),
        "extinct_channels": sum(int(channels.sum()) for channels in extinct),
        "model": model.config.to_dict(),
        "training": read_training_summary(model_folder(folder)),
    }
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{model.config.kind} with {model.num_parameters:,} parameters")
    if values["extinct_channels"]:
        click.echo(
            "weight decay has put out {extinct_channels} of the {hidden_channels} hidden channels of its decoder's "
            "cells; train --init … --set revive_channels=true --set weight_decay=0 starts them anew".format(**values)
        )
    for section in ("model", "training"):
        if values[section]:
            click.echo(f"\n{section}")
            for key, value in _flat(values[section]):
                click.echo(f"  {key}: {value}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}, ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


@main.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--weights", required=True, type=click.Path(path_type=Path), help="Folder of a trained model, or `fusion-mnist`."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Sheet to write (PNG).")
@click.option(
    "--parts", type=click.Path(path_type=Path), help="Folder for mean, uncertainty and hypotheses as PNGs of their own."
)
@click.option("--samples", type=click.IntRange(min=2), default=8, show_default=True, help="Hypotheses to draw.")
@click.option("--temperature", type=_FiniteRange(min=0, max=1000), default=1.0, show_default=True)
@click.option("--fit", type=click.Choice(FITS), default="crop", show_default=True)
@click.option("--device", type=DEVICE, default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
def fuse(
    images: tuple[Path, ...],
    weights: Path,
    output: Path,
    parts: Path | None,
    samples: int,
    temperature: float,
    fit: str,
    device: str,
    seed: int,
) -> None:
    """Fuse IMAGES of one thing into hypotheses of the clean image; without images, imagine some.

    The sheet shows the inputs, the hypotheses, their mean, and where they disagree. A transparent pixel counts as
    hidden.
    """
    from fusionvae_model import sheets
    from fusionvae_model.device import keep_freed_memory, resolve_device, subnormals_as_zero

    sheets.check_output(output, images)
    if parts is not None:
        sheets.check_parts_folder(parts, images, output)
    keep_freed_memory()
    model = load_model(weights, device=resolve_device(device))
    if model.deterministic:
        if temperature != 1:
            raise FusionVAEError(
                f"{weights} is a {model.config.kind}, which draws nothing that a temperature could change; leave "
                "--temperature out"
            )
        samples = 1
    inputs = sheets.read_inputs(images, model.config, fit=fit)
    with subnormals_as_zero():
        fusion = sheets.fuse(model, inputs, num_samples=samples, temperature=temperature, seed=seed)
    sheets.write_sheet(output, fusion)
    if parts is not None:
        sheets.write_parts(parts, fusion)
    if fusion.tells_uncertainty:
        deviation = float(fusion.standard_deviation.mean())
        told = f"{samples} hypotheses, mean standard deviation {deviation:.3f} of values in 0 … 1"
    else:
        told = f"one image: {model.config.kind} draws no others, and does not say how sure it is"
    click.echo(f"{output}: {len(images)} input{'s' * (len(images) != 1)}, {told}")
