"""``python -m fusionvae_model`` is the command ``fusionvae``."""

from fusionvae_model.cli import main

if __name__ == "__main__":
    main(prog_name="fusionvae")
