"""The direction of imports: bench → model → data sets, and torch in one folder of the data sets alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINT_IMPORTS = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"


def lint_imports(folder: Path, *search_path: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search_path)), "NO_COLOR": "1"}
    command = [sys.executable, "-c", LINT_IMPORTS]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def test_rules_hold(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes((repository / "pyproject.toml").read_bytes())
    checked = lint_imports(tmp_path, *(repository / "packages").glob("*/src"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert ", 0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fusion_datasets/spec.py", "import torch"),
        ("fusion_datasets/spec.py", "import fusionvae_model.config"),
        ("fusionvae_model/layers.py", "import fusion_datasets.spec"),
        ("fusionvae_model/layers.py", "import fusionvae_bench.metrics"),
    ],
)
def test_rules_notice(repository: Path, tmp_path: Path, module: str, line: str) -> None:
    """A copy of the packages with one forbidden import added must fail: the rules are not vacuous."""
    for package in (repository / "packages").glob("*/src/*"):
        for source in package.rglob("*.py"):
            target = tmp_path / source.relative_to(package.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((repository / "pyproject.toml").read_bytes())
    with (tmp_path / module).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert ", 1 broken" in lint_imports(tmp_path, tmp_path).stdout


@pytest.mark.parametrize("module", ["fusion_datasets", "fusion_datasets.cli"])
def test_data_sets_import_without_torch(module: str, tmp_path: Path) -> None:
    question = f"import sys, {module}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", question], cwd=tmp_path).returncode == 0
