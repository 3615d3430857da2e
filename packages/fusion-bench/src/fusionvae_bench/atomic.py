"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from fusionvae_bench.errors import ResultError
from fusionvae_model import FusionVAEError
from fusionvae_model.atomic import write_file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: final name; its folder is created where it is missing.
        content: the whole file.

    Raises:
        ResultError: if the disk refuses.
    """
    try:
        write_file(path, content)
    except FusionVAEError as error:
        raise ResultError(str(error)) from error
