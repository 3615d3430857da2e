"""Where commands may write: a report replaces only a report, a result only a result, and nothing else is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from fusionvae_bench.errors import ResultError
from fusionvae_bench.records import FIELDS
from fusionvae_bench.results import FORMAT

Format = Literal["md", "latex", "html", "csv", "json", "hf-eval-results"]
FORMATS: tuple[Format, ...] = get_args(Format)


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


REPORTS: Mapping[Format, Kind] = MappingProxyType(
    {
        "md": Kind("report in Markdown", (".md", ".txt"), ("# Results\n",)),
        "latex": Kind("report in LaTeX", (".tex",), ("\\documentclass{article}\n\\usepackage[a4paper,landscape",)),
        "html": Kind("page", (".html", ".htm"), ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',)),
        "csv": Kind("report in CSV", (".csv",), (",".join(FIELDS) + "\n",)),
        "json": Kind("report in JSON", (".json",), ('{\n "numbers": [',)),
        "hf-eval-results": Kind("file of evaluation results", (".yaml", ".yml"), ("- dataset:\n    id: ", "[]\n")),
    }
)
"""What `fusion-bench report` writes."""

RESULT = Kind("result", (".json",), (f'{{\n "format": "{FORMAT}"',))
"""What `fusion-bench run` writes."""


def report_format(path: Path) -> Format:
    """Return the format that a report's name asks for.

    Raises:
        ResultError: if it asks for none.
    """
    for form, kind in REPORTS.items():
        if path.suffix.lower() in kind.suffixes:
            return form
    known = ", ".join(suffix for kind in REPORTS.values() for suffix in kind.suffixes)
    raise ResultError(f"got {path} for the report; name a file ending in {known}")


def check_output(path: Path, kind: Kind) -> None:
    """Check that a file of a kind may take a name: one that is free, or another such file's.

    Raises:
        ResultError: if the name ends otherwise than such files do, or a file of another kind has it.
    """
    if path.suffix.lower() not in kind.suffixes:
        raise ResultError(f"got {path} for the {kind.title}; name a file ending in {' or '.join(kind.suffixes)}")
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(max(len(beginning) for beginning in kind.beginnings))
    if start and not any(start.startswith(beginning.encode()) for beginning in kind.beginnings):
        raise ResultError(f"{path} is no {kind.title}, and nothing else is ever replaced; choose another name")
