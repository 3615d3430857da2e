"""A training run from the request to the finished model: begun, continued, or found done."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusionvae_model.checkpoint import check_replaceable, read_json, write_json
from fusionvae_model.config import MOST_MINUTES, Preset, preset, preset_model
from fusionvae_model.data import TrainingSet
from fusionvae_model.device import PRECISIONS, keep_freed_memory, resolve_device, subnormals_as_zero
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.initial_weights import InitialWeights
from fusionvae_model.overrides import check_given_once, override
from fusionvae_model.processes import ALONE, Processes, joined_processes
from fusionvae_model.progress import note
from fusionvae_model.run import RUN_FILE, Run, sole_writer, stored_total_steps
from fusionvae_model.run_checkpoints import finished_checkpoints, restore_newest
from fusionvae_model.trainer import Trainer


def train(
    data_path: str | Path,
    output: str | Path,
    *,
    preset_name: str,
    kind: str = "fusionvae",
    posterior: str | None = None,
    aggregation: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "32",
    resume: bool = False,
    log_every: int = 20,
    checkpoint_seconds: float = 120.0,
    overrides: Sequence[str] = (),
    accumulate: int = 1,
    compile_code: bool = False,
    initial_weights: str | Path | Sequence[str | Path] | None = None,
    tensorboard: bool = False,
    sheet_every: int | None = None,
    hold_out: int = 0,
) -> dict[str, Any]:
    """Train a preset on a benchmark, or continue, or find it done.

    Args:
        data_path: HDF5 file that ``fusion-datasets build`` wrote, or ``hf://owner/name@revision``, fetched once.
        output: The run's folder; at the end also a model folder for ``from_pretrained``.
        preset_name: Architecture, objective and schedules.
        kind: Which model, a key of :data:`~fusionvae_model.config.MODEL_KINDS`.
        posterior: Instead of the kind's own, where it has a choice.
        aggregation: Likewise.
        epochs: Length of the training instead of the preset's.
        minutes: Length in wall time instead, of everything from reading the data to the finished model: a step is
            measured first, then the number of steps is fixed and stored.
        batch_size: Instead of the preset's.
        seed: Of weights, order, inputs and noise, instead of the preset's 0.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        precision: ``"32"`` or ``"bf16"``.
        resume: Continue what stands in ``output``.
        initial_weights: A trained model to start from instead of random weights: its folder, or the name of weights in
            the box; or several, whose mean it is then. Steps, schedules and optimiser begin anew.
        compile_code: Fuse kernels; see :func:`fusionvae_model.device.compiled`.
        tensorboard: Write event files for TensorBoard beside the log.
        sheet_every: Steps between two sheets of samples; none by default.
        hold_out: So many training images, the same ones for every seed, are not trained on; their bound is in the log.
        log_every: Steps between two lines of the log.
        checkpoint_seconds: Time between two checkpoints.
        overrides: Single settings of the preset to replace, ``name=value`` each.
        accumulate: Passes of each process that make up one step, so that a large batch fits into memory.

    Returns:
        The summary of the training, as in training.json.

    Raises:
        FusionVAEError: If something does not fit, or the training is interrupted or diverges.
    """
    output = Path(output)
    stood = (output / RUN_FILE).exists()
    with subnormals_as_zero(), joined_processes(resolve_device(device)) as (processes, own_device):
        trainer = prepare(
            data_path,
            output,
            preset_name=preset_name,
            kind=kind,
            posterior=posterior,
            aggregation=aggregation,
            epochs=epochs,
            minutes=minutes,
            batch_size=batch_size,
            seed=seed,
            device=own_device,
            precision=precision,
            resume=resume,
            overrides=overrides,
            accumulate=accumulate,
            compile_code=compile_code,
            initial_weights=initial_weights,
            hold_out=hold_out,
            processes=processes,
        )
        summary = trainer.finished_summary() if stood else None
        processes.wait()  # all have read what one is about to write
        if processes.writes and summary is not None:
            note(f"the run in {output} is done; nothing is left to compute")
        elif processes.writes and stood:
            where = f"after step {trainer.step} of {trainer.run.total_steps}"
            note(f"going on {where}" if trainer.step else f"no checkpoint stands in {output}; beginning anew")
        if summary is not None:
            return summary
        with sole_writer(output) if processes.writes else contextlib.nullcontext():
            if processes.writes and not stood:
                if (output / RUN_FILE).exists():
                    raise FusionVAEError(
                        f"{output} has got another process's run while this one was being prepared; choose another "
                        "--output, or continue that run with its settings and --resume"
                    )
                write_json(output / RUN_FILE, trainer.run.to_dict())
            trainer.train(
                log_every=log_every,
                checkpoint_seconds=checkpoint_seconds,
                tensorboard=tensorboard,
                sheet_every=sheet_every,
            )
            return trainer.finish()


def prepare(
    data_path: str | Path,
    output: Path,
    *,
    preset_name: str,
    kind: str = "fusionvae",
    posterior: str | None = None,
    aggregation: str | None = None,
    epochs: int | None,
    minutes: float | None,
    batch_size: int | None,
    seed: int | None,
    device: str | torch.device,
    precision: str,
    resume: bool,
    overrides: Sequence[str] = (),
    accumulate: int = 1,
    compile_code: bool = False,
    initial_weights: str | Path | Sequence[str | Path] | None = None,
    hold_out: int = 0,
    processes: Processes = ALONE,
) -> Trainer:
    """Return a trainer at the place where :func:`train` will go on; writes nothing."""
    began = time.monotonic()
    if epochs is not None and minutes is not None:
        raise FusionVAEError(f"got {epochs} epochs and {minutes} minutes; choose one of them")
    if minutes is not None and not 0 < minutes <= MOST_MINUTES:
        raise FusionVAEError(
            f"got {minutes} minutes; expected a number above 0 and at most {MOST_MINUTES:,}, ten years"
        )
    if precision not in PRECISIONS:
        raise FusionVAEError(f"got precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    keep_freed_memory()
    model = preset_model(preset_name, kind=kind, posterior=posterior, aggregation=aggregation)
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    length = {"epochs": epochs if minutes is None else f"{minutes} minutes"}
    named = {"kind": kind, "posterior": posterior, "aggregation": aggregation}
    check_given_once(overrides, {**changes, **length, **named})
    chosen = override(Preset(model, preset(preset_name).train), overrides)
    target_device = resolve_device(device) if isinstance(device, str) else device
    config = dataclasses.replace(chosen.train, **{key: value for key, value in changes.items() if value is not None})
    data = TrainingSet(
        data_path, device=target_device, seed=config.seed, channels=chosen.model.channels, hold_out=hold_out
    )
    data.check_fits(chosen.model)
    first = processes.shares(config.batch_size, accumulate)[0]
    if first.stop - first.start == 1 and chosen.model.coarsest_side == 1:
        raise FusionVAEError(
            "a pass of one image, whose coarsest features are a single pixel, has no batch statistics; choose a larger "
            "--batch-size, or fewer scales"
        )
    starts = [initial_weights] if isinstance(initial_weights, str | Path) else initial_weights or ()
    initial, known = None, _stored_start(output) if resume and starts else {}
    try:
        initial = InitialWeights.mean([InitialWeights.read(one, chosen.model) for one in starts]) if starts else None
    except FusionVAEError as error:
        if not known:
            raise
        if processes.writes:
            note(f"{error}; going on from the checkpoint all the same, which needs no weights to start from")
    if config.revive_channels and initial is None and not known:
        raise FusionVAEError(
            "revive_channels starts extinct channels of a trained model anew, but this training starts from random "
            "weights; name the model with --init, or leave revive_channels out"
        )
    steps = config.epochs * data.steps_per_epoch(config.batch_size)
    run = Run(
        preset=preset_name,
        model=chosen.model,
        train=config,
        minutes=minutes,
        total_steps=steps,
        precision=precision,
        data=data.description,
        accumulate=accumulate,
        compile=compile_code,
        hold_out=hold_out,
        **({"initial_weights": initial.digest, "images_seen_before": initial.images_seen} if initial else known),
    )
    stored = stored_total_steps(output, run, resume=resume)
    if stored is not None:
        run = dataclasses.replace(run, total_steps=stored)
    check_replaceable(output)
    trainer = Trainer(run, data, output, target_device, processes, initial)
    if stored is not None:
        restore_newest(output, trainer.load_checkpoint)
    if processes.count > 1 and not processes.same(trainer.standing()):
        raise FusionVAEError(
            "the processes do not start from the same place; expected --data and --output that all of them see alike, "
            f"such as a folder that their machines share: process {processes.rank} stands at step {trainer.step}"
        )
    if stored is None and minutes is not None:
        step_seconds = trainer.measure_step_seconds(seconds=min(20.0, 3.0 * minutes))
        pass_seconds = trainer.measure_pass_seconds()
        left = processes.agree(60 * minutes - (time.monotonic() - began))
        trainer.set_total_steps(trainer.steps_within(left, step_seconds=step_seconds, pass_seconds=pass_seconds))
    last = trainer.run.total_steps - 1
    if config.importance_samples > 1 and trainer.state.beta(last) < 1:
        raise FusionVAEError(
            f"importance_samples is {config.importance_samples}, which counts once β has risen to 1, and in "
            f"{last + 1} steps it rises to {trainer.state.beta(last):.4g}; expected a smaller beta_fraction, or more "
            "steps"
        )
    return trainer


def _stored_start(output: Path) -> dict[str, Any]:
    """Return what a run that can go on remembers of the weights it started from; nothing where there are none."""
    if not (output / RUN_FILE).is_file() or not finished_checkpoints(output):
        return {}
    stored = read_json(output / RUN_FILE)
    known = {key: stored.get(key) for key in ("initial_weights", "images_seen_before")}
    return known if known["initial_weights"] else {}
