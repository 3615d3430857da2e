"""The formats of a report, and how its files are told from others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from fusionvae_bench.errors import ResultError
from fusionvae_bench.outputs import Kind
from fusionvae_bench.records import FIELDS

Format = Literal["md", "latex", "html", "csv", "json", "hf-eval-results"]
FORMATS: tuple[Format, ...] = get_args(Format)

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
