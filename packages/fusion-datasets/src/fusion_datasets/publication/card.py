"""What a reader of a publication sees first: the dataset card, the citation, both as text."""

import json
from typing import Final

from fusion_datasets.publication.parquet import image_columns, integer_columns
from fusion_datasets.publication.terms import Terms
from fusion_datasets.publication.works import works_of
from fusion_datasets.spec import EllipseLaw
from fusion_datasets.store import FusionDataset
from fusion_datasets.visibility import visibility

_CITATION: Final = """cff-version: 1.2.0
message: "If you use this data set, please cite {cited}."
title: "{title}"
type: dataset
{license_line}authors:
  - name: "The fusionvae maintainers"
references:
{references}
"""


def citation_file(data: FusionDataset, terms: Terms) -> str:
    """CITATION.cff of a publication."""
    works = works_of(data.header)
    return _CITATION.format(
        title=data.spec.title,
        cited="the paper that defines it" + ", and the authors of its images" * (len(works) > 1),
        license_line=f'license-url: "{terms.url}"\n' if terms.url else "",
        references="\n".join(work.reference() for work in works),
    )


def bibliography(data: FusionDataset) -> str:
    """BibTeX of what is to be cited."""
    return "\n\n".join(work.bibtex() for work in works_of(data.header))


def summary(data: FusionDataset) -> str:
    """One paragraph: what the data set is."""
    spec = data.spec
    height, width, channels = data.shape
    noise = f", with Gaussian noise of standard deviation {spec.noise_std} (white is 1)" if spec.noise_std else ""
    shown = (
        f"the union of {spec.law.count} random ellipses of the target, black elsewhere"
        if isinstance(spec.law, EllipseLaw)
        else f"the target behind {spec.law.count[0]} to {spec.law.count[1]} other objects"
    )
    origin = f"rendered to look like those of {spec.source}" if data.is_stand_in else f"from {spec.source}"
    return (
        f"{spec.title} ({height}×{width}×{channels}) tests whether a model fuses several occluded"
        f"{', noisy' * bool(noise)} images of one thing into the image behind them. Each of the {spec.max_inputs} "
        f"inputs of an evaluation row shows {shown}{noise}. The images are {origin}."
    )


def card(splits: list[FusionDataset], terms: Terms, *, file_name: str, tool: str) -> str:
    """The dataset card: front matter for the Hugging Face Hub, then Markdown.

    Arguments:
        splits: Every split of the benchmark.
        terms: Of its images.
        file_name: Name of the HDF5 file beside the card.
        tool: Name and version of what publishes.
    """
    data = splits[0]
    spec, header, source = data.spec, data.header, data.source
    rows = "\n".join(f"| {split.split} | {len(split):,} | {_contents(split)} |" for split in splits)
    laid_over = ""
    if header.occluders:
        laid_over = f"![What is laid over the targets](previews/{spec.default_split}-occluders.png)\n\n"
        counts = ", ".join(f"{count:,} for {split}" for split, count in header.occluders.items())
        rows += f"\n| occluders | {counts} | what is laid over the targets, RGBA; in the HDF5 file alone |"
    columns = ", ".join(f"`{name}`" for name in (*image_columns(splits[-1]), *integer_columns(splits[-1])))
    parquet = (
        f"the same rows with PNG images, for viewers and for tools that do not read HDF5: {columns}; `train` has no "
        "inputs and masks, and a mask is white where its input shows the target"
    )
    configs = "\n".join(f"      - split: {s.split}\n        path: data/{s.split}-*.parquet" for s in splits)
    total = sum(len(split) for split in splits)
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    size = next((name for most, name in sizes if total < most), "1M<n<10M")
    law = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in json.loads(spec.to_json()).items()
    )
    grey = " Its colours are stored; the paper's models see grey." if spec.grey else ""
    stand_in = (
        "\n> **Rendered look-alikes.** These images imitate the originals; results on them say nothing about "
        "results on the originals.\n"
        if data.is_stand_in
        else ""
    )
    return f"""---
pretty_name: {spec.title}
license: {_hub_license(terms.license)}
task_categories:
  - image-to-image
tags:
  - image-fusion
  - benchmark
  - croissant
size_categories:
  - {size}
configs:
  - config_name: default
    data_files:
{configs}
---

# {spec.title}
{stand_in}
{summary(data)}{grey} It is defined in [FusionVAE](https://arxiv.org/abs/2209.11277) (Duffhauss et al., ECCV 2022).

![Rows of {spec.title}: inputs, then the target](previews/{spec.default_split}.png)

{laid_over}## What is here

| | |
|---|---|
| `{file_name}` | the benchmark itself; its layout is specified in `docs/format.md` of fusion-datasets |
| `data/*.parquet` | {parquet} |
| `previews/` | contact sheets |
| `croissant.json` | [Croissant](https://docs.mlcommons.org/croissant/) metadata: files, digests, fields |
| `SHA256SUMS` | check with `sha256sum -c SHA256SUMS` |

| split | rows | |
|---|---|---|
{rows}

Use inputs 1 … k of a row for an evaluation with k inputs.

```python
from fusion_datasets import FusionDataset

# on the Hub: FusionDataset("hf://owner/name@revision", …), fetched once and verified
with FusionDataset("{file_name}", split="{spec.default_split}") as data:
    example = data[0]  # .target uint8 [h, w, c], .inputs uint8 [k, h, w, c], .masks bool [k, h, w]
```

## How it was made

By {tool} with seed {header.seed} and NumPy {header.numpy_version}, from `{source["name"]}` (layout {source["layout"]},
digest `{source["digest"]}`). Each evaluation row draws its randomness from the seed, the split and its
position in the source alone, so the same source and seed give the same content. With SOURCE, the folder of the
{"look-alikes" if data.is_stand_in else "originals"}, every row is rendered again and compared bit for bit by

```sh
fusion-datasets verify {file_name} --source SOURCE --all
```

Digest of the content: `{data.digest}`.

<details><summary>All numbers that define the benchmark</summary>

```json
{{
{law}
}}
```

</details>

## Licence

{terms.license}{f" ({terms.url})" if terms.url else ""}.{f" {terms.attribution}" if terms.attribution else ""}

## Known limits

* The evaluation inputs are not those of the paper's authors, which were never published; they follow the same law.
* Random streams are those of the stated version of NumPy; another one may draw others from the same seed.
* Training inputs are not stored: they are meant to be rendered anew, endlessly, by the same law.

## Citation

```bibtex
{bibliography(data)}
```
"""


def _contents(data: FusionDataset) -> str:
    """What a split holds, and how much its inputs show."""
    if data.split == "train":
        side = data.spec.target_shape("train")[0]
        larger = f" of {side}×{side}" if side != data.shape[0] else ""
        return f"clean targets{larger}; inputs are rendered live"
    return f"target, {data.spec.max_inputs} frozen inputs and their masks: they show {visibility(data)}"


def recipe_card(data: FusionDataset, *, tool: str) -> str:
    """The card of a publication that holds no image."""
    spec, header, source = data.spec, data.header, data.source
    rows = ", ".join(f"{count:,} {split}" for split, count in header.rows.items())
    command = header.benchmark.removeprefix("fusion-")
    return f"""# {spec.title}: a recipe

{summary(data)} It is defined in [FusionVAE](https://arxiv.org/abs/2209.11277) (Duffhauss et al., ECCV 2022).

**There is no image here, nor any part of one**: the terms of the originals forbid passing them on. `recipe.json`
says how {tool} made the file with {rows} rows (seed {header.seed}, NumPy {header.numpy_version}), from
`{source["name"]}` with the digest `{source["digest"]}`, and holds a
digest of every row. With your own copy of the originals it gives the identical content, or names the rows that differ:

```sh
fusion-datasets build {command} --source ORIGINALS --recipe recipe.json --output {header.benchmark}.h5
```

Digest of the content: `{data.digest}`.

## Licence

The recipe, being numbers: CC0-1.0. The originals: CelebA's own terms, which allow non-commercial research alone and no
portion to be passed on; [ask their authors for them](https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html).

## Citation

```bibtex
{bibliography(data)}
```
"""


def _hub_license(name: str) -> str:
    known = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0"}
    return name.lower() if name in known else "other"
