"""What the README says must run: its Python, word for word, and each command line that it shows."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = ("fusion-datasets", "fusionvae", "fusion-bench")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order; none without a README."""
    text = README.read_text("utf-8") if README.is_file() else ""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    """The lines of shell blocks that call one of the three commands, without comments."""
    for block in blocks("(?:bash|sh|console|shell)"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").split("#")[0].strip()
            if words.split(" ")[0] in PROGRAMS:
                yield words


def needs_readme() -> None:
    if not README.is_file():
        pytest.skip("README.md is not written yet")


@pytest.mark.slow
def test_python_of_the_readme_runs(stand_in_file: Path, untrained: Path, tmp_path: Path) -> None:
    """In one session from top to bottom, beside the files that the README's commands leave."""
    needs_readme()
    assert blocks("python"), "the README shows no Python"
    for data in ("fusion-mnist.h5", "quickstart/fusion-mnist.h5"):
        (tmp_path / data).parent.mkdir(exist_ok=True)
        shutil.copy(stand_in_file, tmp_path / data)
    for model in ("model", "quickstart/model"):
        shutil.copytree(untrained, tmp_path / model)
    for picture in ("left.png", "right.png"):
        Image.new("L", (40, 30), 90).save(tmp_path / picture)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), "utf-8")
    done = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_of_the_readme_exist(end_of: Callable[..., object], capfd: pytest.CaptureFixture[str]) -> None:
    """With --help added, a command line is still refused if it names an option that is not there."""
    needs_readme()
    for line in commands():
        assert end_of(*shlex.split(line), "--help") == 0, f"{line}\n{capfd.readouterr().err}"
