"""The virtual environments of the repository's commands: made, filled by pip, and asked what they hold.

Standard library only, for this runs before anything is installed; and no syntax that an older Python
could not read, for it must get as far as the sentence that refuses it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class StatedError(Exception):
    """A failure whose message says what was got, what was expected and what to do."""


@dataclass(frozen=True)
class Package:
    """One of the three packages: where it lives and what it is called."""

    folder: str
    distribution: str
    module: str
    command: str
    extra: str

    @property
    def path(self) -> Path:
        """The folder of the package in this checkout."""
        return ROOT / "packages" / self.folder


PACKAGES = (
    Package("fusion-datasets", "fusion-datasets", "fusion_datasets", "fusion-datasets", "torch"),
    Package("fusionvae-model", "fusionvae-model", "fusionvae_model", "fusionvae", "train"),
    Package("fusion-bench", "fusionvae-bench", "fusionvae_bench", "fusion-bench", "report"),
)


def require_python() -> None:
    """Raises StatedError where this Python is older than the packages allow."""
    if sys.version_info < OLDEST_PYTHON:
        found, oldest = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST_PYTHON))
        raise StatedError(
            f"This is Python {found}, but the packages need {oldest} or newer; call this with a newer one."
        )


def torch_requirement() -> str:
    """The range of torch as fusionvae-model declares it, so that it is written down once."""
    import tomllib  # absent from the Pythons that require_python refuses

    declared = tomllib.loads((ROOT / "packages/fusionvae-model/pyproject.toml").read_text("utf-8"))
    return str(next(line for line in declared["project"]["dependencies"] if line.startswith("torch")))


class Environment:
    """A virtual environment in a folder of its own, with the commands that work on it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.own_variables = variables
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def variables(self) -> dict[str, str]:
        """The caller's variables, without those that would let another Python's packages in."""
        foreign = {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"}
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        kept["PATH"] = os.pathsep.join([str(self.scripts), kept.get("PATH", os.defpath)])
        kept |= {"VIRTUAL_ENV": str(self.folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}
        return kept | self.own_variables

    def usable(self) -> bool:
        """Whether its Python runs, is new enough and has pip."""
        question = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        return self.call("python", "-c", question, quiet=True) == 0

    def create(self) -> None:
        """Makes the environment unless it is there; mends one whose making was interrupted.

        Raises:
            StatedError: this Python has no working `venv`, or the folder holds something else.
        """
        if self.usable():
            return
        ours = not self.folder.exists() or (self.folder / "pyvenv.cfg").is_file()
        command = [sys.executable, "-m", "venv", str(self.folder)]
        made = subprocess.run(command, capture_output=True, text=True) if ours else None
        if made and made.returncode:
            reason = ((made.stderr + made.stdout).strip().splitlines() or ["it gave no reason"])[-1]
            raise StatedError(
                f"Python could not make the environment {self.folder} ({reason}); install its venv and "
                "ensurepip modules (Debian and Ubuntu: apt install python3-venv) and call again."
            )
        if not made or not self.usable():
            oldest = ".".join(map(str, OLDEST_PYTHON))
            raise StatedError(
                f"{self.folder} is there but is no working environment of Python {oldest} or newer; "
                "delete or rename it and call again."
            )

    def call(self, program: str, *arguments: str, quiet: bool = False, cwd: Path = ROOT) -> int:
        """Runs one of the environment's own programs, as `python`; gives its exit status, 127 without it."""
        sink = subprocess.DEVNULL if quiet else None
        command = [str(self.scripts / program), *arguments]
        try:
            return subprocess.run(command, cwd=cwd, env=self.variables, stdout=sink, stderr=sink).returncode
        except OSError:
            return 127

    def answer(self, program: str, *arguments: str) -> str | None:
        """What one of its programs prints on stdout, None if it fails; progress and reasons pass on stderr."""
        command = [str(self.scripts / program), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.variables, stdout=subprocess.PIPE, encoding="utf-8")
        return done.stdout if done.returncode == 0 else None

    def install(self, *arguments: str | Path) -> None:
        """Calls `pip install` under the user's own pip configuration; its words go to stderr.

        Bytecode is left to the first import: of torch's thousands of files only a part is ever used.

        Raises:
            StatedError: pip did not succeed.
        """
        flags = ("--no-compile", "--no-warn-script-location")
        command = [str(self.scripts / "python"), "-m", "pip", "install", *flags, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=self.variables, stdout=sys.stderr.fileno())
        if done.returncode:
            raise StatedError(
                f"pip could not install {name_all(arguments)} (its reason stands above); "
                "check the network, the free disk space and your pip index, then call again."
            )

    def install_torch(self, index: str | None) -> None:
        """Installs torch, in the declared range, from an index of the user's choice; nothing without one."""
        if index:
            self.install(torch_requirement(), "--index-url", index)


def name_all(arguments: Sequence[str | Path]) -> str:
    """The things to be installed among pip's arguments, in words."""
    return ", ".join(str(argument) for argument in arguments if not str(argument).startswith("-"))
