"""A publication on the Hugging Face Hub: made and verified here, then one commit, so that nothing is half-published."""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.hub import SUMS, HubAddress, connected, digests_in, fetched, patiently
from fusion_datasets.publication.folder import Publication, publish

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def publish_to_hub(
    publication: Publication, address: HubAddress, *, private: bool | None = None, progress: bool = True
) -> str:
    """Publish on the Hub what `publish` puts into a folder; large files go by its upload protocol.

    Called again after a failure, it makes nothing twice and sends only what has not arrived. Files of an earlier
    publication that this one lacks leave in the same commit: those that its `SHA256SUMS` names. Other files stay.

    Arguments:
        publication: What is to be published; its folder is of no account.
        address: Where to; a branch that is not there is made.
        private: Whether a repository that is to be made is private; None leaves it to the owner's settings.
        progress: Report on stderr.

    Returns:
        Address of the commit.

    Raises:
        FusionDatasetsError: If the images may not be published, or the Hub fails for longer than a few attempts.
    """
    outbox = user_cache_path("fusion-datasets") / "outbox"
    folder = outbox / f"{address.repository.replace('/', '--')}.{publication.mark}"
    local = replace(publication, folder=folder)
    publish(local, progress=progress)
    with connected(address) as api:
        commit = patiently(lambda: _commit(api, local, address, private))
    shutil.rmtree(folder)
    return commit


def _commit(api: "HfApi", publication: Publication, address: HubAddress, private: bool | None) -> str:
    import huggingface_hub as hub

    place, names = address.repository, [*publication.names, SUMS]
    api.create_repo(place, repo_type="dataset", private=private, exist_ok=True)
    if address.revision != "main":
        api.create_branch(place, branch=address.revision, repo_type="dataset", exist_ok=True)
    found = api.dataset_info(place, revision=address.revision)
    there = [file.rfilename for file in found.siblings or ()]
    stale = sorted(_earlier(api, address, str(found.sha)) & set(there) - set(names)) if SUMS in there else []
    operations: list[hub.CommitOperationAdd | hub.CommitOperationCopy | hub.CommitOperationDelete] = [
        *(hub.CommitOperationAdd(name, publication.folder / name) for name in names),
        *(hub.CommitOperationDelete(name) for name in stale),
    ]
    made = api.create_commit(
        place,
        operations,
        commit_message=f"Publish {publication.splits[0].spec.title}",
        repo_type="dataset",
        revision=address.revision,
    )
    if not made.oid:
        raise FusionDatasetsError(f"{address}: the Hub names no commit; look at the page of the data set")
    return f"hf://{place}@{made.oid}"


def _earlier(api: "HfApi", address: HubAddress, commit: str) -> set[str]:
    """The files of the publication that a commit holds."""
    with TemporaryDirectory() as folder:
        return set(digests_in(fetched(api, address, SUMS, commit, Path(folder)).read_text(encoding="utf-8")))
