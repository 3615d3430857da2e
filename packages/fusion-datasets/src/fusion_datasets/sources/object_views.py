"""Stand-ins for T-LESS's training photographs: rendered views of its CAD models, or of thirty solids like them.

They come in the original's layouts. A view is a function of (recipe, object, position) alone, its files appear whole or
not at all, and an interrupted rendering goes on where it was.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.locking import locked
from fusion_datasets.processes import spread
from fusion_datasets.progress import Progress
from fusion_datasets.rendering import CLEAN, PRIMESENSE, REAL, Material, Pose, Scene, read_ply, view_sphere
from fusion_datasets.rendering.solids import solid
from fusion_datasets.sources.object_layouts import LAYOUTS, ObjectFolder
from fusion_datasets.store import write_atomically

RENDERER: Final = 1
"""Counts up whenever the same recipe comes to mean other images."""

OBJECTS: Final = tuple(range(1, 31))
UPPER_HALF: Final = (19, 20)
"""Objects that look the same from below."""

SOLIDS_COUNT: Final = 30
"""Views of each built-in solid, unless told otherwise; each CAD model has its whole view sphere."""

STAND_IN_NOTE: Final = "STAND-IN.json"
LICENSES: Final = {"solids": "CC0-1.0", "models": "CC-BY-4.0"}

_CHUNK: Final = 72  # views that a process renders between two reports
_WORKSHOP: Final = ".rendering"
_LARGEST_MM: Final = 118.0  # a sphere of this radius fills the frame


@dataclass(frozen=True, slots=True)
class Chunk:
    """Views of one object, by their positions in its folder."""

    object_id: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class StandInTless:
    """A recipe for views in the layout of T-LESS's training photographs.

    Arguments:
        models: Folder of CAD models (`obj_01.ply` or `obj_000001.ply`, …), or None for built-in solids.
        count: Views of each object, spread evenly over its view sphere; None for all of them (of built-in solids, 30).
        seed: Of the sensor noise, ≥ 0.
        clean: Without halo, sharpening and noise.
        layout: `"bop"` or `"original"`.
        objects: Object ids.

    Raises:
        FusionDatasetsError: If a number is out of range, or a model is missing.
    """

    models: Path | None = None
    count: int | None = None
    seed: int = 0
    clean: bool = False
    layout: str = "bop"
    objects: tuple[int, ...] = OBJECTS

    def __post_init__(self) -> None:
        if self.seed < 0 or (self.count is not None and self.count < 1):
            raise FusionDatasetsError(f"got {self.count} views and seed {self.seed}; expected ≥ 1 and ≥ 0")
        if self.layout not in LAYOUTS:
            raise FusionDatasetsError(f"got the layout {self.layout!r}; expected {' or '.join(LAYOUTS)}")
        if unknown := sorted(set(self.objects) - set(OBJECTS)):
            raise FusionDatasetsError(f"got object {unknown[0]}; expected ids from 1 to {OBJECTS[-1]}")
        if self.models is not None:
            for object_id in self.objects:
                self._model(object_id)

    def poses(self, object_id: int) -> list[Pose]:
        """The views of an object, in the order of their positions."""
        sphere = view_sphere(upper_half=object_id in UPPER_HALF)
        count = SOLIDS_COUNT if self.count is None and self.models is None else self.count
        return sphere if count is None or count >= len(sphere) else [sphere[i] for i in _spread_out(count, len(sphere))]

    @cached_property
    def num_views(self) -> dict[int, int]:
        """Object id → number of views."""
        return {object_id: len(self.poses(object_id)) for object_id in self.objects}

    @cached_property
    def note(self) -> dict[str, Any]:
        """What the views depend on, as it lies beside them."""
        return {
            "name": "tless-stand-in",
            "seed": self.seed,
            "renderer": RENDERER,
            "license": LICENSES["solids" if self.models is None else "models"],
            "models": "built-in solids" if self.models is None else self._models_digest(),
            "photography": "clean" if self.clean else "real",
            "layout": self.layout,
            "views": {str(object_id): count for object_id, count in self.num_views.items()},
        }

    def write(self, folder: Path, *, workers: int = 1, progress: bool = True) -> int:
        """Render what is not there yet.

        Arguments:
            folder: Made if missing; holds nothing but this very stand-in.
            workers: Processes; the content does not depend on it.
            progress: Report on stderr.

        Returns:
            How many views were rendered now.

        Raises:
            FusionDatasetsError: If the folder holds anything else, or a model cannot be used.
        """
        if workers < 1:
            raise FusionDatasetsError(f"got {workers} workers; expected at least 1")
        self.require_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        workshop = folder / _WORKSHOP
        workshop.mkdir(exist_ok=True)
        with locked(workshop):
            write_atomically(folder / STAND_IN_NOTE, self._note_bytes)  # first of all: no look-alike without it
            LAYOUTS[self.layout].write_camera(folder, PRIMESENSE)
            total = sum(self.num_views.values())
            missing = {object_id: self.missing(folder, object_id) for object_id in self.objects}
            left = {object_id: len(positions) for object_id, positions in missing.items()}
            todo = sum(left.values())
            chunks = [
                Chunk(object_id, tuple(positions[i : i + _CHUNK]))
                for object_id, positions in missing.items()
                for i in range(0, len(positions), _CHUNK)
            ]
            writer = _ViewWriter(self, folder)
            with Progress("views", total, done=total - todo, shown=progress) as bar:
                for chunk, _ in spread(writer.write, chunks, min(workers, len(chunks))):
                    bar.advance(len(chunk.positions))
                    left[chunk.object_id] -= len(chunk.positions)
                    if not left[chunk.object_id]:
                        self._finish(folder, chunk.object_id)
            for object_id in self.objects:  # stopped between the last view and this
                if not self._folder(folder, object_id).is_finished:
                    self._finish(folder, object_id)
        shutil.rmtree(workshop, ignore_errors=True)
        return todo

    def require_own(self, folder: Path) -> None:
        """Refuse a folder that holds anything else than this very stand-in, or a part of it."""
        note = folder / STAND_IN_NOTE
        if note.is_file():
            if note.read_bytes() != self._note_bytes:
                raise FusionDatasetsError(f"{folder} holds another stand-in; choose another folder")
        elif folder.is_dir() and any(child.name != _WORKSHOP for child in folder.iterdir()):
            raise FusionDatasetsError(f"{folder} holds other files; choose an empty folder")

    def missing(self, folder: Path, object_id: int) -> list[int]:
        """Positions of an object's views that are not in the folder yet."""
        own = self._folder(folder, object_id)
        return [] if own.is_finished else [i for i in range(self.num_views[object_id]) if not own.has_view(i)]

    def scene(self, object_id: int) -> Scene:
        """An object, ready to be rendered."""
        mesh = solid(object_id) if self.models is None else read_ply(self._model(object_id))
        if mesh.radius > _LARGEST_MM:
            raise FusionDatasetsError(
                f"{'the solid' if self.models is None else self._model(object_id)} reaches {mesh.radius:.0f} mm from "
                f"its origin; expected millimetres, and at most {_LARGEST_MM:.0f}"
            )
        return Scene(mesh, material(object_id))

    def _folder(self, folder: Path, object_id: int) -> ObjectFolder:
        return ObjectFolder(folder, LAYOUTS[self.layout], object_id)

    def _finish(self, folder: Path, object_id: int) -> None:
        self._folder(folder, object_id).finish(self.poses(object_id), PRIMESENSE)

    @cached_property
    def _note_bytes(self) -> bytes:
        return (json.dumps(self.note, indent=1) + "\n").encode()

    def _model(self, object_id: int) -> Path:
        assert self.models is not None
        names = [f"obj_{object_id:02d}.ply", f"obj_{object_id:06d}.ply"]
        for path in (self.models / sub / name for sub in ("", "models_cad") for name in names):
            if path.is_file():
                return path
        raise FusionDatasetsError(
            f"{self.models} lacks {names[0]}; expected the CAD models of T-LESS there, obj_01.ply … obj_30.ply"
        )

    def _models_digest(self) -> str:
        sha = hashlib.sha256()
        for object_id in self.objects:
            with self._model(object_id).open("rb") as file:
                sha.update(f"{object_id} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class _ViewWriter:
    """Renders chunks into files; small and picklable, to be sent to other processes."""

    recipe: StandInTless
    folder: Path

    def write(self, chunk: Chunk) -> None:
        recipe = self.recipe
        scene, poses = _scene(recipe, chunk.object_id), recipe.poses(chunk.object_id)
        photography = CLEAN if recipe.clean else REAL
        own = ObjectFolder(self.folder, LAYOUTS[recipe.layout], chunk.object_id)
        for position in chunk.positions:
            generator = np.random.default_rng([recipe.seed, chunk.object_id, position])
            view = scene.render(poses[position], photography=photography, generator=generator)
            own.write_view(position, view, self.folder / _WORKSHOP)


@lru_cache(maxsize=1)
def _scene(recipe: StandInTless, object_id: int) -> Scene:
    return recipe.scene(object_id)  # a process meets its chunks object by object


def material(object_id: int) -> Material:
    """The plastic of an object: near white, now and then yellowish or grey, more or less glossy."""
    value, warmth, gloss, shininess = np.random.default_rng([2017, object_id]).random(4)
    grey = 0.76 - 0.24 * value**2
    tint = 0.04 * (warmth - 0.2)
    return Material((grey + tint, grey + 0.02, grey - 1.5 * tint), 0.2 + 0.25 * gloss, 24 + 50 * shininess)


def _spread_out(count: int, total: int) -> list[int]:
    """Positions spread evenly over a view sphere of so many views: ring by ring, turned by the golden angle."""
    rings, chosen = total // 72, list[int]()
    for i in range(count):
        ring, azimuth = i * rings // count, int(72 * (i * 0.6180339887 % 1))
        while (position := 72 * ring + azimuth % 72) in chosen:
            azimuth += 1
        chosen.append(position)
    return sorted(chosen)
