"""Publishing a benchmark file: a folder that explains, describes and proves itself."""

from fusion_datasets.publication.folder import Publication, publish
from fusion_datasets.publication.hub import publish_to_hub

__all__ = ["Publication", "publish", "publish_to_hub"]
