"""The exact healthy twin of synthetic slices: the same subject before the lesion was painted in.

Only `BrainPhantom` can draw one, so only its cohorts have the column `healthy`; no scan of a patient has a twin.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.progress import track

from ..errors import InputError, require_choice
from ..io.files import complete_folder
from .prepare import keep_others, make_builder, shards_of
from .splits import SPLITS

if TYPE_CHECKING:
    import datasets

    from .slice_builder import SliceBuilder

LAYOUTS = {"brats2021": "brats2021", "mr": "brats2021", "wmh": "wmh"}  # of the phantom -> of the folders
RECIPE = ("modalities", "image_size", "pixel_spacing_mm", "reference_intensity", "slice_margin", "min_foreground")
LEAST_EQUAL = 0.5  # share of the tissue outside the lesion; ringing and blur may carry a lesion over its edge
ROUNDING = 1e-5
CARD = """
## Healthy twins

The column `healthy` shows each slice with a lesion of the split {splits} as it was before the lesion was painted in,
scaled as the slice is; it is empty elsewhere. It exists because these data are synthetic: no patient has such a twin.
"""


def add_healthy_twins(
    slices: str | Path,
    raw: str | Path,
    output: str | Path,
    layout: str,
    anatomies: str | Path | None = None,
    splits: Sequence[str] = ("test",),
    **options: Any,
) -> int:
    """Copy a set of slices, with a column `healthy` like `image` that is empty but for slices with a lesion.

    One subject is in memory at a time. `output` appears when all of it is complete; it may be `slices` itself.

    Args:
        slices (`str` or `Path`): folder of Parquet shards, as `prepare` has made it of `raw`.
        raw (`str` or `Path`): the folder that `BrainPhantom` wrote.
        layout (`str`): of the phantom: `"brats2021"`, `"mr"` or `"wmh"`.
        anatomies (`str` or `Path`, *optional*): that the subjects were drawn on; the built-in ones by default.
        splits: whose slices get a twin; the others have an empty column.
        options: those of the builder that `slices` were made with, beside what its `preprocessor_config.json` says,
            such as `brain_mask` of the layout wmh.

    Returns:
        How many slices have got a twin.

    Raises:
        InputError: the data are not synthetic, or the slices were made of another cohort or with other options.
    """
    import datasets
    from huggingface_hub import DatasetCard, DatasetCardData

    from .cards import describe

    require_choice("layout", layout, LAYOUTS)
    slices, output, count = Path(slices), Path(output), 0
    shards = {split: found for split in SPLITS if (found := shards_of(slices, split))}
    if missing := [split for split in splits if split not in shards]:
        raise InputError(f"{slices} has no split named '{missing[0]}'.")
    source = TwinSource(slices, raw, layout, anatomies, options)
    with complete_folder(output) as folder, TemporaryDirectory(dir=folder, prefix=".") as cache:
        keep_others(slices, folder, {"README.md", *(shard.name for found in shards.values() for shard in found)})
        for split, found in shards.items():
            for shard in found:
                rows = datasets.Dataset.from_parquet(str(shard), cache_dir=cache)
                assert isinstance(rows, datasets.Dataset)
                twins = source.twins_of(rows) if split in splits else {}
                features = datasets.Features({**rows.features, "healthy": rows.features["image"]})
                rows = rows.map(
                    lambda row, i, twins=twins: {"healthy": twins.get(i)},
                    with_indices=True,
                    features=features,
                    writer_batch_size=64,
                )
                rows.to_parquet(folder / shard.name)
                count += len(twins)
        card = DatasetCard.load(slices / "README.md")
        describe(cast(DatasetCardData, card.data), {split: shards_of(folder, split) for split in shards})
        text = str(card) + ("" if CARD[:20] in str(card) else CARD.format(splits=", ".join(splits)))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return count


class TwinSource:
    """Where the twins of a cohort come from: its files, its phantom and its recipe."""

    def __init__(self, slices: Path, raw: str | Path, layout: str, anatomies: Any, options: Mapping[str, Any]):
        from ..io.model_folder import read_json
        from ..phantoms.brain_phantom import BrainPhantom

        recipe = read_json(slices / "preprocessor_config.json")
        given = {name: recipe[name] for name in RECIPE} | dict(options)
        given |= {name: tuple(given[name]) for name in ("modalities", "image_size")}
        self.builder: SliceBuilder = make_builder(LAYOUTS[layout], raw, "slices", **given)  # pyright: ignore[reportAttributeAccessIssue]
        if not self.builder.synthetic:
            raise InputError(f"{raw} was not written by BrainPhantom: scans of patients have no healthy twin.")
        with self.builder.subjects_table.open(newline="", encoding="utf-8") as file:
            self.rows = {row["subject"]: row for row in csv.DictReader(file)}
        if (layout == "mr") != ("kind" in next(iter(self.rows.values()), {})):
            raise InputError(f"{raw} is not of the layout {layout}; name the one that it was drawn in.")
        self.cases = {self.builder.subject_of(case): case for case in self.builder.cases()[0]}
        self.layout, self.anatomies, self._cohort = layout, anatomies, BrainPhantom

    def twins_of(self, rows: "datasets.Dataset") -> dict[int, np.ndarray]:
        """{row: the healthy slice (C, H, W)} of the rows with a lesion."""
        places: dict[str, list[int]] = {}
        for i, (subject, label) in enumerate(zip(rows["subject"], rows["label"])):
            if label:
                places.setdefault(subject, []).append(i)
        found, images = {}, rows.with_format("numpy", columns=["image", "slice"])
        for subject, here in track(places.items(), "Drawing healthy twins", disable=not places):
            shown, healthy = self.draw(subject)
            for i in here:
                row = images[i]
                if np.abs(row["image"] - shown[row["slice"]]).max() > ROUNDING:
                    raise InputError(f"{subject} in {self.builder.root} is not the one that the slices were made of.")
                found[i] = healthy[row["slice"]]
        return found

    def draw(self, subject: str) -> tuple[np.ndarray, np.ndarray]:
        """All slices (S, C, H, W) of a subject, and the same of its twin at the intensities of the first."""
        if subject not in self.rows or subject not in self.cases:
            raise InputError(f"{self.builder.root} holds no subject {subject}; give the folder of this cohort.")
        row = self.rows[subject]
        cohort = self._cohort(self.layout, self.anatomies, int(row["seed"]))
        twin = cohort.subject(int(subject.replace("/", "_").rsplit("_", 1)[1]), lesion=False)
        scan = self.builder.read(self.cases[subject])
        names = {name.lower(): volume for name, volume in twin.volumes.items()}
        healthy = np.stack([names[name] for name in self.builder.config.modalities]).astype(np.float32)
        tissue = (scan.volumes > 0).any(0)
        outside = tissue & ~scan.lesion & (True if scan.other is None else ~scan.other)
        if twin.group != row["group"] or (healthy == scan.volumes)[:, outside].mean() < LEAST_EQUAL:
            raise InputError(
                f"{subject} cannot be drawn again; give the anatomies that it was drawn on, {row['group']} among them."
            )
        images, geometry = self.builder.config.recipe.cut(scan.volumes, scan.affine)
        return images.numpy(), self.builder.config.recipe.cut_like(healthy * tissue, geometry).numpy()
