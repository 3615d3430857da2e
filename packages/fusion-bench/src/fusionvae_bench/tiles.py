"""Tiles of rows: the unit of evaluation. Each has its own random streams and, once scored, its own file.

A tile is aligned to the rows of the data set, so that no score depends on how many images are asked for, on how
they are shared out, or on where an earlier run was interrupted.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import ResultError

TILE_ROWS = 20

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
        )
    ]
)
"""Scores of one image under one number of inputs; NaN where the model does not offer them."""

Scores = NDArray[np.void]
"""Array [rows, numbers of inputs] of `SCORE`."""


@dataclass(frozen=True)
class Tile:
    """Rows ``start … stop - 1`` of the data set; all of a tile's rows are scored together or not at all."""

    number: int
    start: int
    stop: int

    def generator(self, seed: int, *purpose: int, device: torch.device) -> torch.Generator:
        """Return the random stream of (seed, tile, purpose)."""
        entropy = np.random.SeedSequence([seed, self.number, *purpose]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(entropy[0] >> 1))


def tiles(num_images: int, num_rows: int) -> Iterator[Tile]:
    """Yield the tiles that cover the first images.

    The last tile may reach beyond ``num_images``: its surplus is scored and left out, which keeps the random
    streams of its other rows what they are.

    Args:
        num_images: images asked for.
        num_rows: rows of the data set.
    """
    for number, start in enumerate(range(0, num_images, TILE_ROWS)):
        yield Tile(number, start, min(start + TILE_ROWS, num_rows))


class TileStore:
    """The finished tiles of an unfinished evaluation: a folder beside the result file.

    Args:
        folder: where the tiles lie.
        fingerprint: identity of weights, data and settings; tiles of another one are refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        identity = folder / "fingerprint"
        if identity.is_file() and identity.read_text(encoding="utf-8") != fingerprint:
            raise ResultError(
                f"{folder} holds an unfinished evaluation of other weights, data or settings; "
                "repeat those to resume it, or pass --force to discard it"
            )
        if not identity.is_file():
            self.discard()  # tiles without an identity cannot be trusted
            write_atomically(identity, fingerprint.encode())

    def read(self, tile: Tile) -> tuple[Scores, float] | None:
        """Return scores and seconds of a finished tile, or None."""
        path = self._path(tile)
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                return stored["scores"], float(stored["seconds"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it to score its rows again") from error

    def write(self, tile: Tile, scores: Scores, seconds: float) -> None:
        """Keep a finished tile."""
        buffer = io.BytesIO()
        np.savez(buffer, scores=scores, seconds=np.float64(seconds))
        write_atomically(self._path(tile), buffer.getvalue())

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, tile: Tile) -> Path:
        return self.folder / f"tile-{tile.number:06d}.npz"
