"""Facts about the healthy twins of synthetic slices: what the column holds, and what is refused."""

import csv
import shutil

import nibabel
import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from difffuse_hf.data import healthy_twins  # noqa: E402
from difffuse_hf.data.axial_slices import SliceRecipe  # noqa: E402
from difffuse_hf.data.healthy_twins import TwinSource, add_healthy_twins  # noqa: E402
from difffuse_hf.data.prepare import make_builder, prepare  # noqa: E402
from difffuse_hf.data.slices import load_slices  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.phantoms import brain_phantom  # noqa: E402
from difffuse_hf.phantoms.common import PhantomSubject  # noqa: E402

SHAPE, LPS = (40, 48, 10), np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = {"brats2021": "BraTS2021_{:05d}", "mr": "BraTS2021_{:05d}", "wmh": "test/Utrecht/{}"}
CUT = {"image_size": (24, 24), "pixel_spacing_mm": 2.0, "slice_margin": 0, "modalities": ("flair", "t1")}


class TinyPhantom:
    """Ellipsoids of noise with a bright block in slices 3 to 6, drawn in no time."""

    def __init__(self, layout, anatomies=None, seed=0):
        self.layout, self.anatomies, self.seed = layout, anatomies or "built-in", seed

    def subject(self, index, lesion=True):
        rng = np.random.default_rng([self.seed, index, len(str(self.anatomies))])
        x, y, z = np.indices(SHAPE)
        brain = ((x - 19.5) / 16) ** 2 + ((y - 23.5) / 19) ** 2 + ((z - 4.5) / 6) ** 2 <= 1
        mask = np.zeros(SHAPE, np.uint8)
        mask[10:22, 16:28, 3:7] = 1
        volumes = {}
        for modality in ("flair", "t1"):
            name = modality.upper() if self.layout == "wmh" else modality
            volumes[name] = (brain * (rng.integers(200, 300, SHAPE) + 150 * mask * lesion)).astype(np.int16)
        return PhantomSubject(
            NAMES[self.layout].format(index), str(self.anatomies), self.seed, volumes, mask * lesion, LPS
        )

    def write(self, root, indices):
        rows = []
        for index in indices:
            subject = self.subject(index)
            folder = root / subject.name
            files = {name: f"{subject.name}_{name}" for name in subject.volumes} | {"seg": f"{subject.name}_seg"}
            if self.layout == "wmh":
                files = {name: f"pre/{name}" for name in subject.volumes} | {"seg": "wmh"}
            for name, file in files.items():
                data = subject.segmentation if name == "seg" else subject.volumes[name]
                path = folder / f"{file}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(data, LPS), path)
            row = {"subject": subject.name, "group": subject.group, "seed": self.seed, "lesion_ml": "1"}
            rows.append(row | ({"kind": "glioma"} if self.layout == "mr" else {}))
        with (root / "subjects.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(brain_phantom, "BrainPhantom", TinyPhantom)


def made(tmp_path, layout="brats2021", splits=("test",)):
    """Folder of the cohort, and of its slices."""
    raw, slices = tmp_path / "raw", tmp_path / "slices"
    raw.mkdir()
    TinyPhantom(layout, seed=5).write(raw, range(2))
    options = CUT | ({"brain_mask": "none"} if layout == "wmh" else {})
    for split in splits:
        prepare(make_builder("wmh" if layout == "wmh" else "brats2021", raw, "slices", split=split, **options), slices)
    return raw, slices


@pytest.mark.parametrize("layout", ["brats2021", "mr", "wmh"])
def test_a_twin_is_the_slice_of_the_same_subject_without_its_lesion_at_the_same_intensities(layout, tmp_path):
    raw, slices = made(tmp_path, layout)
    options = {"brain_mask": "none"} if layout == "wmh" else {}
    count = add_healthy_twins(slices, raw, tmp_path / "twins", layout, **options)
    before, rows = (load_slices(str(folder), "test") for folder in (slices, tmp_path / "twins"))
    assert rows.column_names == [*before.column_names, "healthy"] and len(rows) == len(before)
    assert list(datasets.load_dataset(str(tmp_path / "twins"), split="test").features)[-1] == "healthy"  # by its card
    found = rows.with_format("numpy")[:]
    sick = np.flatnonzero(found["label"])
    assert count == len(sick) == 2 * 4
    for i, row in enumerate(rows):
        assert (row["healthy"] is None) == (row["label"] == 0)
        assert np.array_equal(row["image"], before[i]["image"])
    for i in sick:
        index = int(rows[int(i)]["subject"].replace("/", "_").split("_")[-1])
        twin, scan = (TinyPhantom(layout, seed=5).subject(index, lesion) for lesion in (False, True))
        for channel, (whole, healthy) in enumerate(zip(scan.volumes.values(), twin.volumes.values())):
            scale = SliceRecipe.reference_intensity / np.median(whole[whole > 0])  # the scan's own, not the twin's
            plane = np.clip(healthy[:, :, found["slice"][i]] * np.float32(scale), 0, 1).T
            expected = plane.reshape(24, 2, 20, 2).mean((1, 3))
            shown = np.array(rows[int(i)]["healthy"][channel])[:, 2:22]
            np.testing.assert_allclose(shown, expected, atol=1e-5)
        difference = np.abs(found["image"][i] - np.array(rows[int(i)]["healthy"]))
        assert difference[:, found["mask"][i] == 1].min() > 0.1
        assert difference[:, found["mask"][i] == 0].max() < 1e-6
    card = (tmp_path / "twins" / "README.md").read_text()
    assert "It exists because these data are synthetic" in card and "of the split test" in card


def test_other_splits_get_an_empty_column_and_all_else_comes_along(tmp_path):
    raw, slices = made(tmp_path, splits=("train", "test"))
    add_healthy_twins(slices, raw, slices, "brats2021")  # in place
    rows = load_slices(str(slices), "train")
    assert set(rows["healthy"]) == {None} and any(rows["label"])
    assert rows.features == load_slices(str(slices), "test").features
    assert (slices / "preprocessor_config.json").exists()
    assert [path.name for path in slices.iterdir() if path.name.startswith(".")] == []


def test_what_has_no_twin_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    raw, slices = made(tmp_path)
    output = tmp_path / "twins"

    def refused(sentence, layout="brats2021", **options):
        with pytest.raises(InputError, match=sentence):
            add_healthy_twins(slices, raw, output, layout, **options)
        assert not output.exists()

    refused("has no split named 'validation'", splits=["validation"])
    refused("`layout` must be one of brats2021, mr, wmh, got 'ist3'", layout="ist3")
    refused("raw is not of the layout mr", layout="mr")
    refused("BraTS2021_00000 cannot be drawn again; give the anatomies that it was drawn on, built-in", anatomies="x")
    monkeypatch.setattr(healthy_twins, "LEAST_EQUAL", 2.0)  # as if another version drew other noise
    refused("BraTS2021_00000 cannot be drawn again")
    monkeypatch.undo()
    monkeypatch.setattr(brain_phantom, "BrainPhantom", TinyPhantom)
    shutil.rmtree(raw / "BraTS2021_00001")
    refused("holds no subject BraTS2021_00001")
    (raw / "subjects.csv").unlink()
    refused("was not written by BrainPhantom: scans of patients have no healthy twin")


def test_slices_of_another_cohort_are_not_given_twins(tmp_path):
    raw, slices = made(tmp_path)
    for path in raw.glob("*/*"):
        path.unlink()
    TinyPhantom("brats2021", seed=6).write(raw, range(2))
    with pytest.raises(InputError, match="BraTS2021_00000 in .*raw is not the one that the slices were made of"):
        add_healthy_twins(slices, raw, tmp_path / "twins", "brats2021")


@pytest.mark.slow
def test_a_subject_of_the_real_phantom_is_drawn_again_voxel_for_voxel_outside_its_lesion(tmp_path, monkeypatch):
    monkeypatch.undo()
    next(brain_phantom.BrainPhantom("mr", seed=3).write(tmp_path / "raw", 1))
    prepare(make_builder("brats2021", tmp_path / "raw", "slices", split="test", **CUT | {"image_size": (96, 96)}),
            tmp_path / "slices")  # fmt: skip
    images, healthy = TwinSource(tmp_path / "slices", tmp_path / "raw", "mr", None, {}).draw("BraTS2021_00000")
    changed = np.abs(images - healthy) > 0.02
    assert 0 < changed.mean() < 0.05
