"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fusionvae_bench.errors import ResultError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its final one, flush it to disk, then rename it.

    Args:
        path: final name; its folder is created where it is missing.
        content: the whole file.

    Raises:
        ResultError: if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable and has room"
        ) from error
