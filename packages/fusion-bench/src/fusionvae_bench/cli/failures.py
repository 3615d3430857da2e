"""What a command does when something fails: one sentence, exit 1."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from fusion_datasets import FusionDatasetsError
from fusionvae_bench.errors import BenchError
from fusionvae_model import FusionVAEError
from fusionvae_model.device import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")


def stated_failures(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what may fail for a user into one sentence and exit 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (BenchError, FusionDatasetsError, FusionVAEError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has had enough
                raise
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise click.ClickException(
                "there is not enough memory for this; take fewer --workers or a machine with more: a run called "
                "again goes on from where it stopped"
            ) from error

    return run
