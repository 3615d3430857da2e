"""What the licence of the originals lets one pass on."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.schema import FileHeader

CELEBA: Final = "LicenseRef-CelebA"
"""Non-commercial research only, and no portion may be passed on."""


@dataclass(frozen=True)
class Terms:
    """The terms under which images travel.

    Arguments:
        license: SPDX identifier, or what the publisher states.
        url: The licence's text, where it is a known one.
        attribution: Whom to name, or an empty string.
    """

    license: str
    url: str = ""
    attribution: str = ""


_URLS: Final = MappingProxyType(
    {
        "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
        "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
        "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
        "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    }
)

RECIPE_TERMS: Final = Terms("CC0-1.0", _URLS["CC0-1.0"])
"""Of a recipe: it is numbers."""

_ATTRIBUTIONS: Final = MappingProxyType(
    {
        "fusion-mnist": "The images are MNIST's (Yann LeCun, Corinna Cortes, Christopher J. C. Burges, 1998), "
        "padded; the inputs are rendered from them.",
        "fusion-tless": "The images are T-LESS's (Tomáš Hodaň, Pavel Haluza, Štěpán Obdržálek, Jiří Matas, Manolis "
        "Lourakis, Xenophon Zabulis, 2017), cropped and scaled; the inputs are rendered from them.",
    }
)

_ATTRIBUTIONS_OF_MODELS: Final = MappingProxyType(
    {
        "fusion-tless": "The images are rendered from the CAD models of T-LESS (Tomáš Hodaň, Pavel Haluza, Štěpán "
        "Obdržálek, Jiří Matas, Manolis Lourakis, Xenophon Zabulis, 2017), not taken from its photographs.",
    }
)
"""Of look-alikes that are made from something of the originals."""


def is_celeba(header: FileHeader) -> bool:
    """Whether a file holds any portion of CelebA, under whatever name."""
    name = str(header.source.get("name", ""))
    claims = header.license == CELEBA or header.benchmark == "fusion-celeba" or name.startswith("celeba")
    return claims and not (header.source.get("stand_in") is True and header.license == "CC0-1.0")


def terms_of(header: FileHeader, stated: str | None = None) -> Terms:
    """The terms under which a file's images may be published.

    Arguments:
        header: Of the file.
        stated: What the publisher says the licence is, for images whose licence the file does not know.

    Raises:
        FusionDatasetsError: If they may not, or nobody has said under which.
    """
    if is_celeba(header):
        raise FusionDatasetsError(
            "CelebA's terms forbid passing on any portion of it, under whatever licence and as previews too: "
            "only a recipe is published; leave --license out"
        )
    if header.license in _URLS:
        if stated not in (None, header.license):
            raise FusionDatasetsError(f"the images are licensed {header.license}, not {stated}; leave --license out")
        rendered = header.source.get("stand_in") is True
        known = _ATTRIBUTIONS_OF_MODELS if rendered else _ATTRIBUTIONS
        attribution = "" if header.license == "CC0-1.0" else known.get(header.benchmark, "")
        return Terms(header.license, _URLS[header.license], attribution)
    if not stated:
        raise FusionDatasetsError(
            f"the licence of these images is {header.license}; say with --license under which one you may publish them"
        )
    return Terms(stated, _URLS.get(stated, ""))
