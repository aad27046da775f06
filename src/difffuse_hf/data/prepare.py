"""From a builder to a folder of Parquet shards with a data-set card, and to the Hub if asked: private by default.

The folder is what `--dataset` of the training scripts takes; `datasets.load_dataset(folder)` reads it, streaming too.

    prepare(BraTS2021("slices", data_dir="BraTS2021_TrainingData"), Path("data/slices"), num_proc=4)
"""

import argparse
import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError

from ..errors import InputError
from .builder import FolderBuilder
from .splits import SPLITS

_INTERNAL = {"fingerprint", "split", "labels", "masks"} | {f.name for f in dataclasses.fields(datasets.BuilderConfig)}
_PEOPLE = ("patient", "subject")  # the column that counts people, the first that is there

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all scripts share."""
    parser.add_argument("--split", choices=SPLITS, help="put every subject into this split, keeping the other splits")
    parser.add_argument("--split_seed", type=int, default=0, help="of the division 70-15-15 by patient")
    parser.add_argument("--num_proc", type=int, help="processes; one by default")
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="upload the folder to this data set on the Hub")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the data set on the Hub private; patient data must be",
    )


def prepare(
    builder: FolderBuilder,
    output: str | Path,
    num_proc: int | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
) -> None:
    """Write `<split>-00000-of-0000N.parquet`, a card, and the processor of the configuration if it has one.

    Files that the builder refers to (NIfTI) are embedded. Splits that the builder does not make stay as they are, so
    folders that are separated already are added one at a time. What is in `output` changes when a split is complete.

    Raises:
        InputError: the other splits in `output` have other columns, or the upload failed.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".prepare-") as temporary:
        prepared = Path(temporary, "parquet")  # `datasets` leaves lock files beside it
        builder.download_and_prepare(str(prepared), file_format="parquet", num_proc=num_proc)
        if not any(info.num_examples for info in builder.info.splits.values()):
            raise InputError(f"Nothing of {builder.root} is left with these options, so {output} was not written.")
        _check_other_splits(builder, output)
        for split in builder.info.splits:
            _replace_split(output, split, sorted(prepared.glob(f"{builder.dataset_name}-{split}*.parquet")))
    processor = builder.processor()
    if processor is not None:
        processor.save_pretrained(output)
    counts = {split: _count(builder.info.features, output, split) for split in SPLITS if _shards(output, split)}
    (output / "README.md").write_text(_card(builder, counts, push_to_hub or str(output)), encoding="utf-8")
    for split in builder.info.splits:
        print(f"{split}: {counts[split]['rows']} rows in {output}")
    if push_to_hub:
        print(f"pushed to {push(output, push_to_hub, private)}")


def push(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a prepared folder in one commit; returns the commit's address.

    Raises:
        InputError: the Hub refuses, cannot be reached, or has a public data set where a private one was asked for.
    """
    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id, repo_type="dataset").private:
            raise InputError(
                f"The data set {repo_id} on the Hub is public; make it private there, or say so with --no-private."
            )
        return api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=["*.parquet", "README.md", "preprocessor_config.json"],
            delete_patterns="*.parquet",
            commit_message="Upload with difffuse_hf",
        ).commit_url
    except (OSError, HTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is complete, but the Hub did not take it as {repo_id}: {reason}") from error


def _shards(output, split):
    return sorted(output.glob(f"{split}-*-of-*.parquet"))


def _check_other_splits(builder, output):
    for split in set(SPLITS) - set(builder.info.splits):
        for shard in _shards(output, split)[:1]:
            if datasets.Features.from_arrow_schema(pq.read_schema(shard)) != builder.info.features:
                raise InputError(f"{shard} was made with other columns or sizes; choose another folder or remove it.")


def _replace_split(output, split, prepared):
    for old in _shards(output, split):
        old.unlink()
    for number, shard in enumerate(prepared):
        shard.replace(output / f"{split}-{number:05d}-of-{len(prepared):05d}.parquet")


def _count(features, output, split):
    """Rows, people, and rows of every label of one split: {heading: number}."""
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    person = next((name for name in _PEOPLE if name in features), None)
    table = datasets.concatenate_datasets(
        [
            datasets.Dataset(pq.read_table(shard, columns=[*labels, *([person] if person else [])]))
            for shard in _shards(output, split)
        ]
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


def _card(builder, counts, address):
    info, synthetic = builder.info, builder.synthetic
    name = type(builder).__name__
    metadata = DatasetCardData(
        license="other",
        license_name="synthetic-data" if synthetic else "see-access-and-licence",
        pretty_name=f"{name}, synthetic" if synthetic else name,
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
        metadata=metadata.to_yaml(),
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
        columns=_table(["column", "type"], [[key, f"`{feature}`"] for key, feature in info.features.items()]),
        options=_table(
            ["option", "value"],
            [[key, f"`{value}`"] for key, value in options.items() if key not in _INTERNAL],
        ),
        address=address,
        citation=info.citation.strip(),
    )


def _table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
