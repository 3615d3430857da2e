"""Tiles of rows: the unit of evaluation. Each has its own random streams and, once scored, its own file.

A tile is aligned to the rows of the data set, so that no score depends on how many images are asked for, on how
they are shared out, or on where an earlier run was interrupted.
"""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import ResultError

TILE_ROWS = 20
_POLL_SECONDS = 0.2

POSTERIOR, PRIOR = 0, 1
"""What randomness is for; part of the seed of a stream."""

SCORE = np.dtype(
    [
        (name, np.float64)
        for name in (
            "nll_nats",
            "nll_sampling_error",
            "ess",
            "pareto_k",
            "mse_min",
            "mse_one",
            "mse_mean",
            "pixel_standard_deviation",
            "mse_visible",
            "mse_hidden",
        )
    ]
)
"""Scores of one image under one number of inputs; NaN where the model does not offer them."""

Scores = NDArray[np.void]
"""Array [rows, numbers of inputs] of `SCORE`."""

CALIBRATION_BINS = 20
"""Bins of the predicted standard deviation, equally wide from 0 to ½, the most that values in [0, 1] can have."""


@dataclass(frozen=True)
class TileScores:
    """What is known of a tile's rows.

    Attributes:
        scores: [rows, numbers of inputs].
        calibration: [rows, numbers of inputs, `CALIBRATION_BINS`, 3]: of the pixels whose predicted standard deviation
            falls into the bin, their number, the sum of the predicted variances, the sum of the squared errors.
        seconds: spent on it.
    """

    scores: Scores
    calibration: NDArray[np.float64]
    seconds: float


@dataclass(frozen=True)
class Share:
    """The tiles of one process among several: every ``count``-th one, so that nothing needs to be negotiated.

    Attributes:
        rank: of the process, from 0; the process of rank 0 puts the tiles together.
        count: how many processes there are.
    """

    rank: int = 0
    count: int = 1

    def of(self, tiles: Sequence[Tile]) -> Sequence[Tile]:
        """Return this process's tiles."""
        return tiles[self.rank :: self.count]


ALONE = Share()
"""The share of a process that has no others beside it: every tile."""


@dataclass(frozen=True)
class Tile:
    """Rows ``start … stop - 1`` of the data set; all of a tile's rows are scored together or not at all.

    Attributes:
        number: of the tile, counted from the start of the data set.
        start: its first row.
        stop: the row after its last.
        kept: how many of its rows, from the first, were asked for.
    """

    number: int
    start: int
    stop: int
    kept: int

    def generator(self, seed: int, *purpose: int, device: torch.device) -> torch.Generator:
        """Return the random stream of (seed, tile, purpose)."""
        entropy = np.random.SeedSequence([seed, self.number, *purpose]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(entropy[0]) >> 1)


def tiles(num_images: int, num_rows: int, *, evenly_spaced: bool = False) -> Iterator[Tile]:
    """Yield the tiles that cover so many images.

    The last tile may reach beyond ``num_images``: its surplus is scored and left out, which keeps the random
    streams of its other rows what they are.

    Args:
        num_images: images asked for, at most ``num_rows``.
        num_rows: rows of the data set.
        evenly_spaced: tiles at even distances from the first one to the end, instead of the first ones.
    """
    wanted, available = _tiles_of(num_images), _tiles_of(num_rows)
    for position in range(wanted):
        number = position * available // wanted if evenly_spaced else position
        start = number * TILE_ROWS
        stop = min(start + TILE_ROWS, num_rows)
        yield Tile(number, start, stop, min(stop - start, num_images - position * TILE_ROWS))


def leaves_gaps(num_images: int, num_rows: int) -> bool:
    """Tell whether so many evenly spaced images leave whole tiles out."""
    return _tiles_of(num_images) < _tiles_of(num_rows)


def _tiles_of(num_rows: int) -> int:
    return -(-num_rows // TILE_ROWS)


class TileStore:
    """The finished tiles of an unfinished evaluation: a folder beside the result file, or memory.

    Several processes may fill one folder. The process of rank 0 sets it up, the others wait for that.

    Args:
        folder: where the tiles lie; None keeps them in memory.
        fingerprint: identity of weights, data and settings; tiles of another one are refused.
        rank: of this process.

    Raises:
        ResultError: if the folder holds tiles of something else.
    """

    def __init__(self, folder: Path | None, fingerprint: str, *, rank: int = 0) -> None:
        self.folder = folder
        self._memory: dict[int, TileScores] = {}
        if folder is None:
            return
        identity = folder / "fingerprint"
        while rank and not identity.is_file():
            time.sleep(_POLL_SECONDS)
        if identity.is_file() and identity.read_bytes() != fingerprint.encode():
            raise ResultError(
                f"{folder} holds an unfinished evaluation of other weights, data or settings; "
                "repeat those to resume it, or pass --force to discard it"
            )
        if not identity.is_file():
            self.clear(folder)  # tiles without an identity cannot be trusted
            write_atomically(identity, fingerprint.encode())

    def __contains__(self, tile: Tile) -> bool:
        return tile.number in self._memory if self.folder is None else self._path(self.folder, tile).is_file()

    def read(self, tile: Tile) -> TileScores:
        """Return a tile, once whoever scores it has finished.

        Raises:
            ResultError: if its file is damaged.
        """
        if self.folder is None:
            return self._memory[tile.number]
        while tile not in self:
            time.sleep(_POLL_SECONDS)
        path = self._path(self.folder, tile)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                return TileScores(stored["scores"], stored["calibration"], float(stored["seconds"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it to score its rows again") from error

    def write(self, tile: Tile, finished: TileScores) -> None:
        """Keep a finished tile."""
        if self.folder is None:
            self._memory[tile.number] = finished
            return
        buffer = io.BytesIO()
        np.savez(buffer, scores=finished.scores, calibration=finished.calibration, seconds=np.float64(finished.seconds))
        write_atomically(self._path(self.folder, tile), buffer.getvalue())

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove what was finished, of whatever it is."""
        for path in (folder / "fingerprint", *folder.glob("tile-*.npz")):  # first what makes tiles count
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _path(folder: Path, tile: Tile) -> Path:
        return folder / f"tile-{tile.number:06d}.npz"
