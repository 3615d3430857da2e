"""The Hugging Face Hub: addresses, patience, and benchmark files read from there; needs the extra `[hub]`.

A token comes from `HF_TOKEN` or the Hub's own login and goes nowhere else: what the Hub's client says or raises never
reaches a log, and errors become one sentence without their cause.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from platformdirs import user_cache_path

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.locking import locked
from fusion_datasets.shards import file_sha256
from fusion_datasets.verification import verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME: Final = "hf://"
SUMS: Final = "SHA256SUMS"
RECIPE: Final = "recipe.json"

_ADDRESS: Final = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ATTEMPTS: Final = 4
_LONGEST_PAUSE_S: Final = 120.0
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubAddress:
    """A data set on the Hub.

    Arguments:
        repository: `owner/name`.
        revision: A branch, a tag or a commit.
    """

    repository: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Read `hf://owner/name` or `hf://owner/name@revision`.

        Raises:
            FusionDatasetsError: If the text is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise FusionDatasetsError(f"got the address {text}; expected hf://owner/name or hf://owner/name@revision")
        return cls(match[1], match[2] or "main")

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}@{self.revision}"


@contextmanager
def connected(address: HubAddress) -> Iterator["HfApi"]:
    """Speak with the Hub; whatever its client raises becomes one sentence that holds no token.

    Raises:
        FusionDatasetsError: If the Hub or its client fails, or huggingface_hub is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # the LFS protocol, which needs no service of its own
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise FusionDatasetsError(
            "the Hugging Face Hub needs huggingface_hub; install it with: pip install 'fusion-datasets[hub]'"
        ) from error
    from huggingface_hub import utils

    verbosity, silent = hub.logging.get_verbosity(), utils.are_progress_bars_disabled()
    hub.logging.set_verbosity(hub.logging.CRITICAL)  # its warnings hold signed addresses
    if not silent and not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield hub.HfApi(
            endpoint=os.environ.get("HF_ENDPOINT"),
            library_name="fusion-datasets",
            library_version=version("fusion-datasets"),
        )
    except FusionDatasetsError:
        raise
    except Exception as error:
        # Without its cause, whose request holds the token.
        raise FusionDatasetsError(f"{address}: {_sentence(error, hub.get_token())}") from None
    finally:
        hub.logging.set_verbosity(verbosity)
        if not silent:
            utils.enable_progress_bars()


def patiently(call: Callable[[], Result]) -> Result:
    """Repeat a call that failed for a reason that may pass, a few times, with pauses or as long as the Hub asks."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except Exception as error:
            pause = _pause_s(error, attempt)
            if pause is None or pause > _LONGEST_PAUSE_S:
                raise
            time.sleep(pause)
    return call()


def local_file(address: HubAddress, *, progress: bool = True) -> Path:
    """See that the benchmark file of a publication lies in the user's cache folder, verified.

    It is compared with the `SHA256SUMS` of the same commit, then with its own digests, and gets its name only then.
    A commit that is there already is not asked for again, so `@` and a full commit hash work without a network. Of
    several processes that want it at once, one fetches and the others wait.

    Arguments:
        address: Of the publication.
        progress: Report on stderr.

    Returns:
        The HDF5 file.

    Raises:
        FusionDatasetsError: If it cannot be had, or is not what the publication says.
    """

    def name_among(names: list[str]) -> str:
        found = [name for name in names if re.fullmatch(r"[\w-]+\.h5", name)]
        if len(found) != 1:
            kept = ": it is a recipe, for `build --recipe`" if RECIPE in names else ""
            raise FusionDatasetsError(f"{address} holds {len(found)} benchmark files; expected one{kept}")
        return found[0]

    return _shelved(address, "*.h5", name_among, partial(verify, progress=progress))


def local_recipe(address: HubAddress) -> Path:
    """See that the recipe of a publication lies in the user's cache folder; as `local_file`, but for its content.

    Returns:
        The `recipe.json`.
    """

    def name_among(names: list[str]) -> str:
        if RECIPE not in names:
            raise FusionDatasetsError(f"{address} holds no {RECIPE}; expected a publication without images")
        return RECIPE

    return _shelved(address, RECIPE, name_among, lambda path: None)


def _shelved(
    address: HubAddress, pattern: str, name_among: Callable[[list[str]], str], check: Callable[[Path], object]
) -> Path:
    """The file of a publication that matches a pattern, from the cache folder, or fetched and checked first."""
    shelves = user_cache_path("fusion-datasets") / "hub"
    shelf = shelves / address.repository.replace("/", "--")

    def there(folder: Path) -> Path | None:
        return next(iter(sorted(folder.glob(pattern))), None)

    revision = address.revision
    if _COMMIT.fullmatch(revision) and (found := there(shelf / revision)):
        return found
    with connected(address) as api:
        info = patiently(lambda: api.dataset_info(address.repository, revision=revision))
        folder, commit = shelf / str(info.sha), str(info.sha)
        if found := there(folder):
            return found
        workshop, turn = shelf / f".{commit}.partial", shelves / ".turns" / shelf.name
        turn.mkdir(parents=True, exist_ok=True)
        with locked(turn, wait=True):  # one of several processes fetches, the others find
            if found := there(folder):
                return found
            workshop.mkdir(parents=True, exist_ok=True)
            digests = digests_in(fetched(api, address, SUMS, commit, workshop).read_text(encoding="utf-8"))
            path = fetched(api, address, name_among(list(digests)), commit, workshop)
            if (got := file_sha256(path)) != digests[path.name]:
                path.unlink()
                raise FusionDatasetsError(
                    f"{address}: {path.name} has the SHA-256 {got}; its {SUMS} says {digests[path.name]}"
                )
            check(path)
            folder.mkdir(exist_ok=True)
            path.replace(folder / path.name)
            shutil.rmtree(workshop)
        return folder / path.name


def located(path: str | os.PathLike[str]) -> Path:
    """The local file that a path or an `hf://` address means; the latter's is fetched where it is not there."""
    text = os.fspath(path)
    return local_file(HubAddress.parse(text)) if text.startswith(SCHEME) else Path(text)


def digests_in(sums: str) -> dict[str, str]:
    """What a `SHA256SUMS` says: path → SHA-256."""
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in sums.splitlines())}


def fetched(api: "HfApi", address: HubAddress, name: str, commit: str, folder: Path) -> Path:
    """Fetch one file of a commit into a folder, patiently; nothing is compared yet."""

    def call() -> str:
        return api.hf_hub_download(address.repository, name, repo_type="dataset", revision=commit, local_dir=folder)

    return Path(patiently(call))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _answer(error: BaseException) -> Any:
    """The Hub's answer that an error, or what caused it, is about."""
    return next((answer for cause in _chain(error) if (answer := getattr(cause, "response", None)) is not None), None)


def _pause_s(error: BaseException, attempt: int) -> float | None:
    """How long to wait before the next attempt, or None where that is in vain."""
    if (answer := _answer(error)) is not None:
        after = str(answer.headers.get("Retry-After", ""))
        pause = float(after) if after.isdigit() else 2.0**attempt
        return pause if answer.status_code in _PASSING else None
    kinds = {kind.__name__ for cause in _chain(error) for kind in type(cause).__mro__}  # whichever HTTP client it uses
    return 2.0**attempt if "TransportError" in kinds else None


def _sentence(error: BaseException, token: str | None) -> str:
    if (answer := _answer(error)) is None:
        *_, root = _chain(error)
        said = f"the Hub cannot be reached or gave no usable answer ({type(root).__name__}: {root})"
    else:
        status = answer.status_code
        remedy = {
            401: "log in with `hf auth login` or set HF_TOKEN",
            403: "its token may not do that; use one with write access",
            404: "there is none of that name and revision, or only for those who are logged in",
        }.get(status, "run the same command again later")
        said = f"the Hub answers {status}; {remedy}"
    return " ".join((said.replace(token, "…") if token else said).split())
