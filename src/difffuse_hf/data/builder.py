"""What the builders share: a folder of one's own as source, caches that notice changed files, splits by group.

The data sets cannot be downloaded by a program: `data_dir` is a folder that the user has obtained, or one that
`BrainPhantom` wrote. A phantom leaves `subjects.csv` there (subject, group, seed, lesion_ml): subjects of one group
sit on the same anatomy and stay in the same split.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from ..errors import InputError
from ..io.subjects import SUBJECTS, read_subjects
from .slice_settings import PREVIEW
from .splits import SPLITS, split_by_group

PREVIEW_PIXELS = 128  # most, in height
_UNUSABLE = "unusable input"  # marks the errors that are for the user


@dataclass
class FolderConfig(datasets.BuilderConfig):
    """Options of every builder."""

    split_seed: int = 0
    split: str | None = None  # put all subjects into this one split (folders that are separated already)
    fingerprint: str = ""  # filled in by the builder: files that change are prepared again


class FolderBuilder(datasets.GeneratorBasedBuilder):
    """A builder that reads the folder `data_dir`; subclasses say how to get it and which files count."""

    BUILDER_CONFIG_CLASS = FolderConfig
    config: Any  # an instance of the above, or of what a subclass has in its place
    DESCRIPTION = HOMEPAGE = CITATION = LICENCE = ""
    HOW_TO_GET_IT = ""  # one sentence, the end of every message about a missing folder
    FILES = ("*/*.nii*", "subjects.csv")  # patterns below `data_dir`: a change in these makes a new cache

    def __init__(self, config_name: str | None = None, data_dir: str | Path | None = None, **kwargs):
        if data_dir is not None:
            data_dir = str(Path(data_dir).expanduser().resolve())  # the cache key is this string
            kwargs["fingerprint"] = _fingerprint(self.source_files(Path(data_dir), **kwargs))
        super().__init__(config_name=config_name, data_dir=data_dir, **kwargs)
        self.config.__post_init__()  # `datasets` sets the options on a copy, which has not checked itself

    @classmethod
    def source_files(cls, root: Path, **options) -> list[Path]:
        """Files whose change makes a prepared cache out of date."""
        return [file for pattern in cls.FILES for file in sorted(root.glob(pattern))]

    def download_and_prepare(self, *args, num_proc: int | None = None, **kwargs):
        """As in `datasets`; several processes compute with one thread each, or OpenMP would hang in forked ones."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if (num_proc or 1) > 1 else threads)
        try:
            super().download_and_prepare(*args, num_proc=num_proc, **kwargs)
        except ValueError as error:
            if error.args[:1] == (_UNUSABLE,):
                raise InputError(error.args[1]) from None
            raise
        finally:
            torch.set_num_threads(threads)

    def _prepare_split_single(self, *args, **kwargs):
        """As in `datasets`, but an unusable file stays the one sentence that it was, in other processes too.

        It travels as a plain `ValueError`: exceptions of one's own cannot be relied on to pass between processes.
        """
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, (InputError, FileNotFoundError)):
                raise ValueError(_UNUSABLE, str(error.__cause__)) from None
            raise

    def processor_config(self) -> dict[str, Any] | None:
        """What the rows have gone through, as `preprocessor_config.json` has it; None for files as they are."""
        return None

    @property
    def root(self) -> Path:
        """The folder to read; an error that says how to get one if none was given."""
        if self.config.data_dir is None:
            raise FileNotFoundError(f"`data_dir` is missing. {self.HOW_TO_GET_IT}")
        return Path(self.config.data_dir)

    @property
    def subjects_table(self) -> Path:
        """Where a phantom's table of subjects would be."""
        return self.root / SUBJECTS

    @property
    def synthetic(self) -> bool:
        """Whether the folder was written by `BrainPhantom`, whose table names the seed of every subject."""
        if not self.subjects_table.exists():
            return False
        with self.subjects_table.open(newline="", encoding="utf-8") as file:
            return "seed" in next(csv.reader(file), [])

    def groups(self, subjects: Sequence[str], column: str = "subject") -> list[str]:
        """The group of each subject: that of its row in `subjects.csv`, found by `column`, else the subject itself."""
        if not self.subjects_table.exists():
            return list(subjects)
        group_of = read_subjects(self.subjects_table, "group", by=column)
        missing = [subject for subject in subjects if subject not in group_of]
        if missing:
            raise InputError(
                f"{self.subjects_table} has no row for {missing[0]}; splitting needs the group of every subject."
            )
        return [group_of[subject] for subject in subjects]

    def features(self) -> dict[str, Any]:
        """The columns of the configuration, in their order."""
        raise NotImplementedError

    def columns(self) -> dict[str, Any]:
        """What a row holds: `features`, and where these are arrays, which no viewer shows, first a picture of them."""
        features, arrays = self.features(), (datasets.Array3D, datasets.Array4D)
        return {PREVIEW: datasets.Image(), **features} if isinstance(features.get("image"), arrays) else features

    def cases(self) -> tuple[list[Any], list[str]]:
        """What a split is dealt from, in order (folders, files, rows of a table), and the group of each."""
        raise NotImplementedError

    def examples(self, case: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and columns of every row of a case."""
        raise NotImplementedError

    def _info(self):
        return datasets.DatasetInfo(
            description=self.DESCRIPTION,
            features=datasets.Features(self.columns()),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENCE,
        )

    def _split_generators(self, dl_manager):
        """70-15-15 by group with `split_seed`, or everything to the one `split` of the configuration."""
        cases, groups = self.cases()
        if self.config.split is not None:
            return split_generators({self.config.split: cases})
        parts = split_by_group(groups, self.config.split_seed)
        return split_generators({split: [cases[i] for i in part] for split, part in parts.items()})

    def _generate_examples(self, cases):  # pyright: ignore[reportIncompatibleMethodOverride]  as `gen_kwargs` has it
        with_preview = PREVIEW in self.columns()
        for case in cases:
            try:
                for key, row in self.examples(case):
                    yield key, {PREVIEW: preview(row["image"]), **row} if with_preview else row
            except InputError as error:  # of thousands of cases this is the one
                if not isinstance(case, str) or case in str(error):
                    raise
                raise InputError(f"{case} cannot be used: {error}") from error


def split_generators(parts: Mapping[str, list]) -> list[datasets.SplitGenerator]:
    """The cases of each split, in the order of the splits, without those that are empty."""
    return [
        datasets.SplitGenerator(name=split, gen_kwargs={"cases": parts[split]}) for split in SPLITS if parts.get(split)
    ]


def preview(image: np.ndarray) -> bytes:
    """A JPEG of what lies in [0, 1]: the channels of a slice (C, H, W), or four slices of a scan (S, C, H, W), side by
    side. For the eye alone: training reads `image`."""
    if image.ndim == 4:
        image = image[np.linspace(0, len(image) - 1, 6).round().astype(int)[1:-1], 0]
    picture = Image.fromarray((255 * np.hstack(list(image)).clip(0, 1)).round().astype(np.uint8))
    picture.thumbnail((picture.width, PREVIEW_PIXELS))
    file = BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return file.getvalue()


def classifier_config(image_size: Sequence[int], num_slices: int | None = None) -> dict[str, Any]:
    """What `ACATProcessor(image_size, num_slices).save_pretrained` writes: images in [0, 1] of one channel."""
    config = {
        "image_processor_type": "ACATProcessor",
        "image_size": list(image_size),
        "num_channels": 1,
        "window": [0.0, 1.0],
    }
    return config if num_slices is None else config | {"num_slices": num_slices}


def _fingerprint(files: Iterable[Path]) -> str:
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
