"""The first 512 bytes of a file, HDF5's user block: one digest over all the bytes behind them.

`content_sha256` covers the arrays, however they are stored; the seal covers this very file, attributes and structure
included, and is checked without HDF5.
"""

import hashlib
from pathlib import Path
from typing import Final

SEAL_BYTES: Final = 512

_TEXT: Final = "fusion-datasets, HDF5 layout version 1\nSHA-256 of all bytes after the first 512:\n"


def seal(path: Path) -> None:
    """Write the seal of a closed file with a user block."""
    content = _sealed_by(_digest(path))
    with path.open("r+b") as file:
        file.write(content)


def has_seal(path: Path) -> bool:
    """Whether a file begins with a seal, unbroken or not; those of other writers may have none."""
    return not _head(path).startswith(b"\x89HDF\r\n")


def begins_with_seal(path: Path) -> bool:
    """Whether a file, however damaged behind it, begins with the words of a seal."""
    return _head(path).startswith(_TEXT.encode())


def is_sealed(path: Path) -> bool | None:
    """Whether a file is the very one that was sealed; None where it has no seal."""
    return _head(path) == _sealed_by(_digest(path)) if has_seal(path) else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SEAL_BYTES)


def _sealed_by(digest: str) -> bytes:
    return f"{_TEXT}{digest}\n".encode().ljust(SEAL_BYTES - 1) + b"\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(SEAL_BYTES)
        return hashlib.file_digest(file, "sha256").hexdigest()
