"""``python -m fusionvae_bench``: the command without its name."""

from fusionvae_bench.cli import main

if __name__ == "__main__":
    main()
