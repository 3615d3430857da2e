"""Single settings of a preset, replaced by name: ``learning_rate=0.005``."""

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fusionvae_model.config import ModelConfig, Preset, TrainConfig
from fusionvae_model.errors import FusionVAEError

_OF_LATENTS = ("latent_channels", "prior_kernel", "beta_fraction", "beta_floor")


def override(preset: Preset, assignments: Sequence[str]) -> Preset:
    """Return a preset with some settings of its model or its training replaced.

    Args:
        preset: Where the other settings come from.
        assignments: ``name=value`` each; the numbers of a tuple are separated by commas.

    Raises:
        FusionVAEError: If a name is unknown or given twice, the model has no such setting, or a value is of another
            type or impossible.
    """
    changes: dict[type, dict[str, Any]] = {ModelConfig: {}, TrainConfig: {}}
    owners = {field.name: kind for kind in changes for field in dataclasses.fields(kind)}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in owners:
            raise FusionVAEError(
                f"got the setting {assignment!r}; expected name=value, name one of {', '.join(owners)}"
            )
        chosen = changes[owners[name]]
        if name in chosen:
            raise FusionVAEError(f"the setting {name} is given twice; choose one value")
        if name in _OF_LATENTS and preset.model.posterior == "none":
            raise FusionVAEError(f"{name} is a setting of latents, of which {preset.model.kind} has none; leave it out")
        chosen[name] = _value(text, getattr(getattr(preset, "model" if owners[name] is ModelConfig else "train"), name))
    model, train = preset.model.to_dict() | changes[ModelConfig], preset.train.to_dict() | changes[TrainConfig]
    return dataclasses.replace(preset, model=ModelConfig.from_dict(model), train=TrainConfig.from_dict(train))


def check_given_once(assignments: Sequence[str], options: Mapping[str, Any]) -> None:
    """Check that no setting is replaced by name that an option of its own replaces too.

    Args:
        assignments: ``name=value`` each.
        options: What was given by options; None where nothing was.

    Raises:
        FusionVAEError: If one is given both ways.
    """
    replaced = {assignment.partition("=")[0]: assignment for assignment in assignments}
    for name, value in options.items():
        if value is not None and name in replaced:
            raise FusionVAEError(f"{name} is given twice, as {value} and by the setting {replaced[name]}; choose one")


def described_settings(preset: Preset) -> str:
    """Return every setting that can be replaced by name: its value in a preset and what it means, for people."""
    parts = []
    for part in (preset.model, preset.train):
        meanings = _meanings(type(part))
        for name, value in part.to_dict().items():
            if name == "kind":  # which --model alone chooses
                continue
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else json.dumps(value).strip('"')
            meaning = textwrap.fill(meanings.get(name, ""), 96, initial_indent="    ", subsequent_indent="    ")
            parts.append(f"{name}={text}\n{meaning}".rstrip())
    return "\n".join(parts)


def _meanings(kind: type) -> dict[str, str]:
    """Read the section "Attributes" of a class's docstring, without its markup."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    plain = {name: re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", " ".join(text.split())) for name, text in found}
    return {name: text.replace("``", "") for name, text in plain.items()}


def _value(text: str, present: Any) -> Any:
    """Read a value; the present one tells whether it is a tuple or text, :meth:`from_dict` checks the rest."""
    if isinstance(present, tuple):
        return tuple(_value(part, None) for part in text.strip("()[] ").split(","))
    try:
        return text if isinstance(present, str) else json.loads(text)
    except ValueError:
        return text
