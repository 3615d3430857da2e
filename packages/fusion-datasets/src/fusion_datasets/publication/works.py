"""The works that a publication asks to be cited: what defines the benchmark, and where its images come from."""

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fusion_datasets.schema import FileHeader


@dataclass(frozen=True)
class Work:
    """A publication.

    Arguments:
        key: Its name in a bibliography.
        title: In full.
        authors: Family and given names, in their order.
        venue: The conference; of an article, the journal.
        year: Of publication.
        is_article: Whether it stood in a journal.
    """

    key: str
    title: str
    authors: tuple[tuple[str, str], ...]
    venue: str
    year: int
    is_article: bool = False

    def bibtex(self) -> str:
        """The entry of a bibliography."""
        kind, where = ("article", "journal") if self.is_article else ("inproceedings", "booktitle")
        fields = {
            "title": f"{{{self.title}}}",  # its capitals are meant
            "author": " and ".join(map(", ".join, self.authors)),
            where: self.venue,
            "year": self.year,
        }
        lines = ",\n".join(f"  {name:<9} = {{{value}}}" for name, value in fields.items())
        return f"@{kind}{{{self.key},\n{lines}\n}}"

    def reference(self) -> str:
        """The entry of CITATION.cff's references."""
        where = "journal" if self.is_article else "collection-title"
        lines = [
            f"  - type: {'article' if self.is_article else 'conference-paper'}",
            f"    title: {quoted(self.title)}",
            "    authors:",
            *(f"      - {{ family-names: {quoted(a)}, given-names: {quoted(b)} }}" for a, b in self.authors),
            f"    year: {self.year}",
            f"    {where}: {quoted(self.venue)}",
        ]
        return "\n".join(lines)


FUSIONVAE: Final = Work(
    "duffhauss2022fusionvae",
    "FusionVAE: A Deep Hierarchical Variational Autoencoder for RGB Image Fusion",
    (("Duffhauss", "Fabian"), ("Vien", "Ngo Anh"), ("Ziesche", "Hanna"), ("Neumann", "Gerhard")),
    "Computer Vision – ECCV 2022",
    2022,
)

_ORIGINALS: Final = MappingProxyType(
    {
        "fusion-mnist": Work(
            "lecun1998gradient",
            "Gradient-Based Learning Applied to Document Recognition",
            (("LeCun", "Yann"), ("Bottou", "Léon"), ("Bengio", "Yoshua"), ("Haffner", "Patrick")),
            "Proceedings of the IEEE",
            1998,
            is_article=True,
        ),
        "fusion-celeba": Work(
            "liu2015celeba",
            "Deep Learning Face Attributes in the Wild",
            (("Liu", "Ziwei"), ("Luo", "Ping"), ("Wang", "Xiaogang"), ("Tang", "Xiaoou")),
            "IEEE International Conference on Computer Vision (ICCV)",
            2015,
        ),
        "fusion-tless": Work(
            "hodan2017tless",
            "T-LESS: An RGB-D Dataset for 6D Pose Estimation of Texture-less Objects",
            (
                *(("Hodaň", "Tomáš"), ("Haluza", "Pavel"), ("Obdržálek", "Štěpán"), ("Matas", "Jiří")),
                *(("Lourakis", "Manolis"), ("Zabulis", "Xenophon")),
            ),
            "IEEE Winter Conference on Applications of Computer Vision (WACV)",
            2017,
        ),
    }
)


def works_of(header: FileHeader) -> list[Work]:
    """What is to be cited with a file: the paper, and the originals, unless its images are in the public domain."""
    original = _ORIGINALS.get(header.benchmark)
    return [FUSIONVAE] if original is None or header.license == "CC0-1.0" else [FUSIONVAE, original]


def quoted(text: str) -> str:
    """A string for YAML, whatever is in it: JSON's are a part of YAML's."""
    return json.dumps(text, ensure_ascii=False)
