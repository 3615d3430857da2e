"""What a command does when something fails: one sentence, exit 1."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from fusion_datasets import FusionDatasetsError
from fusionvae_bench.errors import BenchError
from fusionvae_model import FusionVAEError

P = ParamSpec("P")
R = TypeVar("R")


def stated_failures(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what may fail for a user into one sentence and exit 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (BenchError, FusionDatasetsError, FusionVAEError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error

    return run
