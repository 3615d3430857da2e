"""Folders of object views as T-LESS lays them out: its own layout (version 2) and that of the BOP benchmark."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.rendering import Camera, Pose, View
from fusion_datasets.store import write_atomically

DEPTH_SCALE: Final = 0.1
"""Millimetres of one level of a depth image."""

_PNG_END: Final = b"IEND\xaeB`\x82"
_COMPRESSION: Final = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie.

    Arguments:
        object_folder: Folder of an object, with its id.
        view: Name of a view's files, with its position.
        mask: File of a view's mask, with its position, or None where masks are not part of the layout.
        cameras: File of each view's camera.
        poses: File of each view's pose.
        extents: File of each view's bounding box, or None where the poses hold it.
    """

    object_folder: str
    view: str
    mask: str | None
    cameras: str
    poses: str
    extents: str | None

    def write_camera(self, folder: Path, camera: Camera) -> None:
        """Write what holds of all views."""
        (fx, fy), (cx, cy) = camera.focal_px, camera.centre_px
        if self.extents is not None:
            about = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "depth_scale": DEPTH_SCALE}
            size = {"width": camera.size_px, "height": camera.size_px}
            write_atomically(folder / "camera_primesense.json", _json_lines({**about, **size}))


LAYOUTS: Final = MappingProxyType(
    {
        "bop": Layout(
            "train_primesense/{:06d}",
            "{:06d}.png",
            "mask_visib/{:06d}_000000.png",
            "scene_camera.json",
            "scene_gt.json",
            "scene_gt_info.json",
        ),
        "original": Layout("train_primesense/{:02d}", "{:04d}.png", None, "info.yml", "gt.yml", None),
    }
)
"""Every layout by name."""


@dataclass(frozen=True, slots=True)
class ObjectFolder:
    """The views of one object.

    Arguments:
        root: Folder of the data set.
        layout: How it is laid out.
        object_id: Which object.
    """

    root: Path
    layout: Layout
    object_id: int

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / self.layout.object_folder.format(self.object_id)

    @property
    def is_finished(self) -> bool:
        """Whether all views were there when the poses were written, which happens last."""
        return (self.path / self.layout.poses).is_file()

    def files(self, position: int) -> dict[str, Path]:
        """A view's files by kind, in the order in which they appear."""
        name = self.layout.view.format(position)
        mask = {} if self.layout.mask is None else {"mask": self.path / self.layout.mask.format(position)}
        return {"depth": self.path / "depth" / name, **mask, "rgb": self.path / "rgb" / name}

    def has_view(self, position: int) -> bool:
        """Whether all files of a view are there, down to their last bytes."""
        return all(map(_ends_well, self.files(position).values()))

    def write_view(self, position: int, view: View, workshop: Path) -> None:
        """Write a view's files, each whole or not at all; the picture last.

        Arguments:
            position: Where the view stands.
            view: What was rendered.
            workshop: Where files lie until they are whole, on the same disk.
        """
        images: dict[str, NDArray[Any]] = {
            "depth": np.rint(view.depth_mm / DEPTH_SCALE).astype(np.uint16),
            "mask": 255 * view.mask.astype(np.uint8),
            "rgb": np.ascontiguousarray(view.image[..., ::-1]),
        }
        for kind, path in self.files(position).items():
            done, content = cv2.imencode(".png", images[kind], _COMPRESSION)
            assert done
            temporary = workshop / f"{self.object_id}-{position}-{kind}.{os.getpid()}"
            temporary.write_bytes(content.tobytes())
            try:
                temporary.replace(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(path)

    def finish(self, poses: Sequence[Pose], camera: Camera) -> None:
        """Bring all views to the disk, then write poses and cameras: from now on the folder is complete."""
        extents = []
        for position in range(len(poses)):
            for path in self.files(position).values():
                _settle(path)
            extents.append(self._extent(position, camera.size_px))
        json_too = self.layout.extents is not None
        cameras = {i: _camera_entry(pose, camera) for i, pose in enumerate(poses)}
        ground_truth = {
            i: [_pose_entry(pose, self.object_id) | ({} if json_too else {"obj_bb": extents[i]["bbox_obj"]})]
            for i, pose in enumerate(poses)
        }
        to_bytes = _json_lines if json_too else _yaml
        if self.layout.extents is not None:
            write_atomically(self.path / self.layout.extents, to_bytes({i: [e] for i, e in enumerate(extents)}))
        write_atomically(self.path / self.layout.cameras, to_bytes(cameras))
        write_atomically(self.path / self.layout.poses, to_bytes(ground_truth))

    def _extent(self, position: int, size_px: int) -> dict[str, Any]:
        path = self.files(position)["depth"]
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.shape != (size_px, size_px):
            raise FusionDatasetsError(f"{path} cannot be read back; delete it and run the same command again")
        x, y, width, height = cv2.boundingRect((depth > 0).astype(np.uint8))
        count = int(np.count_nonzero(depth))
        box, counts = [x, y, width, height], dict.fromkeys(("px_count_all", "px_count_valid", "px_count_visib"), count)
        return {"bbox_obj": box, "bbox_visib": box, **counts, "visib_fract": float(count > 0)}


def _camera_entry(pose: Pose, camera: Camera) -> dict[str, Any]:
    elevation = round(pose.elevation)
    matrix = [float(n) for n in camera.matrix.ravel()]
    return {"cam_K": matrix, "depth_scale": DEPTH_SCALE, "elev": elevation, "mode": int(elevation < 0)}


def _pose_entry(pose: Pose, object_id: int) -> dict[str, Any]:
    rotation, translation = ([float(round(n, 8)) for n in array.ravel()] for array in (pose.rotation, pose.translation))
    return {"cam_R_m2c": rotation, "cam_t_m2c": translation, "obj_id": object_id}


def _json_lines(entries: dict[Any, Any]) -> bytes:
    """JSON with a line for each entry, as BOP writes it."""
    lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in entries.items())
    return f"{{\n{lines}\n}}\n".encode()


def _yaml(entries: dict[int, Any]) -> bytes:
    """The YAML of T-LESS's own files: a mapping, or a list of one mapping, for each view."""
    lines = []
    for key, value in entries.items():
        lines.append(f"{key}:\n")
        first, fields = ("- ", value[0]) if isinstance(value, list) else ("  ", value)
        for i, (name, field) in enumerate(fields.items()):
            lines.append(f"{first if i == 0 else '  '}{name}: {json.dumps(field)}\n")
    return "".join(lines).encode()


def _ends_well(path: Path) -> bool:
    """Whether a PNG file is there to its end: one cut by a power failure is not."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def _settle(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
