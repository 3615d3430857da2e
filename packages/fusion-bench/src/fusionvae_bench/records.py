"""Tables as records, for programs: CSV, JSON, and the evaluation results of the Hugging Face Hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from fusionvae_bench.results import AVERAGE, Result
from fusionvae_bench.rows import model_title
from fusionvae_bench.tables import DIFFERENCE, PAPER, SettingsTable, Table

FIELDS = ("table", "stand_in", "model", "whose", "metric", "num_inputs", "value", "error", "best", "result", "digest")


def records(tables: Sequence[Table | SettingsTable]) -> Iterator[dict[str, Any]]:
    """Yield one record for each number in the tables; `FIELDS` are its keys.

    Settings have no number of inputs; differences can be had by subtraction and are left out.
    """
    for table in tables:
        if isinstance(table, SettingsTable):
            for name, cells in table.rows.items():
                for benchmark, pair in zip(table.benchmarks, cells, strict=True):
                    for whose, value in zip((PAPER, "here"), pair, strict=True):
                        yield _record(table.number, False, benchmark, whose, name, value=value)
            continue
        for line in table.lines:
            if line.role == DIFFERENCE:
                continue
            for position, cell in enumerate(line.cells):
                block = table.blocks[position // len(table.columns)]
                yield {
                    **_record(table.number, table.is_stand_in, line.model, line.role, block.heading),
                    "num_inputs": table.columns[position % len(table.columns)],
                    "value": cell.value,
                    "error": cell.error,
                    "best": cell.is_best,
                    "result": line.result.model_name if line.result else None,
                    "digest": line.result.weights_digest if line.result else None,
                }


def _record(number: int | None, stand_in: bool, model: str, whose: str, metric: str, **more: Any) -> dict[str, Any]:
    fixed = {"table": number, "stand_in": stand_in, "model": model, "whose": whose, "metric": metric}
    return {**dict.fromkeys(FIELDS), **fixed, **more}


def to_csv(tables: Sequence[Table | SettingsTable]) -> str:
    """Render as CSV, a line for each number; what is not there is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(tables))
    return text.getvalue()


def to_json(tables: Sequence[Table | SettingsTable], results: Sequence[Result]) -> str:
    """Render as one JSON object: ``numbers``, a record each, and the ``results`` they come from."""
    document = {"numbers": list(records(tables)), "results": [result.to_dict() for result in results]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_eval_results(results: Sequence[Result], dataset_id: str) -> str:
    """Render as a file for the folder ``.eval_results`` of a model on the Hugging Face Hub.

    Args:
        results: on the originals; stand-ins are left out.
        dataset_id: of the benchmark on the Hub, ``owner/name``.
    """
    lines = []
    for result in results:
        score = result.score(AVERAGE)
        if result.is_stand_in or score is None:
            continue
        metrics = {"nll_bits_per_dim": score.nll_bits_per_dim, "mse_min": score.mse_min}
        for metric, value in metrics.items():
            if value is None:
                continue
            note = (
                f"{model_title(result)}: mean over 0 to 3 inputs, {result.images} of {result.title} "
                f"({result.split}), S = {result.num_samples}, less is better"
            )
            lines += [  # every JSON string is a YAML string
                "- dataset:",
                f"    id: {json.dumps(dataset_id)}",
                f"    task_id: {json.dumps(f'{result.benchmark}-{metric}')}",
                f"  value: {value!r}",
                f"  date: {json.dumps(result.created[:10])}",
                f"  notes: {json.dumps(note, ensure_ascii=False)}",
            ]
    return "\n".join([*lines, ""]) if lines else "[]\n"
