"""What a reader of a publication sees first: the dataset card, as text."""

import json
import re
import shlex
import textwrap
from typing import Final

from fusion_datasets.publication.citation import bibliography
from fusion_datasets.publication.parquet import column_meanings
from fusion_datasets.publication.terms import Terms, is_celeba
from fusion_datasets.publication.works import quoted
from fusion_datasets.spec import BENCHMARKS, EllipseLaw
from fusion_datasets.store import FusionDataset
from fusion_datasets.visibility import visibility

_PAPER: Final = "[FusionVAE](https://arxiv.org/abs/2209.11277) (Duffhauss et al., ECCV 2022)"
_LOOK_ALIKES: Final = """
> **Rendered look-alikes.** These images imitate the originals; results on them say nothing about results on the
> originals.
"""
_REPEATABLE: Final = (
    "Each evaluation row draws its randomness from the seed, the split and its position in the source alone, so the "
    "same source and seed give the same content."
)
_COMPARED: Final = "every row is rendered again and compared bit for bit by"
_RECIPE: Final = (
    "the benchmark's numbers, the seed, the digest of the originals, which of them went into which row, and digests of "
    "every array and of every row (the first 16 bytes of its SHA-256, in base64)"
)


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
    spec = data.spec
    rows = "\n".join(f"| {split.split} | {len(split):,} | {_contents(split)} |" for split in splits)
    laid_over = ""
    if data.header.occluders:
        laid_over = f"![What is laid over the targets](previews/{spec.default_split}-occluders.png)\n\n"
        counts = ", ".join(f"{count:,} for {split}" for split, count in data.header.occluders.items())
        rows += f"\n| occluders | {counts} | what is laid over the targets; in the HDF5 file alone |"
    law = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in json.loads(spec.to_json()).items()
    )
    own_occluders = " --occluders OCCLUDERS" * bool(data.header.occluders and data.benchmark not in BENCHMARKS)
    grey = " Its colours are stored; the paper's models see grey." if spec.grey else ""
    return f"""---
{_front_matter(spec.title, terms.license)}
size_categories:
  - {_size_category(sum(map(len, splits)))}
configs:
{_configs(splits)}
---

# {spec.title}
{_LOOK_ALIKES * data.is_stand_in}
{_paragraph(f"{summary(data)}{grey} {_definition(data)}")}

![Rows of {spec.title}: inputs, then the target](previews/{spec.default_split}.png)

{laid_over}## What is here

| | |
|---|---|
| `{file_name}` | the benchmark itself, one HDF5 file |
| `data/*.parquet` | the same rows with PNG images, for viewers and for tools that do not read HDF5 |
| `previews/` | contact sheets |
| `croissant.json` | [Croissant](https://docs.mlcommons.org/croissant/) metadata: files, digests, fields |
| `CITATION.cff` | what to cite |
| `SHA256SUMS` | check with `sha256sum -c SHA256SUMS` |

| split | rows | |
|---|---|---|
{rows}

| HDF5 | Parquet | |
|---|---|---|
{_columns(splits[-1])}

Use inputs 1 … k of a row for an evaluation with k inputs.

## Reading it

```python
from fusion_datasets import FusionDataset

# on the Hub: FusionDataset("hf://owner/name@revision", …), fetched once and verified
with FusionDataset("{file_name}", split="{spec.default_split}") as data:
    example = data[0]  # .target uint8 [h, w, c], .inputs uint8 [k, h, w, c], .masks bool [k, h, w]
```

Without fusion-datasets, in any language that reads HDF5; here in Python:

```python
import h5py

with h5py.File("{file_name}") as file:
    target, inputs, masks = (file["{spec.default_split}"][name][0] for name in ("target", "inputs", "masks"))
```

Parquet, by Hugging Face's `datasets`; the targets of training are the configuration `training`:

```python
from datasets import load_dataset

rows = load_dataset("FOLDER", "evaluation", split="{spec.default_split}")  # where this lies, or owner/name
```

## How it was made

{_paragraph(f"{_making(data, tool)} {_REPEATABLE} With SOURCE, the folder of the {_originals(data)}, {_COMPARED}")}

```sh
fusion-datasets verify {file_name} --source SOURCE{own_occluders} --all
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

{_limits(data)}

## Citation

```bibtex
{bibliography(data)}
```
"""


def recipe_card(data: FusionDataset, *, title: str, tool: str) -> str:
    """The card of a publication that holds no image.

    Arguments:
        data: Any split of the benchmark.
        title: Of the publication.
        tool: Name and version of what publishes.
    """
    spec, header = data.spec, data.header
    *most, last = (f"{count:,} {split}" for split, count in header.rows.items())
    why, licence = "", f"The {_originals(data)}: {header.license}."
    if is_celeba(header):
        why = ": the terms of the originals forbid passing them on"
        licence = (
            "The originals: CelebA's own terms, which allow non-commercial research alone and no portion to be passed "
            "on; [ask their authors for them](https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)."
        )
    use = (
        f"**There is no image here, nor any part of one**{why}. `recipe.json` says how the file with "
        f"{', '.join(most)} and {last} rows was made, and holds a digest of every row. With your own copy of the "
        f"{_originals(data)} it gives the identical content, or names the rows that differ:"
    )
    source, options = "SOURCE", ""
    if header.benchmark not in BENCHMARKS:  # what is not in the recipe's hands must be as it says
        source = shlex.quote(spec.title)
        options = f" --size {spec.height}{' --grey' * (spec.channels == 1)}{' --flips' * spec.flips}"
        options += " --occluders OCCLUDERS" * bool(header.occluders)
    command = f"build {header.benchmark.removeprefix('fusion-')} --source {source}{options}"
    return f"""---
{_front_matter(title, "CC0-1.0")}
viewer: false
---

# {title}
{_LOOK_ALIKES * data.is_stand_in}
{_paragraph(f"{summary(data)} {_definition(data)}")}

{_paragraph(use)}

```sh
fusion-datasets {command} --recipe recipe.json --output {header.benchmark}.h5
```

On the Hub, `--recipe hf://owner/name@revision` fetches it first and compares it with `SHA256SUMS`.

## What is here

| | |
|---|---|
| `recipe.json` | {_RECIPE} |
| `croissant.json` | [Croissant](https://docs.mlcommons.org/croissant/) metadata: files, digests, fields |
| `CITATION.cff` | what to cite |
| `SHA256SUMS` | check with `sha256sum -c SHA256SUMS` |

## How it was made

{_paragraph(f"{_making(data, tool)} {_REPEATABLE} Masks follow from these alone.")}

Digest of the content: `{data.digest}`.

## Licence

{_paragraph(f"The recipe, being numbers: CC0-1.0. {licence}")}

## Known limits

{_limits(data)}

## Citation

```bibtex
{bibliography(data)}
```
"""


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 119, break_long_words=False, break_on_hyphens=False)


def _originals(data: FusionDataset) -> str:
    return "look-alikes" if data.is_stand_in else "originals"


def _front_matter(title: str, license_name: str) -> str:
    """What the Hub reads first of any card."""
    named = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0"}
    terms = f"license: {license_name.lower()}"
    if license_name not in named:
        terms = (
            f"license: other\nlicense_name: {re.sub('[^a-z0-9.]+', '-', license_name.lower()).strip('-') or 'other'}"
        )
    return f"""pretty_name: {quoted(title)}
{terms}
task_categories:
  - image-to-image
tags:
  - image-fusion
  - benchmark
  - croissant"""


def _size_category(rows: int) -> str:
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for most, name in sizes if rows < most), "1M<n<10M")


def _configs(splits: list[FusionDataset]) -> str:
    """Which Parquet files are read together: those of the same columns, and training has fewer."""
    lines = []
    for name, is_training in (("evaluation", False), ("training", True)):
        if chosen := [data.split for data in splits if (data.split == "train") == is_training]:
            lines.append(f"  - config_name: {name}" + "\n    default: true" * (not is_training) + "\n    data_files:")
            lines += [f"      - split: {split}\n        path: data/{split}-*.parquet" for split in chosen]
    return "\n".join(lines)


def _definition(data: FusionDataset) -> str:
    if data.benchmark in BENCHMARKS:
        return f"{data.spec.title} is defined in {_PAPER}."
    return f"It follows the benchmarks of {_PAPER}."


def _contents(data: FusionDataset) -> str:
    """What a split holds, and how much its inputs show."""
    if data.split == "train":
        side = data.spec.target_shape("train")[0]
        larger = f" of {side}×{side}" if side != data.shape[0] else ""
        return f"clean targets{larger}; inputs are rendered live"
    return f"target, {data.spec.max_inputs} frozen inputs and their masks: they show {visibility(data)}"


def _columns(data: FusionDataset) -> str:
    """What the arrays of an evaluation split hold, and which columns they are in Parquet."""
    k, meanings = data.spec.max_inputs, column_meanings(data)
    inputs = meanings["input_1"].removesuffix(" 1")
    lines = [
        f"| `SPLIT/target` uint8 [n, h, w, c] | `target` | {meanings['target']} |",
        f"| `SPLIT/inputs` uint8 [n, {k}, h, w, c] | `input_1` … `input_{k}` | {inputs} k; not in `train` |",
        f"| `SPLIT/masks` uint8 [n, {k}, h, w] | `mask_1` … `mask_{k}` | 1 (white) where input k shows the target, "
        "else 0 (black); not in `train` |",
    ]
    lines += [
        f"| `SPLIT/{name}` int64 [n] | `{name}` | {meanings[name]} |" for name in ("index", "label") if name in meanings
    ]
    if data.header.occluders:
        lines.append("| `occluders/SPLIT/rgba` uint8 [m, p, p, 4] | | an object cut out, red, green, blue and alpha |")
        lines += [
            f"| `occluders/SPLIT/{name}` int64 [m] | | {meaning} |"
            for name, meaning in (("object_id", "what it is"), ("index", meanings["index"]))
        ]
    return "\n".join(lines)


def _making(data: FusionDataset, tool: str) -> str:
    source, header = data.source, data.header
    left_out = ", ".join(f"{len(flaws):,} of {section}" for section, flaws in header.omitted.items())
    return (
        f"By {tool} with seed {header.seed} and NumPy {header.numpy_version}, from `{source['name']}` (layout "
        f"{source['layout']}"
        + f", decoder {source.get('decoder')}" * ("decoder" in source)
        + f", digest `{source['digest']}`)."
        + f" Originals that could not be used are left out: {left_out}." * bool(left_out)
    )


def _limits(data: FusionDataset) -> str:
    spec, limits = data.spec, []
    if data.benchmark in BENCHMARKS:
        limits.append(
            "The evaluation inputs are not those of the paper's authors, which were never published; they follow the "
            "same law."
        )
    if not isinstance(spec.law, EllipseLaw) and data.benchmark in BENCHMARKS:
        limits.append("Occluders are cut out by an edge detector, not by true masks: a rim may be a pixel off.")
    limits += [
        "Random streams are those of the stated version of NumPy; another one may draw others from the same seed.",
        "Training inputs are not stored: they are meant to be rendered anew, endlessly, by the same law.",
    ]
    return "\n".join(f"* {limit}" for limit in limits)
