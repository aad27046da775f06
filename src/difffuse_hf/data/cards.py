"""The card of a data set: what it is, who may have it, how many rows and people it counts."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.errors import EntryNotFoundError

from .builder import FolderBuilder
from .slice_settings import PREVIEW

_INTERNAL = {"fingerprint", "split", "labels", "masks"} | {f.name for f in dataclasses.fields(datasets.BuilderConfig)}
_PEOPLE = ("patient", "subject")  # the column that counts people, the first that is there

_ABOUT_PREVIEW = f"""
`{PREVIEW}` is a small JPEG of the row for the eye alone: the channels of a slice, or four slices of a scan, side by
side. The values to compute with are in `image`.
"""
_CARD = """---
{metadata}
---

# {name}

{origin}

{description}

Builder `{builder}` of difffuse_hf, configuration `{config}`.

## Access and licence

{licence}
{how_to_get_it}
**{warning}**

## Contents

{counts}

## Columns

{columns}
{about_preview}
## Options

{options}

## Use

```python
from datasets import load_dataset

train = load_dataset("{address}", split="train")
```

## Citation

```bibtex
{citation}
```
"""


def is_synthetic(dataset: str) -> bool:
    """Whether the card of a data set, in its folder or on the Hub, carries the tag `synthetic`."""
    card = Path(dataset, "README.md")
    if Path(dataset).exists() and not card.exists():
        return False
    try:
        return "synthetic" in (DatasetCard.load(card if card.exists() else dataset).data.to_dict().get("tags") or [])
    except EntryNotFoundError:
        return False


def count_rows(builder: FolderBuilder, shards: Sequence[Path]) -> dict[str, int]:
    """Rows, people, and rows of every label of one split, which lies in `shards`: {heading: number}."""
    features = builder.features()
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    person = next((name for name in _PEOPLE if name in features), None)
    table = datasets.concatenate_datasets(
        [datasets.Dataset(pq.read_table(shard, columns=[*labels, *([person] if person else [])])) for shard in shards]
    )
    counts = {"rows": table.num_rows}
    if person:
        counts[f"{person}s"] = len(set(table[person]))
    for name in labels:
        values = Counter(table[name])
        counts |= {f"{name}: {features[name].int2str(i)}": values[i] for i in range(features[name].num_classes)}
        if values[None]:
            counts[f"{name}: unknown"] = values[None]
    return counts


def describe(metadata: DatasetCardData, shards: Mapping[str, Sequence[Path]]) -> DatasetCardData:
    """Put columns, rows and bytes of the Parquet files of each split into a card's metadata, as `dataset_info`."""
    files = {split: [pq.ParquetFile(shard) for shard in found] for split, found in shards.items()}
    first = next(file for found in files.values() for file in found)
    splits = datasets.SplitDict()
    for split, found in files.items():
        groups = [file.metadata.row_group(i) for file in found for i in range(file.num_row_groups)]
        unpacked, rows = (sum(getattr(group, name) for group in groups) for name in ("total_byte_size", "num_rows"))
        splits.add(datasets.SplitInfo(split, unpacked, rows))
    info = datasets.DatasetInfo(
        features=datasets.Features.from_arrow_schema(first.schema_arrow),
        splits=splits,
        download_size=sum(shard.stat().st_size for found in shards.values() for shard in found),
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )
    datasets.info.DatasetInfosDict(default=info).to_dataset_card_data(metadata)
    return metadata


def dataset_card(builder: FolderBuilder, shards: Mapping[str, Sequence[Path]], address: str) -> str:
    """The card in Markdown with the Hub's metadata on top.

    Args:
        builder (`FolderBuilder`): what made the data set.
        shards (`Mapping`): the Parquet files of each split.
        address (`str`): folder or Hub name, shown in the example.
    """
    info, synthetic, columns = builder.info, builder.synthetic, builder.columns()
    counts = {split: count_rows(builder, found) for split, found in shards.items()}
    name = type(builder).__name__
    metadata = DatasetCardData(
        license="other",
        license_name="synthetic-data" if synthetic else "see-access-and-licence",
        pretty_name=f"{name}, synthetic" if synthetic else name,
        license_link=None if synthetic else builder.HOMEPAGE,
        task_categories=["image-classification", *(["image-segmentation"] if {"mask", "seg"} & set(columns) else [])],
        tags=["medical", "difffuse", *(["synthetic"] if synthetic else [])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}-*.parquet"} for split in counts],
            }
        ],
    )
    headings = list(dict.fromkeys(heading for row in counts.values() for heading in row))
    rows = [[split, *(str(row.get(heading, 0)) for heading in headings)] for split, row in counts.items()]
    options = {field.name: getattr(builder.config, field.name) for field in dataclasses.fields(builder.config)}
    return _CARD.format(
        metadata=describe(metadata, shards).to_yaml(),
        name=metadata.pretty_name,
        builder=name,
        origin=f"**SYNTHETIC: subjects in the layout of {name}, made by `BrainPhantom`; no patient is in here.**"
        if synthetic
        else f"Made from {name}.",
        description=f"The data set that is imitated: {info.description}" if synthetic else info.description,
        config=builder.config.name,
        licence=f"Of the data set that is imitated: {info.license}" if synthetic else info.license,
        how_to_get_it=f"\n{builder.HOW_TO_GET_IT}\n" if builder.HOW_TO_GET_IT else "",
        warning="These data are synthetic. A copy made from patients must stay private."
        if synthetic
        else "Patient data: keep this data set private, and share it only as its licence allows.",
        counts=_table(["split", *headings], rows),
        columns=_table(["column", "type"], [[key, f"`{feature}`"] for key, feature in columns.items()]),
        about_preview=_ABOUT_PREVIEW if PREVIEW in columns else "",
        options=_table(
            ["option", "value"],
            [[key, f"`{value}`"] for key, value in options.items() if key not in _INTERNAL],
        ),
        address=address,
        citation=info.citation.strip(),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
