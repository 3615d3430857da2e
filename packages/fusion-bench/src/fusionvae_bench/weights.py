"""The model that a user names: a folder, a published name, a trivial baseline, or what a factory returns."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusionvae_bench.errors import ModelError
from fusionvae_bench.protocol import stated_by
from fusionvae_bench.trivial import PREFIX, build_trivial
from fusionvae_model import catalogue
from fusionvae_model.checkpoint import model_folder

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset

WEIGHTS = "DIR|NAME|MODULE:FACTORY|trivial:{merge,mean,nearest}"
"""What ``--weights`` takes."""


def load_model(weights: str, data: FusionDataset | None, device: torch.device) -> Any:
    """Load what ``--weights`` names.

    Args:
        weights: folder, published name, ``trivial:NAME``, or ``module:factory``.
        data: the split to be scored; the trivial baselines read the training images beside it, others do without.
        device: where the model shall live.

    Raises:
        ModelError: if a factory cannot be found.
        FusionVAEError: if there is no such model.
    """
    if weights.startswith(PREFIX):
        if data is None:
            raise ModelError(f"{weights} is made of training images; expected the data set beside it")
        return build_trivial(weights, data)
    if not _names_factory(weights):
        return catalogue.load_model(weights, device=device)
    module, _, factory = weights.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # an installed command does not look for modules where it is called; `python -m` does
    with stated_by(None, f"importing {module}"):
        try:
            make = getattr(importlib.import_module(module), factory)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelError(
                f"{weights} cannot be loaded ({error}); expected a folder, or MODULE:FACTORY with an importable module"
            ) from error
    if not callable(make):
        raise ModelError(f"{weights} is a {type(make).__name__}; expected a function or class that makes the model")
    with stated_by(None, f"{weights}()"):
        model = make()
    return model.to(device).eval() if isinstance(model, torch.nn.Module) else model


def _names_factory(weights: str) -> bool:
    return ":" in weights and not weights.startswith(PREFIX) and not Path(weights).exists()


def origin(weights: str) -> str | None:
    """Return what tells one model of somebody else's code from another: its factory, and the code as it stands.

    Returns:
        None for what comes from this project, whose weights and settings tell.
    """
    if not _names_factory(weights):
        return None
    path = getattr(sys.modules.get(weights.partition(":")[0]), "__file__", None)
    code = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""
    return f"{weights} {code}"


def model_name(weights: str) -> str:
    """Return the name under which a result shows the model."""
    return Path(weights).resolve().name if Path(weights).exists() else weights


def training_summary(weights: str) -> dict[str, Any] | None:
    """Return what a model's folder remembers of its training, if it does.

    Raises:
        ModelError: if it is damaged.
    """
    path = model_folder(weights) / "training.json"
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); copy it again, or remove it to go without") from error
    return {key: value for key, value in summary.items() if key != "history"}
