"""Publications: whole, described, provable, and only where the licence lets the images travel."""

import dataclasses
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fusion_datasets import BenchmarkSpec, FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.publication import Publication, folder, parquet, publish
from fusion_datasets.publication.folder import check_sums
from fusion_datasets.publication.terms import terms_of
from fusion_datasets.publication.works import FUSIONVAE, works_of
from fusion_datasets.seal import seal
from fusion_datasets.visibility import visibility

pytest.importorskip("pyarrow")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def published(benchmark_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FusionMNIST of rendered digits, published; never written to."""
    place = tmp_path_factory.mktemp("published") / "fusion-mnist"
    said = run("publish", benchmark_file, "--to", place)
    assert said.exit_code == 0, said.stderr
    assert "FusionMNIST under CC0-1.0, 9 files" in said.stdout
    assert [path.name for path in place.parent.iterdir()] == ["fusion-mnist"]
    return place


def test_the_folder_proves_itself(published: Path, benchmark_file: Path) -> None:
    names = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "CITATION.cff", "croissant.json", "SHA256SUMS", "fusion-mnist.h5"),
        *("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        *("previews/train.png", "previews/test.png"),
    }
    assert (published / "fusion-mnist.h5").read_bytes() == benchmark_file.read_bytes()
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=published, check=True)
    assert set(check_sums(published)) == names - {"SHA256SUMS"}


def test_the_card_says_what_the_file_says(published: Path) -> None:
    card, data = (published / "README.md").read_text(), FusionDataset(published / "fusion-mnist.h5")
    assert card.startswith('---\npretty_name: "FusionMNIST"\nlicense: cc0-1.0\n')
    for part in (
        "| train | 90 |",
        "| test | 40 |",
        data.digest,
        data.source["digest"],
        "Rendered look-alikes",
        "seed 3",
        str(visibility(data)),
        "several occluded, noisy images",
        "| `SPLIT/label` int64 [n] | `label` | the digit |",
    ):
        assert part in " ".join(card.split())
    [law] = re.findall(r"```json\n(.*?)```", card, re.DOTALL)
    assert BenchmarkSpec.from_json(law) == data.spec
    assert "lecun" not in card  # whose images are not here
    assert "None" not in card
    assert max(map(len, card.splitlines())) < 1200


def front_matter(folder: Path) -> dict[str, Any]:
    hub = pytest.importorskip("huggingface_hub")
    found: dict[str, Any] = hub.DatasetCard.load(folder / "README.md").data.to_dict()
    return found


def test_files_that_are_read_together_have_the_same_columns(published: Path) -> None:
    """Otherwise no viewer shows them, and `datasets` cannot load them."""
    import pyarrow.parquet as pq

    configs = {config["config_name"]: config for config in front_matter(published)["configs"]}
    assert configs["evaluation"]["default"] is True
    read = set()
    for config in configs.values():
        found = [path for part in config["data_files"] for path in published.glob(part["path"])]
        assert len({pq.read_schema(path) for path in found}) == 1
        read |= {path.name for path in found}
    assert read == {path.name for path in (published / "data").iterdir()}


def test_the_card_shows_how_to_read(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published)
    snippets = re.findall(r"```python\n(.*?)```", (published / "README.md").read_text(), re.DOTALL)
    for snippet, names in zip(snippets[:2], (("example",), ("target", "inputs", "masks")), strict=True):
        found: dict[str, Any] = {}
        exec(snippet, found)
        assert all(name in found for name in names)
    assert np.array_equal(found["inputs"], FusionDataset("fusion-mnist.h5", "test")[0].inputs)
    assert 'load_dataset("FOLDER", "evaluation", split="test")' in snippets[2]


def test_parquet_holds_the_very_rows(published: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(published / "data" / "test-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names)
    batch = FusionDataset(published / "fusion-mnist.h5").read(0, 40)
    assert batch.inputs is not None
    assert batch.masks is not None
    for row, stored in enumerate(table.to_pylist()):
        pixels = {
            name: cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)
            for name, cell in stored.items()
            if isinstance(cell, dict)
        }
        assert np.array_equal(pixels["target"], batch.target[row, ..., 0])
        for k in range(3):
            assert np.array_equal(pixels[f"input_{k + 1}"], batch.inputs[row, k, ..., 0])
            assert np.array_equal(pixels[f"mask_{k + 1}"], 255 * batch.masks[row, k])
        assert (stored["index"], stored["label"]) == (batch.index[row], batch.label[row])  # type: ignore[index]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")
def test_croissant_is_valid_and_loads_records(published: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    described = croissant.Dataset(published / "croissant.json")
    issues = described.metadata.ctx.issues
    assert not issues.errors | issues.warnings
    assert described.metadata.date_published.date().isoformat() == "2001-09-09"
    files = {file.id: file.sha256 for file in described.metadata.distribution if hasattr(file, "sha256")}
    assert files == {name: sha for name, sha in check_sums(published).items() if name.endswith((".h5", ".parquet"))}
    for split, rows in (("train", 90), ("test", 40)):
        data = FusionDataset(published / "fusion-mnist.h5", split)  # type: ignore[arg-type]
        records = list(described.records(split))
        assert len(records) == rows
        assert [record[f"{split}/label"] for record in records] == [example.label for example in data]
        assert np.array_equal(np.asarray(records[7][f"{split}/target"]), data[7].target[..., 0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")
def test_a_split_of_several_files_is_one_record_set(
    benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    croissant = pytest.importorskip("mlcroissant")
    for module in (folder, parquet):
        monkeypatch.setattr(module, "ROWS_PER_FILE", 40)
    publish(Publication(benchmark_file, tmp_path / "out"), progress=False)
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00003.parquet"))) == 3
    records = list(croissant.Dataset(tmp_path / "out" / "croissant.json").records("train"))
    assert [record["train/index"] for record in records] == list(range(90))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")
def test_a_recipe_is_described_too(benchmark_file: Path, tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    assert run("publish", benchmark_file, "--to", tmp_path / "out", "--recipe").exit_code == 0
    described = croissant.Dataset(tmp_path / "out" / "croissant.json")
    assert not described.metadata.ctx.issues.errors | described.metadata.ctx.issues.warnings
    assert [record["test/index"] for record in described.records("test")] == list(range(40))
    assert front_matter(tmp_path / "out")["license"] == "cc0-1.0"
    citation = (tmp_path / "out" / "CITATION.cff").read_text()
    assert 'title: "FusionMNIST: a recipe"' in citation
    assert "license: CC0-1.0" in citation


def test_published_again_it_is_left_alone(published: Path, benchmark_file: Path, tmp_path: Path) -> None:
    made = (published / "README.md").stat().st_mtime_ns
    assert run("publish", benchmark_file, "--to", published).exit_code == 0
    assert (published / "README.md").stat().st_mtime_ns == made
    other = shutil.copytree(published, tmp_path / "other")
    (other / "README.md").write_text("altered")
    assert "README.md is not the file that SHA256SUMS names" in run("publish", benchmark_file, "--to", other).stderr
    (other / "extra").write_text("")
    assert "extra is not where SHA256SUMS says" in run("publish", benchmark_file, "--to", other).stderr
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    assert "holds no SHA256SUMS" in run("publish", benchmark_file, "--to", tmp_path / "thesis").stderr
    copy = altered(benchmark_file, tmp_path, lambda file: file.attrs.__setitem__("invented", 1))
    shutil.rmtree(other)
    shutil.copytree(published, other)
    assert "holds another publication" in run("publish", copy, "--to", other).stderr


@pytest.mark.parametrize("moment", ["write_parquet", "save_contact_sheet", "croissant", "check_sums"])
def test_an_interrupted_publication_is_continued(
    benchmark_file: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place = tmp_path / "fusion-mnist"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folder, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            publish(Publication(benchmark_file, place), progress=False)
    assert not place.exists()
    partial = next(tmp_path.iterdir())
    (partial / "data" / "torn.parquet.unfinished").write_bytes(b"torn")
    copied = (partial / "fusion-mnist.h5").stat().st_mtime_ns
    publish(Publication(benchmark_file, place), progress=False)
    assert (place / "fusion-mnist.h5").stat().st_mtime_ns == copied
    assert check_sums(place) == check_sums(published)
    assert list(tmp_path.iterdir()) == [place]


def test_dry_run_writes_nothing(benchmark_file: Path, tmp_path: Path) -> None:
    said = run("publish", benchmark_file, "--to", tmp_path / "a", "--dry-run")
    assert "would publish FusionMNIST under CC0-1.0" in said.stdout
    assert not list(tmp_path.iterdir())


def altered(benchmark_file: Path, tmp_path: Path, change: Callable[[h5py.File], object]) -> Path:
    path = tmp_path / "altered.h5"
    shutil.copy(benchmark_file, path)
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)
    return path


def license_is(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__("license", name)


def source_is(**fields: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs["source"] = json.dumps(json.loads(file.attrs["source"]) | fields)

    return change


CELEBA = [
    license_is("LicenseRef-CelebA"),
    source_is(name="celeba", stand_in=False),
    lambda file: (file.attrs.__setitem__("benchmark", "fusion-celeba"), license_is("unknown")(file)),
    lambda file: (source_is(name="celeba-like", stand_in=True)(file), license_is("CC-BY-4.0")(file)),
]


@pytest.mark.parametrize("change", CELEBA)
def test_celeba_never_travels(benchmark_file: Path, tmp_path: Path, change: Callable[[h5py.File], object]) -> None:
    file = altered(benchmark_file, tmp_path, change)
    for name in ("CC0-1.0", "LicenseRef-CelebA", "CC-BY-4.0"):
        said = run("publish", file, "--to", tmp_path / "out", "--license", name)
        assert said.exit_code == 1
        assert "forbid passing on any portion" in said.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["altered.h5"]
    said = run("publish", file, "--to", tmp_path / "out")
    assert said.exit_code == 0, said.stderr
    assert "a recipe without any image" in said.stdout
    assert set(check_sums(tmp_path / "out")) == {"recipe.json", "README.md", "CITATION.cff", "croissant.json"}
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert content.isascii() or content.decode()
    assert run("publish", file, "--to", tmp_path / "out").exit_code == 0


def test_a_recipe_gives_the_identical_file_or_names_the_rows(
    benchmark_file: Path, digits_folder: Path, tmp_path: Path
) -> None:
    file = altered(benchmark_file, tmp_path, CELEBA[0])
    assert run("publish", file, "--to", tmp_path / "out").exit_code == 0
    recipe, again = tmp_path / "out" / "recipe.json", tmp_path / "again.h5"
    command = ("build", "mnist", "--source", digits_folder, "--recipe", recipe, "--output", again)
    built = run(*command)
    assert built.exit_code == 0, built.stderr
    assert "seed 3, as the recipe says in every row" in built.stdout
    assert FusionDataset(again).digest == FusionDataset(benchmark_file).digest
    assert "already built" in run(*command).stdout
    other = Path(shutil.copytree(digits_folder, tmp_path / "other"))
    name = other / "t10k-images-idx3-ubyte.gz"
    images = bytearray(gzip.decompress(name.read_bytes()))
    images[16 + 28 * 28 * 7 + 400] ^= 255
    name.write_bytes(gzip.compress(bytes(images)))
    differing = run("build", "mnist", "--source", other, "--recipe", recipe, "--output", tmp_path / "b.h5")
    assert differing.exit_code == 1
    assert (
        "not what the recipe says in test row 7; the originals are not those that it was made from" in differing.stderr
    )
    (tmp_path / "old.json").write_text(
        recipe.read_text().replace(f'"numpy_version": "{np.__version__}"', '"numpy_version": "1.0"')
    )
    (tmp_path / "old.json").write_text(
        re.sub(r'("row_sha256": {"train": ")...', r"\1AAA", (tmp_path / "old.json").read_text())
    )
    old = run("build", "mnist", "--source", digits_folder, "--recipe", tmp_path / "old.json", "--output", again)
    assert "in train row 0; the originals are the same, but it was made with NumPy 1.0" in old.stderr
    for option in ("--seed", "--limit"):
        said = run(*command, option, 3)
        assert said.exit_code == 2
        assert f"leave {option} out" in said.stderr
    stand_in = ("build", "mnist", "--stand-in-count", 30, "--recipe", recipe, "--output", tmp_path / "c.h5")
    assert "the recipe needs 90 train and 40 test originals; the source has 30 train and 5" in run(*stand_in).stderr
    for text in ("{}", "[]", "nonsense", recipe.read_text().replace('"format_version": 1', '"format_version": 2')):
        (tmp_path / "bad.json").write_text(text)
        said = run("build", "mnist", "--recipe", tmp_path / "bad.json", "--output", tmp_path / "d.h5")
        assert said.exit_code == 1
        assert "is no recipe of version 1" in said.stderr


def test_others_images_need_a_licence(benchmark_file: Path, tmp_path: Path) -> None:
    file = altered(benchmark_file, tmp_path, license_is("unknown"))
    said = run("publish", file, "--to", tmp_path / "out")
    assert said.exit_code == 1
    assert "say with --license under which one" in said.stderr
    assert run("publish", file, "--to", tmp_path / "out", "--license", "CC-BY-4.0").exit_code == 0
    assert "license: cc-by-4.0" in (tmp_path / "out" / "README.md").read_text()
    said = run("publish", benchmark_file, "--to", tmp_path / "b", "--license", "MIT")
    assert "licensed CC0-1.0, not MIT" in said.stderr


def test_another_licence_or_author_is_another_publication(benchmark_file: Path, tmp_path: Path) -> None:
    file, out = altered(benchmark_file, tmp_path, license_is("unknown")), tmp_path / "out"
    mine = ("publish", file, "--to", out, "--license", "MIT", "--author", "A. Person", "--author", "B. Person")
    assert run(*mine).exit_code == 0
    assert run(*mine).exit_code == 0
    for other in (("--license", "CC-BY-4.0", *mine[6:]), ("--license", "MIT")):
        said = run("publish", file, "--to", out, *other)
        assert said.exit_code == 1
        assert "as published under MIT by A. Person, B. Person; choose another folder" in said.stderr
    assert run("publish", file, "--to", out, "--recipe", "--license", "MIT").exit_code == 2
    assert "holds another publication" in run("publish", file, "--to", out, "--recipe").stderr


def test_any_title_and_licence_can_be_read(benchmark_file: Path, tmp_path: Path) -> None:
    """A benchmark of one's own pictures is named as their folder is, and belongs to whoever publishes it."""
    yaml, title = pytest.importorskip("yaml"), "cats: \"a\" #1 | 'b'"

    def rename(file: h5py.File) -> None:
        spec = json.loads(file.attrs["spec"]) | {"title": title, "name": "folder"}
        file.attrs.update({"spec": json.dumps(spec), "benchmark": "folder", "license": "unknown"})

    file = altered(benchmark_file, tmp_path, rename)
    assert run("publish", file, "--to", tmp_path / "out", "--license", "My 'terms'").exit_code == 0
    told = front_matter(tmp_path / "out")
    assert (told["pretty_name"], told["license"], told["license_name"]) == (title, "other", "my-terms")
    citation = yaml.safe_load((tmp_path / "out" / "CITATION.cff").read_text())
    assert citation["title"] == title
    assert citation["authors"] == [{"name": f"The publisher of {title}"}]
    assert citation["identifiers"][0]["value"] == f"sha256:{FusionDataset(file).digest}"
    assert "license" not in citation
    card = (tmp_path / "out" / "README.md").read_text()
    assert "is defined in" not in card
    assert "It follows the benchmarks of" in card
    about = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert about["name"] == "cats_a_1_b"


def test_whoever_made_the_images_is_named_and_cited(benchmark_file: Path, tmp_path: Path) -> None:
    """Views rendered from T-LESS's CAD models are a work of its authors as well, though no photograph is among them."""
    header = FusionDataset(benchmark_file).header
    models = dataclasses.replace(header, benchmark="fusion-tless", license="CC-BY-4.0")
    photographs = dataclasses.replace(models, source={"name": "tless"})
    assert terms_of(models).attribution.startswith("The images are rendered from the CAD models of T-LESS (Tomáš")
    assert terms_of(photographs).attribution.startswith("The images are T-LESS's (Tomáš")
    for kept in (models, photographs):
        assert [work.key for work in works_of(kept)] == ["duffhauss2022fusionvae", "hodan2017tless"]
    assert works_of(header) == works_of(dataclasses.replace(models, license="CC0-1.0")) == [FUSIONVAE]
    assert terms_of(header).attribution == ""
    file = altered(benchmark_file, tmp_path, license_is("CC-BY-4.0"))
    assert run("publish", file, "--to", tmp_path / "out").exit_code == 0
    citation = (tmp_path / "out" / "CITATION.cff").read_text()
    assert re.findall(r"^    year: (.*)$", citation, re.MULTILINE) == ["2022", "1998"]
    assert "\nlicense: CC-BY-4.0\n" in citation
    assert "\ndate-released: 2001-09-09\n" in citation
    assert "@article{lecun1998gradient,\n  title     = {{Gradient-" in (tmp_path / "out" / "README.md").read_text()


def test_damaged_files_are_not_published(benchmark_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    content = bytearray(benchmark_file.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FusionDatasetsError):
        publish(Publication(path, tmp_path / "out"), progress=False)
    assert [found.name for found in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.originals
def test_mnist_goes_with_attribution(mnist_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    assert run("build", "mnist", "--source", mnist_root, "--limit", 20, "--output", file).exit_code == 0
    assert run("publish", file, "--to", tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("license: cc-by-sa-3.0", "Yann LeCun", "https://creativecommons.org/licenses/by-sa/3.0/"):
        assert part in card
    assert "look-alikes" not in card
    sums = (tmp_path / "out" / "SHA256SUMS").read_text()
    assert hashlib.sha256(card.encode()).hexdigest() in sums
