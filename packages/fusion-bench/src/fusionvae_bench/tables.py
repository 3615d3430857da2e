"""Tables: the paper's and ours, line below line, with the difference and its standard error.

Scores of stand-in images never stand beside the paper's: they get a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from fusionvae_bench.metrics import nats_from_bits_per_dim
from fusionvae_bench.paper import COLUMNS, NUM_DIMS, NUM_SAMPLES, TABLES, ScoreTable
from fusionvae_bench.results import Result, Score

Role = Literal["paper", "here", "difference"]

MODEL_NAMES = {
    "fcn": "FCN",
    "fcn-skip": "FCN+S",
    "cvae": "CVAE",
    "cvae-skip": "CVAE+S",
    "fusionvae": "FusionVAE",
}
"""Kind of model → row of the paper's Tables 1–3."""

DASH = "–"
_MINUS = "−"


@dataclass(frozen=True)
class Cell:
    """A number, or none, as it will be printed.

    Attributes:
        value: in the unit of its block.
        error: standard error over images.
        is_best: least in its column, printed bold.
    """

    value: float | None = None
    error: float | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Block:
    """Five neighbouring columns: one metric in one unit.

    Attributes:
        heading: metric and unit.
        decimals: digits after the point.
        paper: the paper's value of (row, column), in this unit; None if it has none.
        here: (value, standard error) of a score, in this unit.
    """

    heading: str
    decimals: int
    paper: Callable[[str, int], float | None]
    here: Callable[[Score], tuple[float | None, float | None]]


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        model: name of the row; repeated on each of its lines.
        role: whose numbers these are.
        cells: over all columns of all blocks.
        result: where our numbers come from, if we have any.
    """

    model: str
    role: Role
    cells: tuple[Cell, ...]
    result: Result | None = None


@dataclass(frozen=True)
class Table:
    """Headings and lines, ready to be rendered."""

    title: str
    blocks: tuple[Block, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def decimals(self, column: int) -> int:
        """Return the digits after the point of a column, counted over all blocks."""
        return self.blocks[column // len(COLUMNS)].decimals


def score_tables(results: Sequence[Result], number: int = 1) -> list[Table]:
    """Lay results beside one of the paper's Tables 1–3.

    Args:
        results: of any benchmark; those of another one are left out.
        number: of the paper's table.

    Returns:
        For results on the originals, or none at all: the paper's table with them in it, in its units and in nats.
        Before that, for results on stand-ins: a table of theirs alone.
    """
    table = TABLES[number]
    ours = [r for r in results if r.benchmark == table.benchmark]
    stand_ins, originals = [r for r in ours if r.is_stand_in], [r for r in ours if not r.is_stand_in]
    units = (("", (_bits_block(table), _mse_block(table))), (", in nats", (_nats_block(table),)))
    tables = []
    if stand_ins:
        title = f"Stand-in images in the layout of {stand_ins[0].title}, not the originals"
        for unit, blocks in units:
            lines = [_here(r, blocks) for r in stand_ins]
            tables.append(Table(f"{title}{unit}.", blocks, tuple(_with_best(lines)), tuple(_notes(stand_ins, table))))
    for unit, blocks in units:
        title = f"Table {number}: {table.caption.removesuffix('.')}{unit}."
        if stand_ins and not originals:
            title += " The paper's numbers, for orientation only."
        tables.append(Table(title, blocks, _beside(originals, table, blocks), tuple(_notes(originals, table))))
    return tables


def _beside(results: list[Result], table: ScoreTable, blocks: tuple[Block, ...]) -> tuple[Line, ...]:
    heres = _with_best([_here(r, blocks) for r in results])
    lines = []
    for paper in _with_best([_paper(model, blocks) for model in table.mse_min]):
        lines.append(paper)
        mine = [here for here in heres if here.model == paper.model]
        for here in mine:
            lines += [here, _difference(paper, here)]
        if not mine:
            lines.append(Line(paper.model, "here", (Cell(),) * len(paper.cells)))
    return (*lines, *(here for here in heres if here.model not in table.mse_min))


def _paper(model: str, blocks: tuple[Block, ...]) -> Line:
    cells = [Cell(block.paper(model, column)) for block in blocks for column in range(len(COLUMNS))]
    return Line(model, "paper", tuple(cells))


def _here(result: Result, blocks: tuple[Block, ...]) -> Line:
    cells = []
    for block in blocks:
        for column in COLUMNS:
            score = result.score(column)
            cells.append(Cell(*block.here(score)) if score else Cell())
    return Line(model_title(result), "here", tuple(cells), result)


def _difference(paper: Line, here: Line) -> Line:
    cells = [
        Cell(ours.value - theirs.value, ours.error) if ours.value is not None and theirs.value is not None else Cell()
        for theirs, ours in zip(paper.cells, here.cells, strict=True)
    ]
    return Line(paper.model, "difference", tuple(cells))


def _with_best(lines: list[Line]) -> list[Line]:
    """Mark the least value of every column; the best of one is no distinction."""
    if len(lines) < 2:
        return lines
    columns = zip(*(line.cells for line in lines), strict=True)
    least = [min((c.value for c in column if c.value is not None), default=None) for column in columns]
    marked = []
    for line in lines:
        cells = (
            replace(c, is_best=c.value is not None and c.value == best)
            for c, best in zip(line.cells, least, strict=True)
        )
        marked.append(replace(line, cells=tuple(cells)))
    return marked


def _bits_block(table: ScoreTable) -> Block:
    def here(score: Score) -> tuple[float | None, float | None]:
        if score.nll_nats is None or score.nll_bits_per_dim is None:
            return None, None
        per_nat = 100 * score.nll_bits_per_dim / score.nll_nats
        return 100 * score.nll_bits_per_dim, _scaled(score.nll_standard_error, per_nat)

    return Block(
        "NLL, 10⁻² bits per dim", table.nll_decimals,
        lambda row, column: table.nll[row][column] if row in table.nll else None, here,
    )  # fmt: skip


def _nats_block(table: ScoreTable) -> Block:
    num_dims = NUM_DIMS[table.benchmark]

    def paper(row: str, column: int) -> float | None:
        return nats_from_bits_per_dim(table.nll[row][column] / 100, num_dims) if row in table.nll else None

    return Block("NLL, nats per image", 1, paper, lambda score: (score.nll_nats, score.nll_standard_error))


def _mse_block(table: ScoreTable) -> Block:
    return Block(
        "MSE_min, 10⁻²", 2,
        lambda row, column: table.mse_min[row][column],
        lambda score: (_scaled(score.mse_min, 100), _scaled(score.mse_min_standard_error, 100)),
    )  # fmt: skip


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _notes(results: list[Result], table: ScoreTable) -> list[str]:
    if not results:
        return []
    notes = [
        "± is the standard error over the images scored; avg is the plain mean of the four here, the paper's as "
        "printed."
    ]
    paper_samples = NUM_SAMPLES[table.benchmark]
    if others := sorted({r.num_samples for r in results} - {paper_samples}):
        notes.append(
            f"S = {', '.join(map(str, others))} here, {paper_samples} in the paper: with fewer samples both NLL and "
            "MSE_min come out larger."
        )
    return notes


def model_title(result: Result) -> str:
    """Return the paper's name of a model, or its own where the paper knows none."""
    return MODEL_NAMES.get(result.model_kind, result.model_name)


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """Print a number with a true minus sign, or a dash."""
    if value is None:
        return DASH
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", _MINUS)


def cell_text(cell: Cell, decimals: int, role: Role) -> str:
    """Print a cell, its standard error included."""
    text = number(cell.value, decimals, signed=role == "difference")
    return text if cell.value is None or cell.error is None else f"{text} ± {cell.error:.{decimals}f}"


def to_markdown(table: Table) -> str:
    """Render as a Markdown table with its title and notes."""
    heads = list(COLUMNS) * len(table.blocks)
    for position, block in enumerate(table.blocks):
        heads[position * len(COLUMNS)] = f"{block.heading}: k = {COLUMNS[0]}"
    rows = [["model", "", *heads], ["---", "---", *["---:"] * len(heads)]]
    previous = None
    for line in table.lines:
        texts = []
        for column, cell in enumerate(line.cells):
            text = cell_text(cell, table.decimals(column), line.role)
            texts.append(f"**{text}**" if cell.is_best else text)
        label = f"{line.role} ({_detail(line.result)})" if line.result else line.role
        rows.append([line.model if line.model != previous else "", label, *texts])
        previous = line.model
    lines = [f"**{table.title}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join([*lines, "", *table.notes, ""])


def to_html(table: Table) -> str:
    """Render as an HTML table; styling is the page's."""
    span = len(COLUMNS)
    parts = ["<thead><tr><th rowspan='2' scope='col'>Model</th><th rowspan='2'></th>"]
    parts += [f"<th colspan='{span}' scope='colgroup'>{_typeset(block.heading)}</th>" for block in table.blocks]
    parts.append("</tr><tr>")
    parts += [f"<th scope='col'>{column}</th>" for _ in table.blocks for column in COLUMNS]
    parts.append("</tr></thead>")
    models = list(dict.fromkeys(line.model for line in table.lines))
    for model in models:
        lines = [line for line in table.lines if line.model == model]
        parts.append("<tbody>")
        for position, line in enumerate(lines):
            name = f"<th rowspan='{len(lines)}' scope='rowgroup'>{escape(model)}</th>" if position == 0 else ""
            cells = "".join(
                _html_cell(cell, table.decimals(column), line.role, starts=column % span == 0)
                for column, cell in enumerate(line.cells)
            )
            label: str = line.role
            if line.result:
                detail, short = escape(_detail(line.result), quote=True), escape(line.result.model_name)
                label += f" <small title='{detail}'>{short}</small>"
            parts.append(f"<tr class='{line.role}'>{name}<td class='role'>{label}</td>{cells}</tr>")
        parts.append("</tbody>")
    return f"<table class='scores'>{''.join(parts)}</table>"


def _html_cell(cell: Cell, decimals: int, role: Role, *, starts: bool) -> str:
    text = escape(number(cell.value, decimals, signed=role == "difference"))
    if cell.is_best:
        text = f"<b>{text}</b>"
    if cell.value is not None and cell.error is not None:
        text += f" <small>±&#8239;{cell.error:.{decimals}f}</small>"
    return f"<td{' class=starts' if starts else ''}>{text}</td>"


def _detail(result: Result) -> str:
    return f"{result.model_name}, {result.num_images} images, S = {result.num_samples}"


def _typeset(heading: str) -> str:
    return escape(heading).replace("MSE_min", "MSE<sub>min</sub>")
