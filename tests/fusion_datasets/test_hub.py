"""The Hub: one commit or none, whatever it does; nothing read from it is believed; no token is ever told."""

import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_hub import FakeHub, fake_hub
from test_publication import CELEBA, altered

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.hub import HubAddress, local_file
from fusion_datasets.publication import Publication, publish, publish_to_hub
from fusion_datasets.publication.folder import check_sums

pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own making

TOKEN = "hf_mostSecretOfAllTokens"
PLACE = "hf://somebody/fusion-mnist"


def run(*arguments: object) -> Result:
    said = CliRunner().invoke(main, [str(argument) for argument in arguments])
    shown = said.stdout + said.stderr
    if said.exception is not None:
        shown += "".join(traceback.format_exception(said.exception))
    assert TOKEN not in shown
    return said


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeps that take no time."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Iterator[FakeHub]:
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for module in ("fusion_datasets.hub", "fusion_datasets.publication.hub"):
            monkeypatch.setattr(f"{module}.user_cache_path", lambda _: tmp_path / "cache")
        yield running


def test_one_commit_holds_the_same_files_as_a_folder(hub: FakeHub, benchmark_file: Path, tmp_path: Path) -> None:
    sums = publish(Publication(benchmark_file, tmp_path / "here"), progress=False)
    said = run("publish", benchmark_file, "--to", PLACE, "--private")
    assert said.exit_code == 0, said.stderr
    files = hub.repositories["somebody/fusion-mnist"]["main"]
    assert said.stdout.startswith(f"{PLACE}@{hub.commit_of(files)}: FusionMNIST under CC0-1.0")
    assert {*files} - {".gitattributes"} == {*sums, "SHA256SUMS"}
    for name in sums:
        assert files[name] == (tmp_path / "here" / name).read_bytes()
    assert hub.private == {"somebody/fusion-mnist": True}
    assert hub.requests.count("commit") == 1
    assert hub.tokens <= {f"Bearer {TOKEN}", None}
    assert not list((tmp_path / "cache" / "outbox").iterdir())


def test_another_branch_and_an_earlier_publication(hub: FakeHub, benchmark_file: Path) -> None:
    sums = b"0  data/train-00000-of-00002.parquet\n0  fusion-celeba.h5\n0  README.md\n0  gone.md\n"
    earlier = {"data/train-00000-of-00002.parquet": b"old", "fusion-celeba.h5": b"old", "README.md": b"old"}
    earlier |= {"notes.md": b"mine", "data/mine.csv": b"mine", "SHA256SUMS": sums}
    hub.repositories["somebody/fusion-mnist"] = {"main": dict(earlier)}
    assert run("publish", benchmark_file, "--to", PLACE, "--revision", "v2").exit_code == 0
    assert hub.repositories["somebody/fusion-mnist"]["main"] == earlier
    made = hub.repositories["somebody/fusion-mnist"]["v2"]
    assert made["notes.md"] == made["data/mine.csv"] == b"mine"
    assert {*earlier} - {*made} == {"data/train-00000-of-00002.parquet", "fusion-celeba.h5"}
    assert made["README.md"].startswith(b'---\npretty_name: "FusionMNIST"')


@pytest.mark.parametrize("stage", ["create", "preupload", "upload", "commit"])
def test_what_passes_is_waited_for(hub: FakeHub, benchmark_file: Path, pauses: list[float], stage: str) -> None:
    hub.faults[stage] = [429, 503, "cut"]
    said = run("publish", benchmark_file, "--to", PLACE)
    assert said.exit_code == 0, said.stderr
    assert "fusion-mnist.h5" in hub.repositories["somebody/fusion-mnist"]["main"]
    assert 7 <= max(pauses) <= 8  # as long as it asks
    assert len(pauses) <= 6


@pytest.mark.parametrize(
    ("stage", "fault"), [("create", "cut"), ("batch", 500), ("upload", "cut"), ("upload", 403), ("commit", 500)]
)
def test_what_stays_broken_is_one_sentence_and_no_commit(
    hub: FakeHub, benchmark_file: Path, tmp_path: Path, pauses: list[float], stage: str, fault: int | str
) -> None:
    hub.faults[stage] = [fault] * 400  # type: ignore[list-item]
    said = run("publish", benchmark_file, "--to", PLACE)
    assert said.exit_code == 1
    assert said.stderr.startswith(f"Error: {PLACE}@main: the Hub ")
    assert len(said.stderr.splitlines()) == 1
    made = hub.repositories.get("somebody/fusion-mnist", {"main": {".gitattributes": b""}})
    assert made == {"main": {".gitattributes": b""}}
    assert sum(pauses) < 900
    assert len(hub.requests) < 200
    hub.faults.clear()
    kept = next((tmp_path / "cache" / "outbox").iterdir())
    assert check_sums(kept)
    assert run("publish", benchmark_file, "--to", PLACE).exit_code == 0


def test_a_token_is_never_told(hub: FakeHub, benchmark_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for stage in ("create", "preupload", "commit"):
        hub.faults[stage] = ["echo"] * 9
        said = run("publish", benchmark_file, "--to", PLACE)
        assert said.exit_code == 1
        with pytest.raises(FusionDatasetsError) as caught:
            publish_to_hub(Publication(benchmark_file, Path()), HubAddress.parse(PLACE), progress=False)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
        hub.faults.clear()
    assert TOKEN not in caplog.text


def test_celeba_goes_as_a_recipe(hub: FakeHub, benchmark_file: Path, tmp_path: Path) -> None:
    file = altered(benchmark_file, tmp_path, CELEBA[0])
    assert run("publish", file, "--to", PLACE, "--license", "CC-BY-4.0").exit_code == 1
    assert not hub.requests
    assert run("publish", file, "--to", PLACE).exit_code == 0
    names = {*hub.repositories["somebody/fusion-mnist"]["main"]}
    assert names == {".gitattributes", "recipe.json", "README.md", "CITATION.cff", "croissant.json", "SHA256SUMS"}
    assert "it is a recipe, for `build --recipe`" in run("info", PLACE).stderr


def test_dry_run_and_wrong_usage(hub: FakeHub, benchmark_file: Path, tmp_path: Path) -> None:
    said = run("publish", benchmark_file, "--to", PLACE, "--revision", "v2", "--dry-run")
    assert f"would publish FusionMNIST under CC0-1.0 into {PLACE}@v2: fusion-mnist.h5," in said.stdout
    assert not hub.requests
    assert not list(tmp_path.iterdir())
    assert run("publish", benchmark_file, "--to", tmp_path / "a", "--private").exit_code == 2
    assert run("publish", benchmark_file, "--to", f"{PLACE}@a", "--revision", "b").exit_code == 2
    for address in ("hf://name", "hf://a/b/c", "hf://a/..@main", "hf://a/b@", "hf://a/b@../c"):
        said = run("publish", benchmark_file, "--to", address)
        assert said.exit_code == 1
        assert "expected hf://owner/name" in said.stderr


@pytest.fixture
def published(hub: FakeHub, benchmark_file: Path) -> str:
    """Address of the commit of a publication."""
    return publish_to_hub(Publication(benchmark_file, Path()), HubAddress.parse(PLACE), progress=False)


def test_what_is_published_is_read_back(
    hub: FakeHub, published: str, benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FusionDataset(PLACE, split="test")
    assert data.digest == FusionDataset(benchmark_file).digest
    assert data.path.read_bytes() == benchmark_file.read_bytes()
    shelf = tmp_path / "cache" / "hub" / "somebody--fusion-mnist"
    assert [path.name for path in shelf.iterdir()] == [published.partition("@")[2]]
    assert "whole and unaltered" in run("verify", f"{PLACE}@main").stdout
    assert data.digest in run("info", PLACE).stdout
    assert hub.requests.count("resolve") == 4  # once for each of two files, each asked about first
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert FusionDataset(published, split="train").path == data.path
    said = run("info", PLACE)
    assert said.exit_code == 1
    assert f"Error: {PLACE}@main: the Hub cannot be reached" in said.stderr


@pytest.mark.usefixtures("published")
def test_a_build_takes_what_is_published(hub: FakeHub, benchmark_file: Path, tmp_path: Path) -> None:
    take = ("build", "mnist", "--source", PLACE, "--output", tmp_path / "a.h5")
    assert "would fetch" in run(*take, "--dry-run").stdout
    assert not (tmp_path / "a.h5").exists()
    assert "a.h5: fetched and verified, FusionMNIST, 130 rows" in run(*take).stdout
    assert (tmp_path / "a.h5").read_bytes() == benchmark_file.read_bytes()
    assert "a.h5: already fetched" in run(*take).stdout
    assert "leave --seed out" in run(*take, "--seed", 0).stderr
    damaged = benchmark_file.read_bytes()[:9000]
    (tmp_path / "a.h5").write_bytes(damaged)
    assert "is another file" in run(*take).stderr
    assert (tmp_path / "a.h5").read_bytes() == damaged
    assert run(*take, "--force").exit_code == 0
    (tmp_path / "thesis").write_bytes(b"mine")
    assert "is no benchmark file" in run(*take[:-1], tmp_path / "thesis", "--force").stderr
    assert (tmp_path / "thesis").read_bytes() == b"mine"
    said = run("build", "tless", "--source", PLACE, "--output", tmp_path / "b.h5")
    assert f"{PLACE}@main holds FusionMNIST; expected FusionT-LESS" in said.stderr
    files = hub.repositories["somebody/fusion-mnist"]["main"]
    files["fusion-mnist.h5"] = files["fusion-mnist.h5"][:-1] + b"?"
    said = run("build", "mnist", "--source", PLACE, "--output", tmp_path / "c.h5")
    assert "its SHA256SUMS says" in said.stderr
    assert not (tmp_path / "c.h5").exists()


def test_a_recipe_is_built_from_there(hub: FakeHub, benchmark_file: Path, digits_folder: Path, tmp_path: Path) -> None:
    assert run("publish", benchmark_file, "--to", PLACE, "--recipe").exit_code == 0
    build = ("build", "mnist", "--source", digits_folder, "--recipe", f"{PLACE}@main", "--output")
    assert "as the recipe says in every row" in run(*build, tmp_path / "a.h5").stdout
    assert FusionDataset(tmp_path / "a.h5").digest == FusionDataset(benchmark_file).digest
    files = hub.repositories["somebody/fusion-mnist"]["main"]
    files["recipe.json"] = files["recipe.json"].replace(b'"seed": 3', b'"seed": 4')
    assert "recipe.json has the SHA-256" in run(*build, tmp_path / "b.h5").stderr
    files["SHA256SUMS"] = b""
    assert "holds no recipe.json" in run(*build, tmp_path / "b.h5").stderr


@pytest.mark.usefixtures("published")
def test_of_several_readers_one_fetches(hub: FakeHub) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = {data.path for data in pool.map(FusionDataset, [PLACE] * 3)}
    assert len(paths) == 1
    assert hub.requests.count("resolve") == 4


@pytest.mark.usefixtures("published")
def test_what_passes_is_waited_for_when_reading(hub: FakeHub, pauses: list[float]) -> None:
    hub.faults = {"info": [429, "cut"], "resolve": [503, "cut", 500]}
    assert len(FusionDataset(PLACE, split="test")) == 40
    assert max(pauses) <= 8
    hub.faults = {"info": [500] * 99}
    assert run("info", PLACE).stderr == f"Error: {PLACE}@main: the Hub answers 500; run the same command again later\n"


@pytest.mark.usefixtures("published")
def test_nothing_from_there_is_believed(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repositories["somebody/fusion-mnist"]["main"]
    whole = files["fusion-mnist.h5"]
    files["fusion-mnist.h5"] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(FusionDatasetsError, match=r"fusion-mnist.h5 has the SHA-256 \w+; its SHA256SUMS says"):
        local_file(HubAddress.parse(PLACE), progress=False)
    files["SHA256SUMS"] = b"0" * 64 + b"  ../../a.h5\n"
    with pytest.raises(FusionDatasetsError, match="holds 0 benchmark files; expected one"):
        local_file(HubAddress.parse(PLACE), progress=False)
    del files["SHA256SUMS"]
    with pytest.raises(FusionDatasetsError, match="the Hub answers 404; there is none"):
        local_file(HubAddress.parse(PLACE), progress=False)
    with pytest.raises(FusionDatasetsError, match="the Hub answers 404; there is none"):
        local_file(HubAddress.parse("hf://somebody/else"), progress=False)
    assert not list(tmp_path.rglob("*.h5"))
