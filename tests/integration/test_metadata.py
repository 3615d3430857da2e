"""What a package index would show: names, one version, licence, types, READMEs, entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PACKAGES = {
    "fusion-datasets": "fusion_datasets",
    "fusionvae-model": "fusionvae_model",
    "fusion-bench": "fusionvae_bench",
}


def declared(repository: Path, folder: str) -> dict[str, Any]:
    return tomllib.loads((repository / "packages" / folder / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(repository: Path) -> list[str]:
    """What the packages need, extras included."""
    projects = [declared(repository, folder) for folder in PACKAGES]
    groups = [[project["dependencies"], *project.get("optional-dependencies", {}).values()] for project in projects]
    return [line for of_project in groups for group in of_project for line in group]


@pytest.mark.parametrize(("folder", "module"), PACKAGES.items())
def test_package_says_what_it_is(repository: Path, folder: str, module: str) -> None:
    project = declared(repository, folder)
    package = importlib.import_module(module)
    installed = importlib.metadata.version(project["name"])
    assert getattr(package, "__version__", installed) == installed == project["version"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert importlib.resources.files(module).joinpath("py.typed").is_file()
    assert (package.__doc__ or "").strip()
    readme = (repository / "packages" / folder / project["readme"]).read_text("utf-8")
    assert readme.startswith("# ")
    assert len(readme.split()) > 30
    licence = (repository / "packages" / folder / "LICENSE").read_text("utf-8")
    assert licence == (repository / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize(("folder", "module"), PACKAGES.items())
def test_public_names_exist(folder: str, module: str) -> None:
    package = importlib.import_module(module)
    assert package.__all__, f"{module} states no public names"
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_versions_in_lockstep(repository: Path) -> None:
    projects = [declared(repository, folder) for folder in PACKAGES]
    (version,) = {project["version"] for project in projects}
    names = {project["name"] for project in projects}
    siblings = [line for line in requirements(repository) if re.split(r"[\[=<>~! ]", line)[0] in names]
    assert siblings
    assert all(line.endswith(f"=={version}") for line in siblings), siblings
    citation = (repository / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {version}\n" in citation
    assert f"## [{version}]" in (repository / "CHANGELOG.md").read_text("utf-8")


def test_torch_is_bounded_alike_everywhere(repository: Path) -> None:
    lines = [line for line in requirements(repository) if re.match(r"torch\b", line)]
    assert len(lines) >= 3
    (only,) = set(lines)
    assert re.fullmatch(r"torch>=[\d.]+,<[\d.]+", only)


def test_data_sets_need_no_torch(repository: Path) -> None:
    assert not any(line.startswith("torch") for line in declared(repository, "fusion-datasets")["dependencies"])


def test_the_lowest_versions_to_try_are_those_that_are_declared(repository: Path) -> None:
    lines = [line for line in requirements(repository) if "==" not in line]
    least = {re.split(r"[><,]", line)[0]: re.split(r"[><=,]+", line)[1] for line in lines}
    stated = (repository / "tools" / "lowest-versions.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in stated if not line.startswith("#"))
    assert sorted(pinned) == sorted(least)
    for name, version in least.items():
        assert Version(pinned[name]) in SpecifierSet(f"=={version}.*"), name
