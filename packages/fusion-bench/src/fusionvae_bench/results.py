"""The result file, version 1: one JSON object per evaluated model.

A number that could not be had is ``null``; every other one is finite. See the README for what each key means.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import ResultError
from fusionvae_bench.importance import MOST_PARETO_K
from fusionvae_bench.outputs import Kind, check_output, is_of_kind
from fusionvae_bench.tiles import Scores
from fusionvae_model.checkpoint import without_nan

FORMAT = "fusionvae-bench result"
FORMAT_VERSION = 1
PAPER_NUM_INPUTS = (0, 1, 2, 3)
AVERAGE = "avg"
RESULT = Kind("result", (".json",), (f'{{\n "format": "{FORMAT}"',))
"""Result files among others."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores for one number of inputs, or their plain mean over 0–3; averages over the images unless said otherwise.

    Attributes:
        nll_nats: negative log-likelihood, nats per image.
        nll_bits_per_dim: the same in bits per dimension (the tables print × 10²).
        nll_standard_error: of ``nll_nats``, over images, nats.
        nll_sampling_error: part of it that is due to the finite number of importance samples, nats.
        nll_bias_nats: first-order estimate, ½ · squared relative error of the weights, by which a finite number of
            samples makes ``nll_nats`` too large.
        ess: effective sample size.
        ess_median: median of the same over the images.
        pareto_k: median over the images of the tail shape of the weights.
        pareto_k_unreliable_share: share of images above ``pareto_k_reliable``.
        mse_min: least mean squared error over the draws.
        mse_min_standard_error: over images; without inputs, 20 of which share their draws, over groups of these.
        mse_one: expected error of one draw.
        mse_one_standard_error: over images.
        mse_mean: error of the mean of the draws.
        mse_mean_standard_error: over images.
        pixel_standard_deviation: spread of the draws, root of its mean square over pixels and images.
        mse_visible: error of the mean of the draws over the pixels that some input shows.
        mse_visible_standard_error: over images.
        mse_hidden: the same over the pixels that none shows.
        mse_hidden_standard_error: over images.
    """

    nll_nats: float | None = None
    nll_bits_per_dim: float | None = None
    nll_standard_error: float | None = None
    nll_sampling_error: float | None = None
    nll_bias_nats: float | None = None
    ess: float | None = None
    ess_median: float | None = None
    pareto_k: float | None = None
    pareto_k_unreliable_share: float | None = None
    mse_min: float | None = None
    mse_min_standard_error: float | None = None
    mse_one: float | None = None
    mse_one_standard_error: float | None = None
    mse_mean: float | None = None
    mse_mean_standard_error: float | None = None
    pixel_standard_deviation: float | None = None
    mse_visible: float | None = None
    mse_visible_standard_error: float | None = None
    mse_hidden: float | None = None
    mse_hidden_standard_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Pixels of about the same predicted uncertainty, and how wrong they were.

    Attributes:
        pixels: how many.
        predicted: root of their mean predicted variance.
        actual: root of the mean squared error of the mean of the draws.
        actual_standard_error: of ``actual``, over images.
    """

    pixels: int
    predicted: float
    actual: float
    actual_standard_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class InputGain:
    """What going from ``before`` to ``after`` inputs brings, image by image; positive is better.

    Attributes:
        before: number of inputs.
        after: the next larger number of inputs.
        metric: ``nll_nats`` or ``mse_min``.
        mean: average decrease.
        standard_error: of the paired differences over images.
        share_improved: share of images that improve, in [0, 1].
    """

    before: int
    after: int
    metric: str
    mean: float
    standard_error: float | None
    share_improved: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model, scored on one split of one data set.

    Attributes:
        benchmark: name, such as ``fusion-mnist``.
        title: name in print.
        split: the split scored.
        is_stand_in: whether the images are rendered look-alikes, whose scores say nothing about the originals.
        dataset_digest: hex digest of the data.
        dataset_source: where the images come from.
        model_kind: such as ``fusionvae``.
        model_name: name of the weights.
        weights_digest: hex digest of the weights.
        config: the model's configuration.
        num_parameters: trainable numbers.
        training: summary of the training, if known.
        num_images: images scored.
        num_samples: S, for the likelihood as for MSE_min.
        num_inputs: numbers of inputs scored.
        seed: of all randomness.
        precision: what the model computed in, "32" or "bf16".
        evenly_spaced: whether the images lie at even distances over the split; else they are its first ones.
        num_dims: dimensions that bits per dimension divide by.
        entropy_floor_nats: least mean NLL possible for the images scored, if the likelihood has one.
        scores: by number of inputs ("0", "1", …), and "avg" where 0–3 were all scored.
        gains: what each further input brings.
        warnings: what a reader must know.
        seconds: time spent scoring.
        device: what it ran on.
        created: UTC time, ISO 8601.
        versions: of the packages.
        git_commit: of the code, if known.
        fingerprint: identity of model, data and settings, apart from which images were scored.
        pareto_k_reliable: tail shape above which so many samples are too few (`importance.reliable_pareto_k`).
        calibration: by number of inputs, ascending in the predicted uncertainty.
        per_image: scores of each image, [images, numbers of inputs] of `tiles.SCORE`; not part of the file.
    """

    benchmark: str
    title: str
    split: str
    is_stand_in: bool
    dataset_digest: str
    dataset_source: dict[str, Any]
    model_kind: str
    model_name: str
    weights_digest: str | None
    config: dict[str, Any]
    num_parameters: int | None
    training: dict[str, Any] | None
    num_images: int
    num_samples: int
    num_inputs: tuple[int, ...]
    seed: int
    num_dims: int
    entropy_floor_nats: float | None
    scores: dict[str, Score]
    gains: tuple[InputGain, ...]
    warnings: tuple[str, ...]
    seconds: float
    device: str
    created: str
    versions: dict[str, Any]
    git_commit: str | None
    fingerprint: str
    precision: str = "32"
    evenly_spaced: bool = False
    pareto_k_reliable: float = MOST_PARETO_K
    calibration: dict[str, tuple[CalibrationBin, ...]] = field(default_factory=dict)
    per_image: Scores | None = field(default=None, compare=False, repr=False)

    @property
    def is_rounded(self) -> bool:
        """Whether the model computed in less than float32."""
        return self.precision != "32"

    @property
    def images(self) -> str:
        """Which images were scored, in words."""
        count = f"{self.num_images:,}"
        return f"{count} evenly spaced images" if self.evenly_spaced else f"the first {count} images"

    def score(self, num_inputs: int | str) -> Score | None:
        """Return the scores of a number of inputs, or of "avg"; None if they were not measured."""
        return self.scores.get(str(num_inputs))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `write_result` writes."""
        header = {"format": FORMAT, "format_version": FORMAT_VERSION}
        document = header | dataclasses.asdict(dataclasses.replace(self, per_image=None))
        del document["per_image"]
        finite: dict[str, Any] = without_nan(document)
        return finite


def write_result(result: Result, path: Path | str) -> None:
    """Write a result file; it appears whole or not at all.

    Raises:
        ResultError: if the name does not end in .json, a file that is no result has it, or the disk refuses.
    """
    check_output(Path(path), RESULT)
    text = json.dumps(result.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(Path(path), (text + "\n").encode())


def read_result(path: Path | str) -> Result:
    """Read and check a result file.

    Raises:
        ResultError: if it is missing, no result file, damaged, or of another version.
    """
    document = _read_object(Path(path))
    if document.get("format") != FORMAT:
        raise ResultError(
            f"{path} is no result file: its format is {document.get('format')!r}, expected {FORMAT!r}; "
            "write one with `fusion-bench run`"
        )
    if document.get("format_version") != FORMAT_VERSION:
        raise ResultError(
            f"{path} has version {document.get('format_version')!r}, expected {FORMAT_VERSION}; "
            "use the fusionvae-bench that wrote it, or run it again with this one"
        )
    try:
        result: Result = _build(Result, document, "the file")
        _check(result)
        return result
    except (TypeError, ValueError) as error:
        raise ResultError(f"{path} is damaged: {error}; run it again") from error


def find_results(folder: Path | str) -> list[tuple[Path, Result]]:
    """Read every result file below a folder, sorted by path; other JSON files are passed over.

    A result that was cut short, or was met before (a copy or a link), is left out, which stderr says.

    Raises:
        ResultError: if there is no such folder, or one of its result files is damaged or of another version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder; expected one with result files of `fusion-bench run`")
    found: list[tuple[Path, Result]] = []
    known: dict[tuple[str, str], list[tuple[Path, Result]]] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            document = _read_object(path)
        except ResultError as error:
            with contextlib.suppress(OSError):
                if is_of_kind(path, RESULT):  # what else is not JSON is no concern of ours
                    sys.stderr.write(f"left out: {error}\n")
            continue
        if document.get("format") == FORMAT:
            result = read_result(path)
            twins = known.setdefault((result.fingerprint, result.created), [])
            if twin := next((other for other, same in twins if same == result), None):
                sys.stderr.write(f"left out: {path} is the result of {twin} again\n")
            else:
                twins.append((path, result))
                found.append((path, result))
    return found


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror or error}; expected a result file of `fusion-bench run`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON ({error}); expected a result file of `fusion-bench run`") from error
    if not isinstance(document, dict):
        raise ResultError(f"{path} holds a {type(document).__name__}, expected one JSON object")
    return document


def _check(result: Result) -> None:
    """Check what the types do not tell."""
    if lacking := [k for k in result.num_inputs if str(k) not in result.scores]:
        raise ValueError(f"it lacks the scores of {lacking[0]} inputs")
    if not result.num_inputs:
        raise ValueError("it names no numbers of inputs")
    for name in ("num_images", "num_samples", "num_dims"):
        if getattr(result, name) < 1:
            raise ValueError(f"its {name} is {getattr(result, name)}, expected at least 1")
    training = result.training or {}
    for name, kinds in _TRAINING_TYPES.items():
        value = training.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"its training's {name} should be {kinds[-1].__name__}, got {value!r:.40}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"its training's {name} is {value}")
    for k, score in result.scores.items():
        if (score.nll_nats is None) != (score.nll_bits_per_dim is None):
            raise ValueError(f"its NLL of {k} inputs stands there in one unit alone")


_TRAINING_TYPES: dict[str, tuple[type, ...]] = {
    "seed": (int,),
    "epochs": (int, float),
    "minutes": (int, float),
    "steps": (int,),
    "seconds": (int, float),
    "images_seen": (int,),
    "images_seen_before": (int,),
    "initial_weights": (str,),
    "dataset_digest": (str,),
    "dataset_source": (dict,),
    "train_config": (dict,),
}
"""What of a training's summary the tables read."""

Record = TypeVar("Record")


def _build(record: type[Record], document: Any, where: str) -> Record:
    """Make a dataclass of a JSON object; unknown keys are passed over, so that later versions may add some."""
    if not isinstance(document, dict):
        raise TypeError(f"{where} should be an object, got {document!r:.40}")
    hints = typing.get_type_hints(record)
    values = {}
    for entry in dataclasses.fields(record):  # type: ignore[arg-type]
        if entry.name in document:
            values[entry.name] = _convert(document[entry.name], hints[entry.name], f"{where}'s {entry.name}")
        elif entry.default is entry.default_factory is dataclasses.MISSING:
            raise TypeError(f"{where} lacks {entry.name!r}")
    return record(**values)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check a JSON value against a type hint; tuples and dataclasses are restored."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, arguments[0], where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _convert(item, arguments[1], f"{where}[{key}]") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}")
    if isinstance(value, expected) and not (expected is int and isinstance(value, bool)):
        return value
    raise TypeError(f"{where} should be of type {getattr(expected, '__name__', expected)}, got {value!r:.40}")
