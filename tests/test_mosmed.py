"""Facts about synthetic lung CT (its layout, its exact opacities) and about the builder that reads it."""

import csv

import nibabel
import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from synthetic_chest import write_studies  # noqa: E402

from difffuse_hf import BrainPhantom  # noqa: E402
from difffuse_hf.data.mosmed import MosMed  # noqa: E402
from difffuse_hf.data.prepare import prepare  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.phantoms import mosmed  # noqa: E402

LPS = np.diag([-0.8, -0.8, 8.0, 1.0])
SEED, STUDY = 0, 4  # a CT-2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    (study,) = BrainPhantom("mosmed", seed=SEED).write(root, 1, start=STUDY)
    return root, study


@pytest.fixture(scope="module")
def ct(cohort):
    return np.asarray(nibabel.load(cohort[1]).dataobj)


@pytest.fixture(scope="module")
def mask(cohort):
    return np.asarray(nibabel.load(cohort[0] / "masks" / "study_0005_mask.nii.gz").dataobj) > 0


@pytest.fixture(scope="module")
def healthy():
    return BrainPhantom("mosmed", seed=SEED).subject(STUDY, lesion=False)


def test_the_files_are_those_of_mosmeddata_and_say_that_they_are_synthetic(cohort, ct):
    root, study = cohort
    assert study.relative_to(root).as_posix() == "studies/CT-2/study_0005.nii.gz" == mosmed.location(SEED, STUDY)
    for file in (study, root / "masks" / "study_0005_mask.nii.gz"):
        image = nibabel.load(file)
        assert image.shape[:2] == (512, 512) and 28 <= image.shape[2] <= 45
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S") and image.header.get_zooms()[2] == 8
        assert b"SYNTHETIC" in image.header["descrip"].item()
    assert ct.dtype == np.int16 and ct.min() >= -1024


def test_faint_opacities_are_the_same_ones_with_a_share_of_their_density(ct, mask, healthy, tmp_path):
    healthy = healthy.volumes["ct"]
    cohort = BrainPhantom("mosmed", seed=SEED, opacity=(0.25, 0.25))
    (study,) = cohort.write(tmp_path, 1, start=STUDY)
    faint = np.asarray(nibabel.load(study).dataobj).astype(int)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "masks" / "study_0005_mask.nii.gz").dataobj) > 0, mask)
    np.testing.assert_allclose(faint - healthy, 0.25 * (ct.astype(int) - healthy), atol=1.01)  # rounded three times
    assert (ct.astype(int) - healthy)[mask].mean() > 100
    assert "opacity" in (tmp_path / "subjects.csv").read_text().splitlines()[0]


def test_the_share_of_a_study_is_drawn_between_the_two_ends_and_what_cannot_be_is_refused():
    for ends in ((0.0, 0.5), (0.5, 0.2), (0.5, 1.5)):
        with pytest.raises(InputError, match="`opacity` goes from the lower to the higher share, above 0 and up to 1"):
            BrainPhantom("mosmed", opacity=ends).subject(0)
    with pytest.raises(ValueError, match="`opacity` is of lungs, which the layout 'wmh' has none of"):
        BrainPhantom("wmh", opacity=(0.1, 0.2))


def test_the_registry_names_every_study_and_its_mask(cohort):
    with (cohort[0] / "dataset_registry.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {
                "study_id": "5",
                "category": "CT-2",
                "study_file": "/studies/CT-2/study_0005.nii.gz",
                "mask_file": "/masks/study_0005_mask.nii.gz",
            }
        ]


def test_the_category_is_the_share_of_the_lungs_that_is_opaque(cohort, ct, mask):
    with (cohort[0] / "subjects.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["category"] == "CT-2" and 0.25 < float(row["involvement"]) < 0.5
    assert abs(float(row["lesion_ml"]) / float(row["involvement"]) - 4500) < 2500  # ml of lung


def test_every_twenty_studies_hold_every_category():
    for block in (0, 20, 40):
        folders = [mosmed.location(3, i).split("/")[1] for i in range(block, block + 20)]
        assert [folders.count(f"CT-{k}") for k in range(5)] == [8, 4, 5, 2, 1]


def test_without_its_opacities_a_study_differs_inside_the_mask_only(ct, mask, healthy):
    assert not healthy.segmentation.any() and healthy.involvement == 0
    changed = healthy.volumes["ct"] != ct
    assert not changed[~mask].any() and changed[mask].mean() > 0.9
    assert -920 < np.median(healthy.volumes["ct"][mask]) < -780  # lungs
    assert np.median(ct[mask]) > -720  # ground glass and denser
    sides = [mask[: ct.shape[0] // 2].any(), mask[ct.shape[0] // 2 :].any()]
    assert all(sides)


def write_study(root, number, severity, masked=False, turned=False, shape=(32, 32, 24)):
    """A study whose slice k has the value 10 k in the patient's right half and 0 in the left."""
    study = root / "studies" / f"CT-{severity}" / f"study_{number:04d}.nii.gz"
    volume = np.zeros(shape, np.int16)
    volume[: shape[0] // 2] = 10 * np.arange(shape[2])
    drawn = np.zeros(shape, np.uint8)
    drawn[4:12, 20:28] = 1  # on the right, at the back
    affine = LPS.copy()
    if turned:  # stored from left to right, front to back, top to bottom
        volume, drawn, affine = volume[::-1, ::-1, ::-1], drawn[::-1, ::-1, ::-1], -LPS
    study.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, affine), study)
    if masked:
        (root / "masks").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(drawn, affine), root / "masks" / f"study_{number:04d}_mask.nii.gz")
    return study


@pytest.fixture
def root(tmp_path):
    for number, severity in enumerate((0, 0, 0, 1, 2, 2, 3, 4), start=1):
        write_study(tmp_path / "COVID19_1110", number, severity, masked=severity in (1, 4), turned=number % 2 == 1)
    return tmp_path / "COVID19_1110"


@pytest.fixture
def build(root, tmp_path):
    def build(name="volumes", num_proc=None, data_dir=None, **changes):
        settings = {"image_size": (16, 16), "window_hu": (0.0, 200.0), **changes}
        builder = MosMed(name, data_dir=data_dir or root, cache_dir=str(tmp_path / "cache"), **settings)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset()

    return build


def test_no_patient_is_in_two_splits_and_ct_1_is_left_out(build):
    subjects = {split: set(rows["subject"]) for split, rows in build().items()}
    assert set(subjects) == {"train", "validation", "test"}
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 7
    assert "study_0004" not in set.union(*subjects.values())


def test_the_window_reaches_from_air_to_soft_tissue():
    """-1000 to 400 HU, as in the author's code; 128 pixels (Ch. 5)."""
    config = MosMed.BUILDER_CONFIGS[0]
    assert (config.window_hu, config.image_size) == ((-1000.0, 400.0), (128, 128))


@pytest.mark.parametrize("ct1, label", [("healthy", 0), ("lesion", 1)])
def test_ct_1_can_count_as_either(build, ct1, label):
    rows = build(split="train", ct1=ct1)["train"]
    assert rows["label"] == [0, 0, 0, label, 1, 1, 1, 1]
    assert rows["severity"] == [0, 0, 0, 1, 2, 2, 3, 4]
    assert rows.features["severity"].names == ["CT-0", "CT-1", "CT-2", "CT-3", "CT-4"]


def test_a_study_is_eleven_slices_from_bottom_to_top_however_it_is_stored(build):
    rows = build(split="train")["train"].with_format("numpy")
    indices = np.linspace(0, 23, 11).round()
    for row in rows:
        assert row["image"].shape == (11, 1, 16, 16) and row["image"].dtype == np.float32
        np.testing.assert_allclose(row["image"][:, 0, 8, 2], (10 * indices / 200).clip(0, 1), rtol=1e-6)
        assert not row["image"][:, :, :, 8:].any()  # the patient's left, on the right of the picture


def test_a_mask_is_drawn_empty_or_unknown(build):
    rows = build(split="train", ct1="lesion")["train"]
    expected = np.zeros((11, 16, 16))
    expected[:, 10:14, 2:6] = 1
    for severity, mask in zip(rows["severity"], rows["mask"]):
        if severity in (1, 4):
            np.testing.assert_array_equal(mask, expected)
        elif severity == 0:
            assert not np.any(mask)
        else:
            assert mask is None


def test_a_slice_has_the_label_of_its_study_or_its_own(build, tmp_path):
    root = write_studies(tmp_path / "lungs", (0, 1, 2))
    options = {"window_hu": (-1000.0, 400.0), "image_size": (48, 48), "pixel_spacing_mm": 8.0, "ct1": "healthy"}
    rows = build("slices", data_dir=root, split="train", **options)["train"].with_format("numpy")
    assert rows["image"][:].shape == (18, 1, 48, 48) and rows["slice"][:6].tolist() == list(range(6))
    assert rows["label"][:].tolist() == [0] * 12 + [1] * 6  # whatever a slice shows
    assert rows["mask"][:].any((1, 2)).tolist() == [False] * 6 + [False, False, True, True, True, False] * 2
    own = build("slices", data_dir=root, split="train", slice_labels="mask", **options)["train"]
    assert own["label"] == [0] * 6 + [0, 0, 1, 1, 1, 0] * 2
    large = build("slices", data_dir=root, split="train", slice_labels="mask", min_lesion_pixels=60, **options)
    assert large["train"]["label"] == [0] * 12  # slices with a smaller lesion are left out


def test_a_study_that_shows_no_chest_is_named(build):
    with pytest.raises(InputError, match="studies/CT-0/study_0001.nii.gz: The scan is not in Hounsfield units"):
        build("slices", split="train")


def test_slices_are_all_that_there_are(root):
    with pytest.raises(InputError, match='`num_slices` is an option of "volumes"'):
        MosMed("slices", data_dir=root, num_slices=5)


def test_nifti_rows_are_the_files_with_their_affine(build):
    rows = build("nifti", split="train")["train"]
    np.testing.assert_allclose(rows[1]["image"].affine, LPS)
    assert rows[1]["mask"] is None and rows[6]["mask"].shape == (32, 32, 24)


def test_two_processes_prepare_the_same_rows(build):
    one = build(split="train")["train"].with_format("numpy")["image"][:]
    two = build(split="train", num_proc=2, split_seed=1)["train"].with_format("numpy")["image"][:]
    np.testing.assert_array_equal(one, two)


def test_the_folder_above_and_unpacked_files_do_as_well_and_it_streams(root, tmp_path, monkeypatch):
    study = root / "studies" / "CT-0" / "study_0001.nii.gz"
    nibabel.save(nibabel.load(study), study.with_suffix(""))
    study.unlink()
    monkeypatch.chdir(tmp_path.parent)
    builder = MosMed("volumes", data_dir=tmp_path.name, cache_dir=str(tmp_path / "cache"), split="train")
    assert builder.config.data_dir == str(tmp_path)
    row = next(iter(builder.as_streaming_dataset(split="train")))
    assert row["subject"] == "study_0001" and row["image"].shape == (11, 1, 128, 128)


def test_files_that_change_are_prepared_again(build, root):
    before = build(split="train")["train"]
    write_study(root, 9, severity=3)
    assert len(build(split="train")["train"]) == len(before) + 1


def test_parquet_shards_keep_masks_and_unknown_masks(root, tmp_path):
    builder = MosMed("volumes", data_dir=root, cache_dir=str(tmp_path / "cache"), image_size=(16, 16), split="train")
    prepare(builder, tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "hub"))
    assert rows.features["severity"].names[2] == "CT-2" and len(rows) == 7
    assert [mask is None for mask in rows["mask"]] == [severity in (2, 3) for severity in rows["severity"]]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "CC BY-NC-ND 3.0" in card and "Patient data" in card


def test_a_missing_folder_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    for data_dir, looked_for in ((None, "`data_dir` is missing"), (tmp_path, "CT-k/study_BBBB.nii.gz")):
        with pytest.raises(FileNotFoundError, match=f"{looked_for}.*--layout mosmed"):
            MosMed(data_dir=data_dir, cache_dir=str(tmp_path / "cache")).download_and_prepare()


def test_a_study_that_is_there_twice_is_named(build, root):
    write_study(root, 1, severity=2)
    with pytest.raises(InputError, match="study_0001.* are one study in two files"):
        build()


@pytest.mark.parametrize("file", ["studies/CT-2/study_0005.nii.gz", "masks/study_0008_mask.nii.gz"])
def test_a_file_that_cannot_be_read_is_named(build, root, file):
    (root / file).write_bytes((root / file).read_bytes()[:200])
    with pytest.raises(InputError, match=f"{root / file} is not a readable NIfTI file"):
        build()


def test_a_mask_of_another_grid_is_refused(build, root):
    other = write_study(root, 8, severity=4, shape=(32, 32, 20))
    with pytest.raises(InputError, match=r"\(20, 32, 32\)") as error:
        build()
    assert other.name in str(error.value)


@pytest.mark.parametrize("option", [{"ct1": "mild"}, {"window_hu": (400.0, -1000.0)}])
def test_options_that_mean_nothing_are_refused(root, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        MosMed(data_dir=root, **option)
