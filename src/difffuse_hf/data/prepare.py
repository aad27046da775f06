"""From a builder to a folder of Parquet shards with a data-set card, and to the Hub if asked: private by default.

The folder is what `--dataset` of the training scripts takes; `datasets.load_dataset(folder)` reads it, streaming too.

    prepare(make_builder("brats2021", "BraTS2021_TrainingData"), Path("data/slices"), num_proc=4)
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, require_choice
from ..io.files import complete_folder
from .splits import SPLITS

if TYPE_CHECKING:  # the command line asks for `BUILDERS` before anything heavy is loaded
    from .builder import FolderBuilder

BUILDERS = {"brats2021": "BraTS2021", "wmh": "WMH", "ist3": "IST3", "mosmed": "MosMed"}  # layout -> class, in its file
ARRAYS = "ist3_arrays", "IST3Arrays"  # file and class for stroke patients that were drawn straight to arrays
UPLOADED = ["*.parquet", "README.md", "preprocessor_config.json"]


def make_builder(layout: str, raw: str | Path, config: str | None = None, **options: Any) -> "FolderBuilder":
    """The builder that reads a raw folder.

    Args:
        layout (`str`): one of `BUILDERS`.
        raw (`str` or `Path`): the folder, as the data set lies or as `BrainPhantom` wrote it.
        config (`str`, *optional*): "volumes", "slices" or, for MosMed, "nifti"; the layout's own by default.
        options: fields of the builder's configuration (`image_size`, `labels`, `split`, ...); `None` is its default.

    Raises:
        InputError: there is no such layout or configuration, or the layout has no such option.
    """
    require_choice("layout", layout, BUILDERS)
    builder = _builder_class(layout, Path(raw))
    config = config or builder.DEFAULT_CONFIG_NAME
    require_choice("config", config, [one.name for one in builder.BUILDER_CONFIGS])
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in _options(builder):
            fitting = [other for other in BUILDERS if name in _options(_builder_class(other))]
            what = f"arrays of the layout {layout}" if builder.__name__ == ARRAYS[1] else f"the layout {layout}"
            raise InputError(f"`{name}` is no option of {what}; it belongs to {', '.join(fitting) or 'none'}.")
    return builder(config, data_dir=raw, **given)


def prepare(
    builder: "FolderBuilder",
    output: str | Path,
    num_proc: int | None = None,
    push_to_hub: str | None = None,
    public: bool = False,
) -> None:
    """Write `<split>-00000-of-0000N.parquet`, a card, and the preprocessing of the configuration if it has any.

    Files that the builder refers to (NIfTI) are embedded. Splits that the builder does not make stay as they are, so
    folders that are separated already are added one at a time. `output` changes at once, when all of it is complete.

    Args:
        builder (`FolderBuilder`): see `make_builder`.
        output (`str` or `Path`): folder of the shards.
        num_proc (`int`, *optional*): processes; one by default.
        push_to_hub (`str`, *optional*): upload the folder to this data set on the Hub.
        public (`bool`): everybody may read it there; data of patients must stay private.

    Raises:
        InputError: the other splits in `output` have other columns, or the upload failed.
    """
    from ..io.hub import push_folder
    from .cards import dataset_card

    output = Path(output)
    with complete_folder(output) as folder:
        prepared = folder / ".making" / "parquet"  # `datasets` leaves lock files beside it
        builder.download_and_prepare(str(prepared), file_format="parquet", num_proc=num_proc)
        made = builder.info.splits or {}
        if not any(info.num_examples for info in made.values()):
            raise InputError(f"Nothing of {builder.root} is left with these options, so {output} was not written.")
        _check_other_splits(builder, output, set(SPLITS) - set(made))
        processor = builder.processor_config()
        remade = {"README.md", *(shard.name for split in made for shard in shards_of(output, split))}
        keep_others(output, folder, remade | ({"preprocessor_config.json"} if processor is not None else set()))
        for split in made:
            shards = sorted(prepared.glob(f"{builder.dataset_name}-{split}*.parquet"))
            for number, shard in enumerate(shards):
                shard.replace(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        shutil.rmtree(prepared.parent)
        if processor is not None:
            text = json.dumps(processor, indent=2, sort_keys=True) + "\n"  # as an image processor saves itself
            (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
        shards = {split: found for split in SPLITS if (found := shards_of(folder, split))}
        card = dataset_card(builder, shards, push_to_hub or str(output))
        (folder / "README.md").write_text(card, encoding="utf-8")
    for split, info in made.items():
        print(f"{split}: {info.num_examples} rows in {output}")
    if push_to_hub:
        address = push_folder(
            output,
            push_to_hub,
            repo_type="dataset",
            public=public,
            allow_patterns=UPLOADED,
            delete_patterns="*.parquet",
        )
        print(f"pushed to {address}")


def _builder_class(layout: str, raw: Path | None = None) -> "type[FolderBuilder]":
    """The class for a layout; of the layout ist3, that for arrays if the folder `raw` holds such."""
    file, name = layout, BUILDERS[layout]
    if layout == "ist3" and raw is not None:
        from ..phantoms.ist3_arrays import ROWS_FILE

        file, name = ARRAYS if (raw / ROWS_FILE).is_file() else (file, name)
    return getattr(import_module(f".{file}", __package__), name)


def _options(builder: "type[FolderBuilder]") -> set[str]:
    return {field.name for field in dataclasses.fields(builder.BUILDER_CONFIG_CLASS)}


def shards_of(output: Path, split: str) -> list[Path]:
    """The Parquet files of a split in a folder that `prepare` has written, in order."""
    return sorted(output.glob(f"{split}-*-of-*.parquet"))


def _check_other_splits(builder: "FolderBuilder", output: Path, others: Iterable[str]) -> None:
    import datasets
    import pyarrow.parquet as pq

    for split in others:
        for shard in shards_of(output, split)[:1]:
            if datasets.Features.from_arrow_schema(pq.read_schema(shard)) != builder.info.features:
                raise InputError(f"{shard} was made with other columns or sizes; choose another folder or remove it.")


def keep_others(output: Path, folder: Path, remade: set[str]) -> None:
    """What lies in `output` and is not made anew comes along, by links where the disk has them."""
    for entry in output.iterdir() if output.is_dir() else ():
        if entry.name in remade or entry.name.startswith("."):
            continue
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(entry, folder / entry.name)


def _link_or_copy(file: str | Path, place: str | Path) -> None:
    try:
        os.link(file, place, follow_symlinks=False)
    except OSError:
        shutil.copy2(file, place, follow_symlinks=False)
