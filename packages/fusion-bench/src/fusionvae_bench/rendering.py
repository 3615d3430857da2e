"""Tables as Markdown, HTML and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from fusionvae_bench.results import Result
from fusionvae_bench.tables import DIFFERENCE, Cell, SettingsTable, Table, draws, number


def cell_text(cell: Cell, decimals: tuple[int, int], role: str) -> str:
    """Print a cell, its standard error or deviation included; digits after the point of value and error."""
    text = number(cell.value, decimals[0], signed=role == DIFFERENCE)
    return text if cell.value is None or cell.error is None else f"{text} ± {cell.error:.{decimals[1]}f}"


def escaped(text: str) -> str:
    """Escape what Markdown would take for markup, or for the end of a cell or a line; names hold anything."""
    return re.sub(r"([\\|<*`\[])", r"\\\1", " ".join(text.split()))


def to_markdown(table: Table | SettingsTable) -> str:
    """Render as a Markdown table with its title and notes."""
    if isinstance(table, SettingsTable):
        heads = [f"{benchmark}: paper | here" for benchmark in table.benchmarks]
        body = [[name, *(value for pair in cells for value in pair)] for name, cells in table.rows.items()]
        rows = [["", *heads], ["---", *["---"] * (2 * len(heads))], *body]
    else:
        rows = _markdown_rows(table)
    lines = [f"**{escaped(table.title)}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join([*lines, "", *table.notes, ""])


def _markdown_rows(table: Table) -> list[list[str]]:
    heads = list(table.columns) * len(table.blocks)
    for position, block in enumerate(table.blocks):
        heads[position * len(table.columns)] = f"{block.heading}: k = {table.columns[0]}"
    rows = [["model", "", *heads], ["---", "---", *["---:"] * len(heads)]]
    previous = None
    for line in table.lines:
        texts = []
        for column, cell in enumerate(line.cells):
            text = cell_text(cell, table.decimals(column), line.role)
            texts.append(f"**{text}**" if cell.is_best else text)
        label = f"{line.role}{line.remark} ({escaped(_detail(line.result))})" if line.result else line.role
        rows.append([escaped(line.model) if line.model != previous else "", label, *texts])
        previous = line.model
    return rows


def to_html(table: Table | SettingsTable) -> str:
    """Render as an HTML table; styling is the page's."""
    return _settings_html(table) if isinstance(table, SettingsTable) else _scores_html(table)


def _scores_html(table: Table) -> str:
    span = len(table.columns)
    parts = ["<thead><tr><th rowspan='2' scope='col'>Model</th><th rowspan='2'></th>"]
    parts += [f"<th colspan='{span}' scope='colgroup'>{_typeset(block.heading)}</th>" for block in table.blocks]
    parts.append("</tr><tr>")
    parts += [f"<th scope='col'>{column}</th>" for _ in table.blocks for column in table.columns]
    parts.append("</tr></thead>")
    for model in dict.fromkeys(line.model for line in table.lines):
        lines = [line for line in table.lines if line.model == model]
        parts.append("<tbody>")
        for position, line in enumerate(lines):
            name = f"<th rowspan='{len(lines)}' scope='rowgroup'>{escape(model)}</th>" if position == 0 else ""
            cells = "".join(
                _html_cell(cell, table.decimals(column), line.role, starts=column % span == 0)
                for column, cell in enumerate(line.cells)
            )
            label = line.role
            if line.result:
                detail, short = escape(_detail(line.result), quote=True), escape(line.result.model_name)
                label += f"{escape(line.remark)} <small title='{detail}'>{short}</small>"
            css = line.role if line.role in ("paper", "difference") else "mean" if "mean" in line.role else "here"
            parts.append(f"<tr class='{css}'>{name}<td class='role'>{label}</td>{cells}</tr>")
        parts.append("</tbody>")
    return f"<table class='scores'>{''.join(parts)}</table>"


def _html_cell(cell: Cell, decimals: tuple[int, int], role: str, *, starts: bool) -> str:
    text = escape(number(cell.value, decimals[0], signed=role == DIFFERENCE))
    if cell.is_best:
        text = f"<b>{text}</b>"
    if cell.value is not None and cell.error is not None:
        text += f" <small>±&#8239;{cell.error:.{decimals[1]}f}</small>"
    return f"<td{' class=starts' if starts else ''}>{text}</td>"


def _settings_html(table: SettingsTable) -> str:
    heads = "".join(f"<th colspan='2' scope='colgroup'>{escape(name)}</th>" for name in table.benchmarks)
    roles = "".join("<th scope='col' class='starts'>paper</th><th scope='col'>here</th>" for _ in table.benchmarks)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name).replace('z_l', '<i>z<sub>l</sub></i>')}</th>"
        + "".join(f"<td class='starts'>{escape(paper)}</td><td><b>{escape(here)}</b></td>" for paper, here in cells)
        + "</tr>"
        for name, cells in table.rows.items()
    )
    return (
        f"<table class='scores settings'><thead><tr><th rowspan='2'></th>{heads}</tr><tr>{roles}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def to_latex(table: Table | SettingsTable) -> str:
    """Render as a floating table for LaTeX, numbered as in the paper; needs the package booktabs."""
    prefix, _, caption = table.title.partition(": ")
    number = prefix.removeprefix("Table ")
    if isinstance(table, SettingsTable):
        lead, columns = 1, len(table.benchmarks) * 2
    else:
        lead, columns = 2, len(table.blocks) * len(table.columns)
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * lead}{('l' if lead == 1 else 'r') * columns}}}",
        r"\toprule",
        *(_settings_latex(table) if isinstance(table, SettingsTable) else _scores_latex(table)),
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\renewcommand{{\thetable}}{{{number}}}"] if number.isdecimal() else []),
        rf"\caption{{{_tex(' '.join([caption or table.title, *table.notes]))}}}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def to_latex_document(tables: Sequence[Table | SettingsTable]) -> str:
    """Render as a document that LaTeX compiles; the tables can be copied from it."""
    head = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,landscape,margin=1.5cm]{geometry}",
        r"\usepackage{booktabs}",
        r"\begin{document}",
    ]
    return "\n".join([*head, "", *(f"{to_latex(table)}\\clearpage\n" for table in tables), r"\end{document}", ""])


def _scores_latex(table: Table) -> list[str]:
    span = len(table.columns)
    heads = [rf"\multicolumn{{{span}}}{{c}}{{{_tex(block.heading)}}}" for block in table.blocks]
    rules = [rf"\cmidrule(lr){{{3 + i * span}-{2 + (i + 1) * span}}}" for i in range(len(table.blocks))]
    lines = [rf"& & {' & '.join(heads)} \\", "".join(rules)]
    lines.append(rf"& & {' & '.join(list(table.columns) * len(table.blocks))} \\")
    previous = None
    for line in table.lines:
        if line.model != previous:
            lines.append(r"\midrule")
        texts = []
        for column, cell in enumerate(line.cells):
            digits, error_digits = table.decimals(column)
            text = _tex(number(cell.value, digits, signed=line.role == DIFFERENCE))
            text = rf"\textbf{{{text}}}" if cell.is_best else text
            if cell.value is not None and cell.error is not None:
                text += rf"\,{{\scriptsize$\pm${cell.error:.{error_digits}f}}}"
            texts.append(text)
        name = _tex(line.model) if line.model != previous else ""
        lines.append(rf"{name} & {line.role}{_tex(line.remark)} & {' & '.join(texts)} \\")
        previous = line.model
    return lines


def _settings_latex(table: SettingsTable) -> list[str]:
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_tex(name)}}}" for name in table.benchmarks)
    lines = [rf"& {heads} \\", rf"& {' & '.join(['paper & here'] * len(table.benchmarks))} \\", r"\midrule"]
    for name, cells in table.rows.items():
        texts = [_tex(value) for pair in cells for value in pair]
        lines.append(rf"{_tex(name)} & {' & '.join(texts)} \\")
    return lines


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "−": "$-$",
        "–": "--",
        "±": r"$\pm$",
        "×": r"$\times$",
        "²": "$^2$",
        "→": r"$\to$",
    }
)


def _tex(text: str) -> str:
    """Escape for LaTeX; the paper's own formulas become formulas."""
    done = text.translate(_TEX)
    return done.replace(r"MSE\_min", r"MSE$_{\min}$").replace(r"z\_l", "$z_l$").replace("10⁻$^2$", "$10^{-2}$")


def _detail(result: Result) -> str:
    rounded = f", {result.precision}" if result.is_rounded else ""
    evenly = " evenly spaced" if result.evenly_spaced else ""
    samples = f", S = {result.num_samples}" if draws(result) else ""
    return f"{result.model_name}, {result.num_images}{evenly} images{samples}{rounded}"


def _typeset(heading: str) -> str:
    return escape(heading).replace("MSE_min", "MSE<sub>min</sub>")
