"""Files and folders that appear under their final names whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fusionvae_model.errors import FusionVAEError


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its final one, flush it to disk, then rename it.

    Args:
        path: Final name; its folder is created where it is missing.
        content: The whole file.

    Raises:
        FusionVAEError: If the disk refuses, or the name is that of a folder or a device; what stood under it is
            untouched.
    """
    if not path.name or (path.exists() and not path.is_file()):
        raise FusionVAEError(f"cannot write {path}, which is no plain file; choose the name of one")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with stated_failure(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def replace_folder(finished: Path, folder: Path) -> None:
    """Give a finished temporary folder its final name; what stands there steps aside first.

    Killed in between, the name is free: it never stands for a mixture of the two.

    Raises:
        FusionVAEError: If the disk refuses.
    """
    with stated_failure(folder):
        sync_folder(finished)
        remove_folder(folder)
        finished.rename(folder)
        sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, so that no half of it is ever seen under its name."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)


def sync_folder(folder: Path) -> None:
    """Ask the file system to make the folder's entries durable, where it takes such a request."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def stated_failure(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one sentence about the path."""
    try:
        yield
    except OSError as error:
        raise FusionVAEError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable and has room"
        ) from error
