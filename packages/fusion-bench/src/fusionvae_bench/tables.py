"""The paper's tables with ours beside them: paper, here, difference, line below line.

Scores of stand-in images never stand beside the paper's: they get tables of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fusion_datasets import BENCHMARKS
from fusionvae_bench.metrics import nats_from_bits_per_dim
from fusionvae_bench.paper import COLUMNS, HYPERPARAMETERS, NUM_DIMS, NUM_SAMPLES, SPREADS, TABLES, ScoreTable
from fusionvae_bench.results import AVERAGE, Result, Score
from fusionvae_bench.rows import ROWS, model_title, row_title
from fusionvae_bench.seeds import SeedGroup, seed_groups
from fusionvae_model import PRESETS

ALL_TABLES = tuple(range(1, 13))

DASH = "–"

PAPER, HERE, DIFFERENCE = "paper", "here", "difference"
"""Whose numbers a line holds; "mean of 3" is another."""


@dataclass(frozen=True)
class Cell:
    """A number, or none, as it will be printed.

    Attributes:
        value: in the unit of its block.
        error: standard error over images; standard deviation over seeds in lines that are means over seeds.
        is_best: least in its column, printed bold.
    """

    value: float | None = None
    error: float | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Block:
    """Neighbouring columns, one for each number of inputs: one metric in one unit.

    Attributes:
        heading: metric and unit.
        decimals: digits after the point.
        error_decimals: those of standard errors or deviations; None for the same.
    """

    heading: str
    decimals: int
    error_decimals: int | None = None


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        model: name of the row; repeated on each of its lines.
        role: whose numbers these are.
        cells: over all columns of all blocks.
        result: where our numbers come from, if we have any.
        remark: what sets its images apart from those of the other lines and of the paper.
    """

    model: str
    role: str
    cells: tuple[Cell, ...]
    result: Result | None = None
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and lines, ready to be rendered.

    Attributes:
        number: of the paper's table that it is, or stands in for; None for a benchmark that the paper has none of.
        title: its caption.
        blocks: of columns.
        lines: of all rows.
        notes: what a reader must know.
        is_stand_in: whether it holds scores of rendered look-alikes.
        columns: of each block: numbers of inputs, and "avg" for the mean over the paper's four.
    """

    number: int | None
    title: str
    blocks: tuple[Block, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    is_stand_in: bool = False
    columns: tuple[str, ...] = COLUMNS

    @property
    def has_ours(self) -> bool:
        """Whether any number in it is ours."""
        return any(cell.value is not None for line in self.lines if line.role != PAPER for cell in line.cells)

    def decimals(self, column: int) -> tuple[int, int]:
        """Return the digits after the point of a column, counted over all blocks: of values, of errors."""
        block = self.blocks[column // len(self.columns)]
        return block.decimals, block.decimals if block.error_decimals is None else block.error_decimals


@dataclass(frozen=True)
class SettingsTable:
    """Table 6: for each setting and benchmark, the paper's and the preset's.

    Attributes:
        number: of the paper's table.
        title: its caption.
        benchmarks: names in print.
        rows: setting → (paper, here) by benchmark; a dash where a preset does not say.
        notes: what a reader must know.
    """

    number: int
    title: str
    benchmarks: tuple[str, ...]
    rows: dict[str, tuple[tuple[str, str], ...]]
    notes: tuple[str, ...] = ()
    is_stand_in: bool = False
    has_ours: bool = True


@dataclass(frozen=True)
class _Measure:
    """How a block of a score table is filled.

    Attributes:
        block: its heading.
        paper: the paper's value of (row, column), in this unit; None if it has none.
        value: our value, in this unit.
        error: its standard error.
    """

    block: Block
    paper: Callable[[str, int], float | None]
    value: Callable[[Score], float | None]
    error: Callable[[Score], float | None]


def all_tables(results: Sequence[Result], numbers: Sequence[int] = ALL_TABLES) -> list[Table | SettingsTable]:
    """Lay results beside the paper's tables.

    Args:
        results: of any benchmark.
        numbers: of the tables wanted, 1–12.

    Returns:
        Where all are wanted, tables of benchmarks of one's own come first, the paper's only beside results on its
        benchmarks, and scores with more inputs than the paper has last.
    """
    tables: list[Table | SettingsTable] = []
    wants_all = set(numbers) == set(ALL_TABLES)
    if wants_all:
        tables += own_tables(results)
        if results and not any(_is_the_papers(result) for result in results):
            numbers = ()
    for number in numbers:
        if number in TABLES:
            tables += score_tables(results, number)
        elif number in SPREADS:
            tables.append(spread_table(results, number))
        else:
            tables.append(settings_table())
    if wants_all:
        tables += tables_beyond(results)
    return tables


def score_tables(results: Sequence[Result], number: int = 1) -> list[Table]:
    """Lay results beside one of the paper's Tables 1–5.

    Args:
        results: of any benchmark; those without a row in the table are left out.
        number: of the paper's table.

    Returns:
        The paper's table with the results on the originals in it, in its units and in nats. Before that, for results on
        stand-ins, a table of theirs alone.
    """
    table = TABLES[number]
    ours = [result for result in results if row_title(result, number)]
    stand_ins, originals = [r for r in ours if r.is_stand_in], [r for r in ours if not r.is_stand_in]
    units = (("", (_bits(table), _mse(table))), (", in nats", (_nats(table),)))
    tables = []
    if stand_ins:
        title = f"Table {number} on stand-in images in the layout of {stand_ins[0].title}, not the originals"
        for unit, measures in units:
            lines = [line for group in _in_order(stand_ins, number) for line in _in_row(group, measures, number)]
            if not (lines := _of_known_models(lines)):
                continue
            blocks = tuple(measure.block for measure in measures)
            notes = tuple(_notes(stand_ins, table))
            tables.append(Table(number, f"{title}{unit}.", blocks, tuple(_with_best(lines)), notes, is_stand_in=True))
    for unit, measures in units:
        title = f"Table {number}: {table.caption.removesuffix('.')}{unit}."
        if stand_ins and not originals:
            title += " The paper's numbers, for orientation only."
        blocks = tuple(measure.block for measure in measures)
        lines = _of_known_models(_beside(originals, table, measures))
        tables.append(Table(number, title, blocks, tuple(lines), tuple(_notes(originals, table))))
    return tables


def own_tables(results: Sequence[Result]) -> list[Table]:
    """Lay results on benchmarks that the paper has no table of beside each other, one table for each data set."""
    others = [result for result in results if not _is_the_papers(result)]
    return [
        _side_by_side(ours, f"Scores on {ours[0].title}, split {ours[0].split}.", COLUMNS) for ours in _by_data(others)
    ]


def tables_beyond(results: Sequence[Result]) -> list[Table]:
    """Lay scores with more inputs than the paper has beside each other, one table for each data set."""
    tables = []
    for ours in _by_data([result for result in results if _more_inputs(result)]):
        columns = tuple(map(str, sorted({k for result in ours for k in _more_inputs(result)})))
        kind = ", stand-in images" if ours[0].is_stand_in else ""
        title = f"More inputs than the paper has: {ours[0].title}, split {ours[0].split}{kind}."
        tables.append(_side_by_side(ours, title, columns))
    return tables


def _side_by_side(ours: list[Result], title: str, columns: tuple[str, ...]) -> Table:
    """Lay results of one data set beside each other, without the paper."""
    measures = _known_measures(ours, columns)
    lines = [line for group in seed_groups(ours) for line in _here(group, measures, model_title(group.best), columns)]
    return Table(
        None,
        title,
        tuple(measure.block for measure in measures),
        tuple(_with_best(lines)),
        tuple(_notes(ours, None, columns)),
        is_stand_in=ours[0].is_stand_in,
        columns=columns,
    )


def _by_data(results: list[Result]) -> list[list[Result]]:
    """Gather results of the same images, in the order of their first members."""
    return [[r for r in results if _data(r) == scored] for scored in dict.fromkeys(map(_data, results))]


def _data(result: Result) -> tuple[str, str]:
    """What must be the same for two scores to be compared at all."""
    return result.dataset_digest, result.split


def _remarked(lines: list[Line]) -> list[Line]:
    """Say of lines on another split than the paper's, or on other data than the rest, that they are."""
    scored = [line.result for line in lines if line.result]
    several = len({result.dataset_digest for result in scored}) > 1
    marked = []
    for line in lines:
        if line.result:
            split = line.result.split
            remark = f", split {split}" * (split != _papers_split(line.result))
            remark += f", data {line.result.dataset_digest[:8]}…" * several
            line = replace(line, remark=remark)
        marked.append(line)
    return marked


def _is_comparable(result: Result) -> bool:
    """Tell whether a result is of the paper's split, and of images of as many dimensions."""
    return result.split == _papers_split(result) and result.num_dims == NUM_DIMS[result.benchmark]


def _papers_split(result: Result) -> str | None:
    spec = BENCHMARKS.get(result.benchmark)
    return spec.default_split if spec else result.split


def _known_measures(results: list[Result], columns: Sequence[str]) -> tuple[_Measure, ...]:
    """Return likelihood and MSE_min, or the one of them that some result knows."""
    measures = (_nats(None), _mse(None))
    scores = [score for result in results for column in columns if (score := result.score(column))]
    return tuple(m for m in measures if any(m.value(score) is not None for score in scores)) or measures


def _more_inputs(result: Result) -> list[int]:
    return [k for k in result.num_inputs if str(k) not in COLUMNS]


def _is_the_papers(result: Result) -> bool:
    return result.benchmark in NUM_SAMPLES


def spread_table(results: Sequence[Result], number: int) -> Table:
    """Lay means over several seeds beside one of the paper's Tables 7–12.

    Args:
        results: of any benchmark; seeds of a row count once there are two.
        number: of the paper's table.
    """
    table = SPREADS[number]
    base = next(t for t in TABLES.values() if t.benchmark == table.benchmark)
    measure = _bits(base) if table.metric == "nll" else _mse(base)
    ours = [r for r in results if row_title(r, base.number) and not r.is_stand_in]
    ours = [r for r in ours if _is_comparable(r)]
    groups = [group for group in _in_order(ours, base.number) if len(group.results) > 1]
    lines = []
    for model, printed in table.rows.items():
        paper = Line(model, PAPER, tuple(Cell(value, error) for value, error in printed))
        lines.append(paper)
        mine = [group for group in groups if row_title(group.best, base.number) == model]
        for group in mine:
            here = _mean(group, (measure,), model)
            lines += [here, _difference(paper, here, with_error=False)]
        if not mine:
            lines.append(Line(model, HERE, (Cell(),) * len(COLUMNS)))
    best = {role: _with_best([line for line in lines if line.role.split()[0] == role]) for role in ("paper", "mean")}
    marked = iter(best["paper"]), iter(best["mean"])
    lines = [
        next(marked[0]) if line.role == PAPER else next(marked[1]) if line.role.startswith("mean") else line
        for line in lines
    ]
    notes = (
        ("± is the standard deviation, dividing by n, over n trainings that differ by their seed.",) if groups else ()
    )
    return Table(
        number, f"Table {number}: {table.caption}", (replace(measure.block, error_decimals=2),), tuple(lines), notes
    )


def settings_table() -> SettingsTable:
    """Lay the presets beside the paper's Table 6."""
    here: dict[str, list[str]] = {name: [] for name in HYPERPARAMETERS}
    for benchmark in NUM_SAMPLES:
        values: dict[str, str] = {}
        if benchmark in PRESETS:
            model, train = PRESETS[benchmark].model, PRESETS[benchmark].train
            groups, side = model.groups_per_scale, model.coarsest_side
            values = {
                "# latent groups per scale": ", ".join(map(str, reversed(groups))),
                "spatial dimensions of z_l per scale": ", ".join(f"{side << i}²" for i in range(len(groups))),
                "# channels in z_l": str(model.latent_channels),
                "# training epochs": str(train.epochs),
                "batch size": str(train.batch_size),
            }
        for name, column in here.items():
            column.append(values.get(name, DASH))
    rows = {name: tuple(zip(HYPERPARAMETERS[name], column, strict=True)) for name, column in here.items()}
    titles = ("FusionMNIST", "FusionCelebA", "FusionT-LESS")
    note = (
        "The first row runs fine to coarse, the second coarse to fine, as in the paper; each result says what was "
        "really done."
    )
    return SettingsTable(6, "Table 6: Main hyperparameters; the presets here.", titles, rows, (note,))


def _of_known_models(lines: list[Line]) -> list[Line]:
    """Leave out models of which not one number is known, the paper's included: no likelihood, no row in nats."""
    known = {line.model for line in lines if any(cell.value is not None for cell in line.cells)}
    return [line for line in lines if line.model in known]


def _in_order(results: Sequence[Result], number: int) -> list[SeedGroup]:
    """Sort seed groups by the rows of a table; what the paper does not know comes last."""
    order = {row.title: position for position, row in enumerate(ROWS[number])}
    groups = seed_groups(results)
    return sorted(groups, key=lambda group: order.get(str(row_title(group.best, number)), len(order)))


def _beside(results: list[Result], table: ScoreTable, measures: tuple[_Measure, ...]) -> list[Line]:
    heres = [line for group in _in_order(results, table.number) for line in _in_row(group, measures, table.number)]
    heres = _remarked(_with_best(heres))
    papers = [
        Line(model, PAPER, tuple(Cell(m.paper(model, column)) for m in measures for column in range(len(COLUMNS))))
        for model in table.mse_min
    ]
    lines = []
    for paper in _with_best(papers):
        lines.append(paper)
        mine = [here for here in heres if here.model == paper.model]
        for here in mine:
            lines.append(here)
            if here.result and _is_comparable(here.result):
                lines.append(_difference(paper, here))
        if not mine:
            lines.append(Line(paper.model, HERE, (Cell(),) * len(paper.cells)))
    return [*lines, *(here for here in heres if here.model not in table.mse_min)]


def _in_row(group: SeedGroup, measures: tuple[_Measure, ...], number: int) -> list[Line]:
    return _here(group, measures, str(row_title(group.best, number)))


def _here(group: SeedGroup, measures: tuple[_Measure, ...], title: str, columns: Sequence[str] = COLUMNS) -> list[Line]:
    """Return the line of the best seed and, if there are several, that of their mean."""
    cells = []
    for measure in measures:
        for column in columns:
            score = group.best.score(column)
            cells.append(Cell(measure.value(score), measure.error(score)) if score else Cell())
    several = len(group.results) > 1
    role = f"best of {len(group.results)}" if several else HERE
    best = Line(title, role, tuple(cells), group.best)
    return [best, _mean(group, measures, title, columns)] if several else [best]


def _mean(group: SeedGroup, measures: tuple[_Measure, ...], title: str, columns: Sequence[str] = COLUMNS) -> Line:
    cells = (Cell(*group.spread(column, measure.value)) for measure in measures for column in columns)
    return Line(title, f"mean of {len(group.results)}", tuple(cells))


def _difference(paper: Line, here: Line, *, with_error: bool = True) -> Line:
    cells = [
        Cell(ours.value - theirs.value, ours.error if with_error else None)
        if ours.value is not None and theirs.value is not None
        else Cell()
        for theirs, ours in zip(paper.cells, here.cells, strict=True)
    ]
    return Line(paper.model, DIFFERENCE, tuple(cells))


def _with_best(lines: list[Line]) -> list[Line]:
    """Mark the least value of every column among rows of their own; the best of one is no distinction.

    Where rows were scored on different images, those of the most compete: the first of a set may be easy. Where they
    took different numbers of samples, those of the most do, and models that draw none.
    """
    rivals = [line for line in lines if line.result or not line.role.startswith("mean of")] or lines
    if results := [line.result for line in rivals if line.result]:
        first = max(results, key=lambda result: result.num_images)
        results = [result for result in results if _images_scored(result) == _images_scored(first)]
        samples = max((result.num_samples for result in results if draws(result)), default=0)
        results = [result for result in results if not draws(result) or result.num_samples == samples]
        rivals = [line for line in rivals if not line.result or any(line.result is result for result in results)]
    if len(rivals) < 2:
        return lines
    columns = zip(*(line.cells for line in rivals), strict=True)
    least = [min((c.value for c in column if c.value is not None), default=None) for column in columns]
    marked = []
    for line in lines:
        cells = (
            replace(c, is_best=line in rivals and c.value is not None and c.value == best)
            for c, best in zip(line.cells, least, strict=True)
        )
        marked.append(replace(line, cells=tuple(cells)))
    return marked


def _images_scored(result: Result) -> tuple[object, ...]:
    return *_data(result), result.num_images, result.evenly_spaced, result.num_dims


def _bits(table: ScoreTable) -> _Measure:
    def error(score: Score) -> float | None:
        if not score.nll_nats or score.nll_bits_per_dim is None:
            return None
        return _scaled(score.nll_standard_error, 100 * score.nll_bits_per_dim / score.nll_nats)

    return _Measure(
        Block("NLL, 10⁻² bits per dim", table.nll_decimals),
        lambda row, column: table.nll[row][column] if row in table.nll else None,
        lambda score: _scaled(score.nll_bits_per_dim, 100),
        error,
    )


def _nats(table: ScoreTable | None) -> _Measure:
    def paper(row: str, column: int) -> float | None:
        if table is None or row not in table.nll:
            return None
        return nats_from_bits_per_dim(table.nll[row][column] / 100, NUM_DIMS[table.benchmark])

    return _Measure(
        Block("NLL, nats per image", 1), paper, lambda score: score.nll_nats, lambda score: score.nll_standard_error
    )


def _mse(table: ScoreTable | None) -> _Measure:
    return _Measure(
        Block("MSE_min, 10⁻²", 2),
        lambda row, column: None if table is None else table.mse_min[row][column],
        lambda score: _scaled(score.mse_min, 100),
        lambda score: _scaled(score.mse_min_standard_error, 100),
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _notes(results: list[Result], table: ScoreTable | None, columns: Sequence[str] = COLUMNS) -> list[str]:
    if not results:
        return []
    printed = " here, the paper's as printed" if table else ""
    average = f"; avg is the plain mean of the four{printed}" if AVERAGE in columns else ""
    notes = [f"± is the standard error over the images scored{average}."]
    samples, fewer = {r.num_samples for r in results if draws(r)}, "with fewer samples both NLL and MSE_min come out"
    if table is None and samples:
        notes.append(f"S = {', '.join(map(str, sorted(samples)))}: {fewer} larger.")
    elif table and (others := sorted(samples - {NUM_SAMPLES[table.benchmark]})):
        notes.append(
            f"S = {', '.join(map(str, others))} here, {NUM_SAMPLES[table.benchmark]} in the paper: {fewer} larger."
        )
    num_dims = NUM_DIMS[table.benchmark] if table else results[0].num_dims
    if any(result.num_dims != num_dims for result in results):
        notes.append(
            "In colour, or of another size: their nats and MSE_min are not comparable with those of the others, which "
            f"have {num_dims:,} dimensions."
        )
    if any(result.is_rounded for result in results):
        notes.append(
            "bf16: the model computed in bfloat16, which moves a single image's NLL by a tenth of a nat, either way."
        )
    if max(len(group.results) for group in seed_groups(results)) > 1:
        notes.append(
            "The best of several seeds is the one of least MSE_min on average, chosen on the images scored, as in the "
            "paper; their mean stands below it, ± the standard deviation over the n seeds, dividing by n."
        )
    return notes


def draws(result: Result) -> bool:
    """Tell whether S decides a result's numbers: there were weights, or more than one draw."""
    return bool(result.calibration) or any(score.ess is not None for score in result.scores.values())


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """Print a number with a true minus sign, or a dash."""
    if value is None:
        return DASH
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")
