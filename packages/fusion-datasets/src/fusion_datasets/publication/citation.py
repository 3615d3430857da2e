"""How a publication is to be cited: CITATION.cff, and BibTeX for its card."""

from datetime import date
from typing import Final

from fusion_datasets.publication.terms import Terms
from fusion_datasets.publication.works import quoted, works_of
from fusion_datasets.spec import BENCHMARKS
from fusion_datasets.store import FusionDataset

VERSION: Final = "1.0.0"
"""Of what is published; another content is another publication."""

_CITATION: Final = """cff-version: 1.2.0
message: "If you use this data set, please cite {cited}."
title: {title}
type: dataset
version: {version}
date-released: {released}
{license_lines}identifiers:
  - type: other
    value: "sha256:{digest}"
    description: Digest of the content
authors:
{authors}
references:
{references}
"""


def citation_file(data: FusionDataset, terms: Terms, *, title: str, authors: tuple[str, ...], released: date) -> str:
    """CITATION.cff of a publication.

    Arguments:
        data: Any of its splits.
        terms: Of what is published.
        title: Of the publication.
        authors: Who answer for it, at least one.
        released: The day of publication.
    """
    works = works_of(data.header)
    paper = "the paper that defines it" if data.benchmark in BENCHMARKS else "the paper whose benchmarks it follows"
    return _CITATION.format(
        title=quoted(title),
        cited=paper + ", and the authors of its images" * (len(works) > 1),
        version=VERSION,
        released=released.isoformat(),
        license_lines=f"license: {terms.license}\n" if terms.url else "",  # one that the format has a name for
        digest=data.digest,
        authors="\n".join(f"  - name: {quoted(author)}" for author in authors),
        references="\n".join(work.reference() for work in works),
    )


def bibliography(data: FusionDataset) -> str:
    """BibTeX of what is to be cited."""
    return "\n\n".join(work.bibtex() for work in works_of(data.header))
