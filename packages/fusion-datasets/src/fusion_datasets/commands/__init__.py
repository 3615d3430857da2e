"""The subcommands of `fusion-datasets`, a file for each group."""
