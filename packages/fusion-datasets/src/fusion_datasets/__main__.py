"""`python -m fusion_datasets` is the command `fusion-datasets`."""

from fusion_datasets.cli import main

if __name__ == "__main__":
    main(prog_name="fusion-datasets")
