"""Models as folders: config.json, model.safetensors and a model card. Reading one never runs foreign code."""

import json
import math
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fusionvae_model import __version__
from fusionvae_model.atomic import stated_failure, write_file
from fusionvae_model.config import MODEL_KINDS, ModelConfig
from fusionvae_model.errors import FusionVAEError

FORMAT = "fusionvae-model"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.json"
CARD_FILE = "README.md"
RUN_FILE = "run.json"
_CARD_BEGINNING = "---\nlibrary_name: fusionvae-model\n"
BOX = Path(__file__).parent / "weights"
"""Trained models that are installed with the package, one folder each."""


def model_folder(weights: str | Path) -> Path:
    """Return the folder of a model: the path itself if it exists, else the one in the box of this name, if any."""
    boxed = BOX / weights
    is_boxed = Path(weights).name == str(weights) and (boxed / WEIGHTS_FILE).is_file()
    return boxed if is_boxed and not Path(weights).exists() else Path(weights)


def write_pretrained(
    folder: Path,
    config: ModelConfig,
    tensors: dict[str, Tensor],
    num_parameters: int,
    training: dict[str, Any] | None,
) -> None:
    """Write a model folder; each file appears whole or not at all.

    Args:
        folder: Created if absent.
        config: The resolved architecture.
        tensors: Parameters and buffers by name.
        num_parameters: For the model card.
        training: Summary of the training, or ``None``.

    Raises:
        FusionVAEError: Before anything is written, if a weight is not finite, ``training`` is no JSON, or the folder
            holds files of the same names that are no model's; and if the disk refuses.
    """
    check_replaceable(folder)
    if (name := first_non_finite(tensors)) is not None:
        raise FusionVAEError(f"{name} holds NaN or infinite values, with which no model could be loaded; mend it first")
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "created_with": __version__}
    try:
        described = {CONFIG_FILE: {**header, "model": config.to_dict()}, TRAINING_FILE: without_nan(training)}
        written = {name: _json(values) for name, values in described.items() if values is not None}
    except (TypeError, ValueError, RecursionError) as error:
        raise FusionVAEError(f"training cannot be stored as JSON ({error}); state it in text and numbers") from error
    if training is None:
        with stated_failure(folder / TRAINING_FILE):
            (folder / TRAINING_FILE).unlink(missing_ok=True)  # of another model that stood here
    write_tensors(folder / WEIGHTS_FILE, tensors)
    write_file(folder / CONFIG_FILE, written[CONFIG_FILE])
    write_file(folder / CARD_FILE, _model_card(config, num_parameters, training).encode())
    if training is not None:  # last of all: where it stands, the model is finished
        write_file(folder / TRAINING_FILE, written[TRAINING_FILE])


def check_replaceable(folder: Path) -> None:
    """Check that what a model's files would replace are a model's.

    Raises:
        FusionVAEError: If they are not.
    """
    config, card = folder / CONFIG_FILE, folder / CARD_FILE
    try:
        ours = config.is_file() and read_json(config).get("format") == FORMAT
        ours = ours or (not config.exists() and (folder / RUN_FILE).is_file())  # a training's own summary
    except FusionVAEError:
        ours = False
    foreign = [path for path in (config, folder / TRAINING_FILE) if path.exists() and not ours]
    if card.exists() and not card.read_bytes().startswith(_CARD_BEGINNING.encode()):
        foreign.append(card)
    if foreign:
        raise FusionVAEError(
            f"{foreign[0]} is no part of a model of this package and would be lost; move it away, or choose a "
            "new folder"
        )


def read_config(folder: Path) -> ModelConfig:
    """Read the configuration of a model folder.

    Raises:
        FusionVAEError: If it is missing, damaged, or of another version.
    """
    if not folder.is_dir():
        raise FusionVAEError(
            f"{folder} is not a folder with a model; expected one that holds {CONFIG_FILE} and {WEIGHTS_FILE}, "
            f"as fusionvae train writes it, or a name in the box: {', '.join(sorted(p.name for p in BOX.iterdir()))}"
        )
    if (folder / RUN_FILE).is_file() and not (folder / CONFIG_FILE).exists():
        saved = sorted(folder.glob("checkpoints/step-*"))
        raise FusionVAEError(
            f"the training in {folder} has not come to its end; continue it with --resume"
            + (f", or take what it has saved, {saved[-1]}" if saved else "")
        )
    values = read_json(folder / CONFIG_FILE)
    if values.get("format") != FORMAT:
        raise FusionVAEError(
            f"{folder / CONFIG_FILE} describes format {values.get('format')!r}; expected {FORMAT!r}: "
            "is it the folder of another program's model?"
        )
    if values.get("format_version") != FORMAT_VERSION:
        raise FusionVAEError(
            f"{folder / CONFIG_FILE} has format version {values.get('format_version')!r}; this fusionvae-model "
            f"{__version__} reads version {FORMAT_VERSION}: install the version that wrote it "
            f"({values.get('created_with', 'unknown')})"
        )
    if not isinstance(values.get("model"), dict):
        raise FusionVAEError(f"{folder / CONFIG_FILE} has no model section; copy the folder again or train anew")
    return ModelConfig.from_dict(values["model"])


def read_pretrained(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read configuration and tensors of a model folder.

    Raises:
        FusionVAEError: If a file is missing, damaged, or of another version, or a weight is not finite.
    """
    config, tensors = read_config(folder), read_tensors(folder / WEIGHTS_FILE)
    if (name := first_non_finite(tensors)) is not None:
        raise FusionVAEError(
            f"{folder / WEIGHTS_FILE} holds NaN or infinite values in {name}; expected finite weights: "
            "copy it again or train anew"
        )
    return config, tensors


def read_training_summary(folder: Path) -> dict[str, Any] | None:
    """Return what the folder remembers of the training, or ``None`` if it was not trained by this package."""
    return read_json(folder / TRAINING_FILE) if (folder / TRAINING_FILE).is_file() else None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(plain))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FusionVAEError: If it is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise FusionVAEError(f"{path} is missing; the folder is incomplete, copy it again or train anew") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise FusionVAEError(
            f"{path} is not a readable safetensors file ({error}); copy it again or train anew"
        ) from error


def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, if there is one; waits for the device once."""
    if not tensors:
        return None
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    return next((name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite), None)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, atomically."""
    write_file(path, _json(values))


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=False) + "\n").encode()


def without_nan(value: Any) -> Any:
    """Return a JSON value in which null stands for each number that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FusionVAEError: If it is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FusionVAEError(f"{path} is missing; expected a folder written by fusionvae train") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FusionVAEError(f"{path} is not readable JSON ({error}); copy it again or train anew") from error
    if not isinstance(values, dict):
        raise FusionVAEError(f"{path} holds a {type(values).__name__}; expected a JSON object")
    return values


def _model_card(config: ModelConfig, num_parameters: int, training: dict[str, Any] | None) -> str:
    title = MODEL_KINDS[config.kind].title
    scales = ", ".join(
        f"{count} × {config.coarsest_side << scale}²" for scale, count in enumerate(config.latents_per_scale)
    )
    latents = f"{scales}, {config.latent_channels} channels each" if scales else "none: its output is deterministic"
    lines = [
        *_CARD_BEGINNING.splitlines(),
        "license: apache-2.0",
        "tags: [image-fusion, variational-autoencoder, uncertainty]",
        "---",
        "",
        f"# {title}",
        "",
        f"Fuses any number of {config.image_size}×{config.image_size} images with {config.channels} channel(s) "
        "into hypotheses of the clean image.",
        "",
        "```python",
        "from fusionvae_model import load_model",
        'model = load_model("this/folder")',
        "fused = model.sample(inputs, num_samples=8)  # [b, k, c, h, w] in [0, 1] → [b, 8, c, h, w]",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {num_parameters:,} |",
        f"| latent groups (coarse to fine) | {latents} |",
        f"| posterior, aggregation | {config.posterior}, {config.aggregation} |",
        f"| likelihood | {config.likelihood} |",
    ]
    for key, value in (training or {}).items():
        if isinstance(value, str | int | float):
            lines.append(f"| training: {key.replace('_', ' ')} | {value} |")
    return "\n".join([*lines, ""])
