"""Synthetic subjects on real anatomies, with exactly known lesions, in the folders of the real data sets.

Intensities are drawn for each tissue and modality (the idea of SynthSeg, Billot et al. 2023), the anatomy is deformed
at random, and scanner effects follow: partial volume, thick slices, bias field, noise. Everything made here is
synthetic and says so in its header; nothing here is a patient. How each data set looks is in the file of its layout.
"""

import csv
import importlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import InputError, require_choice
from ..io.files import own_folder, write_csv
from ..io.subjects import SUBJECTS
from ..preprocessing.parallel import WorkerDied, Workers
from .anatomy import anatomy_name, list_anatomies
from .common import PhantomSubject

EXAMPLE_SEED = 2038  # any will do: the embedded models never saw the ICBM152 anatomy that the subjects are drawn on
STROKE_SEED = 11  # likewise, among the patients who have an infarct at all


def draw_example(folder: str | Path) -> Path:
    """Write the synthetic subject of `difffuse demo` and of the page, in the BraTS 2021 layout; returns its folder."""
    (subject,) = BrainPhantom(layout="brats2021", seed=EXAMPLE_SEED).write(folder, 1)
    return subject


def draw_stroke_example(folder: str | Path) -> Path:
    """Write the synthetic patient of `difffuse demo` in DICOM; returns the folder of the last study, days after."""
    (patient,) = BrainPhantom(layout="ist3", seed=STROKE_SEED).write(folder, 1)
    return max(patient.iterdir())  # studies are named by their day


class BrainPhantom:
    """A cohort of synthetic subjects, endless and reproducible: subject `i` of a seed is always the same.

    Args:
        layout (`str`): the data set whose folders are written: `"brats2021"` (glioma MRI), `"mr"` (lesions of
            five kinds, in the same folders), `"wmh"` (white-matter hyperintensities on FLAIR and T1), `"ist3"` (acute
            stroke CT, as DICOM) or `"mosmed"` (lung CT).
        anatomies (`str` or `Path`, *optional*): folder of label maps in FreeSurfer numbering;
            the built-in ICBM152 maps by default. The lungs of `"mosmed"` are computed and need none.
        seed (`int`): same seed and index, same subject.
        incidence (`str` or `Path`, *optional*): for `"ist3"`, a NIfTI map in MNI space of how often lesions lie where;
            by default infarcts start anywhere in their arterial territory.
        opacity (pair of `float`, *optional*): for `"mosmed"`, (low, high) of a uniform draw for each study: the share
            of their own density that its opacities have; 1 by default. Places, extent and noise stay the same.
    """

    LAYOUTS = ("brats2021", "mr", "wmh", "ist3", "mosmed")

    def __init__(
        self,
        layout: str = "brats2021",
        anatomies: str | Path | None = None,
        seed: int = 0,
        incidence: str | Path | None = None,
        opacity: tuple[float, float] | None = None,
    ):
        require_choice("layout", layout, self.LAYOUTS)
        if opacity is not None and layout != "mosmed":
            raise ValueError(f"`opacity` is of lungs, which the layout {layout!r} has none of.")
        if incidence is not None and layout != "ist3":
            raise ValueError(f"`incidence` places infarcts, which the layout {layout!r} has none of.")
        self.layout, self.seed = layout, seed
        options = {"incidence": None if incidence is None else Path(incidence), "opacity": opacity}
        self._options = {name: value for name, value in options.items() if value is not None}
        self.anatomies = list_anatomies(anatomies)
        _import_layout(layout)  # a library that it lacks is missed now

    def subject(self, index: int, lesion: bool = True) -> PhantomSubject:
        """Subject `index`; with `lesion=False` the same subject before the lesion was painted in: the exact healthy
        counterfactual (displacement by a tumour included), equal to the first outside the segmentation, but for what
        the blur and ringing of the layout `"mr"` carry over its edge."""
        return self._module.draw(self.seed, index, self._anatomy(index), lesion, **self._options)

    def subjects(self, count: int, start: int = 0) -> Iterator[PhantomSubject]:
        """One subject at a time; memory does not grow with `count`."""
        return (self.subject(index) for index in range(start, start + count))

    def write(self, root: str | Path, count: int, start: int = 0, workers: int = 1) -> Iterator[Path]:
        """Write subjects under `root` as the real data set lies, and `subjects.csv`; yields each subject's place.

        A subject appears when it is complete. Subjects that this seed has written before are kept, and come first, so
        an interrupted run is continued by repeating it.

        Args:
            workers: processes that draw side by side, with one thread each; the files are the same. More than one
                need the extra `preprocess`.

        Raises:
            InputError: `root` holds a subject of the same name that this cohort did not write, or a subject cannot be
                drawn; those that are finished are kept.
        """
        with own_folder(root) as folder:
            yield from self._write(folder, count, start, workers)

    def _write(self, root: Path, count: int, start: int, workers: int) -> Iterator[Path]:
        rows = _read_rows(root / SUBJECTS)
        names = {i: self._module.location(self.seed, i, len(self.anatomies)) for i in range(start, start + count)}
        missing = {i: name for i, name in names.items() if not self._is_there(root / name, rows.get(name), i)}
        if rows:
            self._finish(root, rows)
        yield from (root / name for i, name in names.items() if i not in missing)
        if not missing:
            return
        staging = tempfile.TemporaryDirectory(dir=root, prefix=".drawing-", ignore_cleanup_errors=True)
        with staging as drawn, Workers(min(workers, len(missing))) as pool:
            for i, row in pool.map(partial(self._draw_into, Path(drawn)), missing):
                name = names[i]
                if isinstance(row, WorkerDied):
                    raise InputError(f"The processes that drew {name} died; with fewer workers each has more memory.")
                rows[name] = row
                _write_rows(root / SUBJECTS, rows)  # before the files: an interrupt between the two redraws it
                _move(Path(drawn) / str(i), root, name)
                self._finish(root, rows)
                yield root / name

    def _is_there(self, place: Path, row: dict[str, str] | None, index: int) -> bool:
        if not place.exists():
            return False
        if row is None or (row["seed"], row["group"]) != (str(self.seed), self._group(index)):
            raise InputError(f"{place} was not written by this cohort (seed {self.seed}); choose another folder.")
        return True

    def _draw_into(self, folder: Path, index: int) -> dict[str, str]:
        """Write a subject below `folder`/`index`, as it will lie below the root; returns its row of `subjects.csv`."""
        name = self._module.location(self.seed, index, len(self.anatomies))
        try:
            subject = self.subject(index)
            self._module.write(subject, folder / str(index) / name)
        except InputError as error:
            raise InputError(f"{name} cannot be drawn: {error}") from error
        except OSError:  # a full disk, say; it names the file
            raise
        except Exception as error:
            raise RuntimeError(f"{name} cannot be drawn: {error!r}") from error
        return {
            "subject": name,
            "group": subject.group,
            "seed": str(self.seed),
            "lesion_ml": f"{subject.lesion_ml:.3f}",
            **self._module.row(subject),
        }

    def _finish(self, root: Path, rows: dict[str, dict[str, str]]):
        if hasattr(self._module, "finish"):  # tables of the whole cohort, such as labels.csv
            self._module.finish(root, rows)

    @property
    def _module(self):  # not kept, because modules do not travel to other processes
        return _import_layout(self.layout)

    def _anatomy(self, index: int) -> Path | None:
        return self.anatomies[index % len(self.anatomies)]

    def _group(self, index: int) -> str:
        group = getattr(self._module, "group", None)
        return group(self.seed, index) if group else anatomy_name(self._anatomy(index))


def _import_layout(layout: str):
    return importlib.import_module(f".{layout}", __package__)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


def _write_rows(path: Path, rows: dict[str, dict[str, str]]):
    columns = list(next(iter(rows.values())))
    write_csv(path, columns, [[rows[name][column] for column in columns] for name in sorted(rows)])


def _move(folder: Path, root: Path, name: str):
    """Move a subject's files from a folder to the root, its own place last: a subject that is there is complete."""
    place = folder / name
    others = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(place)]
    for path in (*others, place):
        target = root / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
