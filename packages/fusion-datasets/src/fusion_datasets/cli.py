"""The command `fusion-datasets`: data on stdout, progress on stderr, a stated failure is one sentence and exit 1."""

from importlib.metadata import version
from typing import Any

import click

from fusion_datasets.commands.build import build
from fusion_datasets.commands.inspect import info, preview, verify_command
from fusion_datasets.commands.publish import publish
from fusion_datasets.commands.stand_in import stand_in
from fusion_datasets.errors import FusionDatasetsError


class StatedFailures(click.Group):
    """A group whose commands end in one sentence and exit 1 where a user or the disk is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FusionDatasetsError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(
                f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
            ) from error


@click.group(cls=StatedFailures, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("fusion-datasets"), prog_name="fusion-datasets")
def main() -> None:
    """Build and inspect benchmarks for fusing several occluded, noisy images of one thing."""


for command in (build, stand_in, info, verify_command, preview, publish):
    main.add_command(command)
