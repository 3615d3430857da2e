"""What a report shows beside its tables: pictures and learning curves of the models, figures of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure

from fusion_datasets import FusionDataset
from fusionvae_bench.errors import ModelError
from fusionvae_bench.evaluate import Request, check_request, has_scored, model_config, model_kind
from fusionvae_bench.gallery import Gallery, make_gallery
from fusionvae_bench.plates import draw_plates
from fusionvae_bench.protocol import for_inference
from fusionvae_bench.report import History, read_history
from fusionvae_bench.results import Result
from fusionvae_bench.rows import model_title
from fusionvae_bench.seeds import seed_groups
from fusionvae_bench.tables import draws
from fusionvae_bench.weights import load_model, model_name
from fusionvae_model.checkpoint import model_folder


@dataclass(frozen=True)
class Exhibits:
    """Pictures and curves, each where there was something to draw it from.

    Attributes:
        featured: the result of the first model, or the first result.
        gallery: pictures of the first model.
        history: learning curve of the featured model.
        plates: figures by name.
    """

    featured: Result | None = None
    gallery: Gallery | None = None
    history: History | None = None
    plates: Mapping[str, Figure] = field(default_factory=dict)


def exhibits(
    results: Sequence[Result],
    weights: Sequence[str] = (),
    data_path: str | Path | None = None,
    split: Literal["valid", "test"] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Exhibits:
    """Draw what there is to draw.

    Args:
        results: any; the figures show those that can be compared with the featured one, the best of several seeds.
        weights: models for pictures and learning curves, as in `load_model`.
        data_path: data for the pictures, as in `FusionDataset`; None draws none.
        split: of the pictures; None for the one the paper scores.
        seed: of the pictures.
        device: where the models live.

    Raises:
        BenchError: if a model cannot be loaded or does not fit the data, or there are results and none of the first.
    """
    models: dict[str, Any] = {}
    histories: dict[str, History] = {}
    found: list[Result | None] = []
    with ExitStack() as stack:
        data = stack.enter_context(FusionDataset(data_path, split, grey=None)) if data_path else None
        for name in weights:
            model = load_model(name, data, torch.device(device))
            if data:
                data = stack.enter_context(data.with_channels(model_config(model).get("channels", data.shape[-1])))
                check_request(model, data, Request(metrics="mse"))
            result = next((r for r in results if _is_of(r, model, name)), None)
            title = model_title(result) if result else model_name(name)
            title = f"{title} ({model_name(name)})" if title in models else title
            models[title] = model
            found.append(result)
            if ":" not in name and (history := read_history(model_folder(name))):
                histories[title] = history
        if results and found and found[0] is None:
            raise ModelError(
                f"none of the results is of {weights[0]}, whose pictures would stand beside another model's scores; "
                "score it first (fusion-bench run), or name first the weights of a result"
            )
        shown = [result for result in found if result]
        featured = next(iter([*shown, *results]), None)
        comparable = _comparable(featured, shown, results) if featured else []
        first = next(iter(models), None)
        faster = {title: for_inference(model) for title, model in models.items()}
        gallery = make_gallery(faster[first], data, seed=seed, device=device) if first and data else None
        plates = draw_plates(comparable, faster, histories, data, gallery, seed=seed, device=device)
    return Exhibits(featured, gallery, histories.get(first) if first else None, plates)


def _is_of(result: Result, model: Any, name: str) -> bool:
    """Tell whether a result is of a model; of one without weights, kind and name must agree too."""
    named = (result.model_kind, result.model_name) == (model_kind(model), model_name(name))
    return has_scored(result, model) and (named or result.weights_digest is not None)


def _scored_alike(result: Result, featured: Result) -> bool:
    of_what = [(r.dataset_digest, r.split, r.num_dims) for r in (result, featured)]
    samples = {r.num_samples for r in (result, featured) if draws(r)}
    return of_what[0] == of_what[1] and len(samples) < 2


def _comparable(featured: Result, shown: Sequence[Result], results: Sequence[Result]) -> list[Result]:
    """Return one result of each model on the featured one's data: those of the models shown first, then the best."""
    chosen: dict[str, Result] = {}
    for result in [*shown, *(group.best for group in seed_groups(results))]:
        if _scored_alike(result, featured):
            chosen.setdefault(model_title(result), result)
    return list(chosen.values())
