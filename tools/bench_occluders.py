#!/usr/bin/env python3
"""Measure how well `cut_occluder` finds thirty objects whose masks are known, because their views are rendered.

Each view is cut twice: as rendered, on pure black, and with what a real camera adds, its halo and sensor noise. Printed
are intersections over union with the true masks, what was refused, and the CPU time of a cut.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.occluders import CutError, cut_occluder
from fusion_datasets.rendering import CLEAN, REAL
from fusion_datasets.sources.object_views import StandInTless

PHOTOGRAPHY = {"clean": CLEAN, "with halo and noise": REAL}


def measure(recipe: StandInTless) -> dict[str, dict[str, Any]]:
    """Cut the objects of all views of a recipe, in each photography."""
    overlaps: dict[str, list[tuple[float, int, int]]] = {name: [] for name in PHOTOGRAPHY}
    refused = dict.fromkeys(PHOTOGRAPHY, 0)
    seconds = dict.fromkeys(PHOTOGRAPHY, 0.0)
    for object_id in recipe.objects:
        scene = recipe.scene(object_id)
        for position, pose in enumerate(recipe.poses(object_id)):
            for name, photography in PHOTOGRAPHY.items():
                generator = np.random.default_rng([recipe.seed, object_id, position])
                view = scene.render(pose, photography=photography, generator=generator)
                began = time.process_time()
                try:
                    mask = cut_occluder(view.image).mask
                except CutError:
                    refused[name] += 1
                else:
                    share = float((mask & view.mask).sum() / (mask | view.mask).sum())
                    overlaps[name].append((share, object_id, position))
                seconds[name] += time.process_time() - began
    return {
        name: {
            "views": len(cut) + refused[name],
            "refused": refused[name],
            "median": float(np.median([share for share, *_ in cut])),
            "percentile_5": float(np.quantile([share for share, *_ in cut], 0.05)),
            "lowest": dict(zip(("overlap", "object_id", "view"), min(cut), strict=True)),
            "cpu_ms_per_cut": 1000 * seconds[name] / (len(cut) + refused[name]),
        }
        for name, cut in overlaps.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of T-LESS's CAD models (default: thirty built-in solids)")
    parser.add_argument("--views", type=int, default=30, help="views of each object (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the sensor noise (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        measured = measure(StandInTless(options.models, options.views, options.seed))
    except FusionDatasetsError as error:
        sys.exit(f"Error: {error}")
    if options.json:
        print(json.dumps(measured, indent=2))
        return
    of = "built-in solids" if options.models is None else "CAD models"
    print(f"intersection over union with the true masks, {options.views} views of each of thirty {of}")
    print(f"{'':>20}  median  5th percentile  lowest (object, view)  refused  ms of CPU per cut")
    for name, figures in measured.items():
        overlap, object_id, view = figures["lowest"].values()
        print(
            f"{name:>20}  {figures['median']:.4f}  {figures['percentile_5']:14.4f}  "
            f"{f'{overlap:.4f} ({object_id}, {view})':>21}  {figures['refused']:>2} of {figures['views']}  "
            f"{figures['cpu_ms_per_cut']:8.1f}"
        )


if __name__ == "__main__":
    main()
