"""Where commands may write: a report replaces only a report, a result only a result, and nothing else is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusionvae_bench.errors import ResultError


@dataclass(frozen=True)
class Kind:
    """Files that one command writes.

    Attributes:
        title: after "a" or "an".
        suffixes: that their names may have.
        beginnings: one of which every such file begins with, and hardly another.
    """

    title: str
    suffixes: tuple[str, ...]
    beginnings: tuple[str, ...]


def check_output(path: Path, kind: Kind) -> None:
    """Check that a file of a kind may take a name: one that is free, or another such file's.

    Raises:
        ResultError: if the name ends otherwise than such files do, or a file of another kind has it.
    """
    if path.suffix.lower() not in kind.suffixes:
        raise ResultError(f"got {path} for the {kind.title}; name a file ending in {' or '.join(kind.suffixes)}")
    if path.exists() and not (path.is_file() and (path.stat().st_size == 0 or is_of_kind(path, kind))):
        raise ResultError(f"{path} is no {kind.title}, and nothing else is ever replaced; choose another name")


def is_of_kind(path: Path, kind: Kind) -> bool:
    """Tell whether a file begins as those of a kind do, whole or cut short."""
    with path.open("rb") as file:
        start = file.read(max(len(beginning) for beginning in kind.beginnings))
    return any(start.startswith(beginning.encode()) for beginning in kind.beginnings)
