"""Where a number comes from: versions and commit of the code."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fusionvae-bench", "fusionvae-model", "fusion-datasets", "torch", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a score."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, marked if dirty; None for an installed copy."""
    here = Path(__file__)
    try:
        tracked = _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
        commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=here.parent)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit if tracked else None


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
