"""Publishing a benchmark file: a folder that explains, describes and proves itself."""

from fusion_datasets.publication.folder import Publication, publish

__all__ = ["Publication", "publish"]
