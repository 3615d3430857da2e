"""Rendered views as the source of FusionT-LESS: the recipe that a build writes first, then reads as photographs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_datasets.sources.object_views import StandInTless
from fusion_datasets.sources.pictures import DECODER
from fusion_datasets.sources.tless import HELD_OUT, NOTE_KEYS, OCCLUDER_OBJECTS, TARGET_OBJECTS, TlessSource
from fusion_datasets.spec import Split


@dataclass(frozen=True)
class RenderedTless:
    """A recipe for T-LESS's photographs.

    Arguments:
        views: Which views of what.
    """

    views: StandInTless

    @property
    def description(self) -> dict[str, Any]:
        """What a file built from it records of its source, but for the digest."""
        about = {"name": "tless-stand-in", "layout": "tless-bop", "decoder": DECODER, "stand_in": True}
        return about | {key: self.views.note[key] for key in NOTE_KEYS}

    def num_images(self, split: Split) -> int:
        """Targets in a split."""
        held_out = {object_id: self.views.num_views[object_id] // HELD_OUT[1] for object_id in TARGET_OBJECTS}
        if split == "test":
            return sum(held_out.values())
        return sum(self.views.num_views[object_id] - count for object_id, count in held_out.items())

    def num_occluders(self, split: Split) -> int:
        """Views of the objects that are laid over the targets of a split."""
        return sum(self.views.num_views[object_id] for object_id in OCCLUDER_OBJECTS[split])

    def write(self, folder: Path, *, progress: bool = True) -> TlessSource:
        """Render what is not there yet, and open it."""
        self.views.write(folder, progress=progress)
        return TlessSource(folder)
