"""The command ``fusion-bench``: data on stdout, progress on stderr, one sentence where something fails."""

from __future__ import annotations

import click

from fusionvae_bench import __version__
from fusionvae_bench.cli.reporting import compare, project, report
from fusionvae_bench.cli.reproducing import reproduce
from fusionvae_bench.cli.scoring import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusion-bench")
def main() -> None:
    """Score image fusion models and lay the scores beside the paper's."""


for command in (run, report, compare, project, reproduce):
    main.add_command(command)
