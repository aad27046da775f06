"""Facts about the WMH builder, its synthetic subjects, and brain extraction (measured on synthetic heads)."""

import nibabel
import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")
pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from difffuse_hf.data.prepare import prepare  # noqa: E402
from difffuse_hf.data.wmh import WMH  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.models.processing_difffuse import DifFuseProcessor  # noqa: E402
from difffuse_hf.phantoms import wmh as phantom  # noqa: E402
from difffuse_hf.preprocessing.mri import extract_brain  # noqa: E402

SHAPE = (40, 40, 12)
LPS = np.diag([-1.0, -1.0, 3.0, 1.0])
SETTINGS = {"image_size": (48, 48), "slice_margin": 0, "brain_mask": "none"}
RELEASE = {  # folders of the release at DataverseNL, with one case of each
    "training/Utrecht/0": ("Utrecht", "Philips Achieva 3T"),
    "training/Singapore/50": ("Singapore", "Siemens TrioTim 3T"),
    "training/Amsterdam/GE3T/100": ("Amsterdam", "GE Signa HDxt 3T"),
    "test/Utrecht/1": ("Utrecht", "Philips Achieva 3T"),
    "test/Amsterdam/GE1T5/150": ("Amsterdam", "GE Signa HDxt 1.5T"),
    "test/Amsterdam/Philips_VU .PETMR_01./160": ("Amsterdam", "Philips Ingenuity 3T"),
}


def ellipsoid(centre, radii):
    axes = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii)) <= 1


def write_case(root, name, seed=0, scalp=0):
    """An ellipsoid of brain with a hyperintensity (slices 6 to 8) and an old infarct (2 to 7): brain, labels."""
    rng = np.random.default_rng(seed)
    brain = ellipsoid((19.5, 19.5, 5.5), (14, 16, 5))
    labels = np.zeros(SHAPE, np.uint8)
    labels[22:27, 16:22, 2:8] = 2
    labels[11:16, 16:22, 6:9] = 1
    (root / name / "pre").mkdir(parents=True)
    for modality, bright in (("FLAIR", 300), ("T1", -80)):
        volume = brain * (rng.integers(200, 300, SHAPE) + bright * (labels == 1))
        if scalp:
            volume = np.where(brain, volume, rng.integers(scalp - 40, scalp + 40, SHAPE))
        save(volume.astype(np.int16), root / name / "pre" / f"{modality}.nii.gz")
    save(labels, root / name / "wmh.nii.gz")
    return brain, labels


def save(data, path):
    nibabel.save(nibabel.Nifti1Image(data, LPS), path)


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(RELEASE):
        write_case(tmp_path / "data", name, seed)
    return tmp_path / "data"


@pytest.fixture
def build(root, tmp_path):
    def build(name="slices", data_dir=root, **changes):
        builder = WMH(name, data_dir=data_dir, cache_dir=str(tmp_path / "cache"), **{**SETTINGS, **changes})
        builder.download_and_prepare()
        return builder.as_dataset()

    return build


def test_the_folders_of_the_release_say_split_site_and_scanner(build):
    rows = build("volumes")
    assert set(rows) == {"train", "test"}
    for split, folder in (("train", "training/"), ("test", "test/")):
        assert {row["subject"] for row in rows[split]} == {name for name in RELEASE if name.startswith(folder)}
        site, scanner = rows[split].features["site"], rows[split].features["scanner"]
        for row in rows[split]:
            assert (site.int2str(row["site"]), scanner.int2str(row["scanner"])) == RELEASE[row["subject"]]
            assert row["FLAIR"].shape == SHAPE and np.array_equal(row["wmh"].affine, LPS)


def test_the_older_download_counts_as_training_and_a_part_of_the_new_one_as_what_it_is(build, root, tmp_path):
    for name in ("Utrecht/0", "Singapore/50", "GE3T/100"):
        write_case(tmp_path / "older", name)
    assert {split: len(rows) for split, rows in build("volumes", data_dir=tmp_path / "older").items()} == {"train": 3}
    assert {split: len(rows) for split, rows in build("volumes", data_dir=root / "test").items()} == {"test": 3}


def test_no_patient_is_in_two_splits(build):
    for division, splits in (("official", {"train", "test"}), ("patient", {"train", "validation", "test"})):
        subjects = {split: set(rows["subject"]) for split, rows in build(division=division).items()}
        assert set(subjects) == splits
        assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 6


def test_other_pathology_is_no_lesion_and_a_slice_with_nothing_else_is_left_out(build):
    rows = build(split="train")["train"].with_format("numpy")
    assert rows[0]["image"].shape == (2, 48, 48) and rows[0]["image"].dtype == np.float32
    assert set(rows["slice"][:].tolist()) == {1, 6, 7, 8, 9, 10}  # 2 to 5 show the infarct alone
    for row in rows:
        assert row["label"] == (6 <= row["slice"] <= 8)
        assert row["mask"].sum() == (30 if row["label"] else 0)
        assert row["ignore"].sum() == (30 if row["slice"] in (6, 7) else 0)
        assert not (row["mask"] & row["ignore"]).any()


def test_a_slice_is_what_the_processor_makes_of_the_masked_scan(build, root):
    name = "training/Utrecht/7"
    brain, _ = write_case(root, name, seed=7, scalp=400)
    for case in (*RELEASE, name):
        save(brain.astype(np.uint8), root / case / "pre" / "brain_mask.nii.gz")
    rows = build(brain_mask="pre/brain_mask.nii.gz")["train"].with_format("numpy")
    rows = rows.filter(lambda row: row["subject"] == name)
    images = [nibabel.load(root / name / "pre" / f"{modality}.nii.gz") for modality in ("FLAIR", "T1")]
    processor = DifFuseProcessor(modalities=("flair", "t1"), image_size=(48, 48), slice_margin=0)
    slices, _ = processor.preprocess_volume(np.stack([image.get_fdata() * brain for image in images]), LPS)
    np.testing.assert_array_equal(rows[0]["image"], slices[rows[0]["slice"]].numpy())


def test_a_scan_with_its_skull_is_refused_where_no_mask_is_made(root, tmp_path):
    write_case(root, "training/Utrecht/9", scalp=400)
    with pytest.raises(InputError, match="not skull-stripped"):
        WMH("slices", data_dir=root, cache_dir=str(tmp_path), **SETTINGS).download_and_prepare()


def test_parquet_shards_are_read_back_and_streamed(root, tmp_path):
    prepare(WMH("slices", data_dir=root, cache_dir=str(tmp_path / "cache"), **SETTINGS), tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 18, "test": 18}
    assert next(iter(datasets.load_dataset(str(tmp_path / "out"), split="test", streaming=True)))["label"] in (0, 1)
    assert DifFuseProcessor.from_pretrained(tmp_path / "out").modalities == ("flair", "t1")


@pytest.mark.parametrize("missing", ["pre/T1.nii.gz", "wmh.nii.gz"])
def test_an_incomplete_case_is_named(build, root, missing):
    (root / "test/Utrecht/1" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"test/Utrecht/1 lacks {missing}"):
        build()


def test_a_missing_folder_says_how_to_get_the_data(tmp_path):
    for data_dir in (None, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="https://doi.org/10.34894/AECRSD"):
            WMH("slices", data_dir=data_dir, cache_dir=str(tmp_path / "cache")).download_and_prepare()


SEED, INDEX = 0, 0  # of a subject from Utrecht, the smallest grid


@pytest.fixture(scope="module")
def subject():
    return phantom.draw(SEED, INDEX, None)


@pytest.fixture(scope="module")
def healthy():
    return phantom.draw(SEED, INDEX, None, lesion=False)


@pytest.fixture(scope="module")
def brain(subject):
    return extract_brain(subject.volumes["T1"], subject.affine)


def test_without_its_lesions_a_synthetic_head_differs_inside_the_labels_only(subject, healthy):
    assert subject.lesion_ml > 0.3 and healthy.lesion_ml == 0
    for modality, volume in subject.volumes.items():
        changed = volume != healthy.volumes[modality]
        assert not changed[subject.segmentation == 0].any()
        assert changed[subject.segmentation > 0].mean() > 0.9


def test_hyperintensities_are_bright_on_flair_and_dark_on_t1(subject, healthy):
    ratio = {name: subject.volumes[name] / np.maximum(healthy.volumes[name], 1) for name in subject.volumes}
    inside = subject.segmentation == 1
    assert np.median(ratio["FLAIR"][inside]) > 1.2 and np.median(ratio["T1"][inside]) < 0.95


def test_synthetic_subjects_lie_where_the_release_keeps_them_and_say_what_they_are(subject, tmp_path):
    folder = tmp_path / phantom.location(SEED, INDEX)
    phantom.write(subject, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert files == ["pre/FLAIR.nii.gz", "pre/T1.nii.gz", "wmh.nii.gz"]
    for file in files:
        image = nibabel.load(folder / file)
        assert b"SYNTHETIC" in image.header["descrip"].item() and nibabel.aff2axcodes(image.affine) == tuple("LPS")
    assert np.array_equal(nibabel.load(folder / "wmh.nii.gz").dataobj, subject.segmentation)


def test_three_subjects_in_a_row_come_from_three_sites_and_no_anatomy_is_in_training_and_test():
    for start in (0, 3, 6):
        sites = {phantom.location(5, start + i).split("/", 1)[1].rsplit("/", 1)[0] for i in range(3)}
        assert sites == {"Utrecht", "Singapore", "Amsterdam/GE3T"}
    for num_anatomies in (1, 2, 3, 14):
        parts = [{phantom.location(0, i, num_anatomies).split("/")[0]} for i in range(60)]
        per_anatomy = [set.union(*parts[anatomy::num_anatomies]) for anatomy in range(num_anatomies)]
        assert all(len(part) == 1 for part in per_anatomy)
        assert set.union(*per_anatomy) == ({"training", "test"} if num_anatomies > 1 else {"training"})


def test_the_brain_of_a_synthetic_head_is_found(subject, brain):
    assert brain.shape == subject.segmentation.shape and brain.dtype == bool
    dice = 2 * (brain & subject.brain).sum() / (brain.sum() + subject.brain.sum())
    assert dice > 0.96
    assert brain[subject.segmentation == 1].mean() > 0.99


def test_brain_extraction_does_not_mind_how_the_axes_lie(subject, brain):
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(subject.volumes["T1"], subject.affine))
    turned = extract_brain(np.asarray(image.dataobj), image.affine)
    assert np.array_equal(turned[::-1, ::-1], brain)


def test_noise_without_a_head_is_refused():
    with pytest.raises(InputError, match="brain mask with HD-BET"):
        extract_brain(np.random.default_rng(0).uniform(0, 1, (60, 60, 30)), np.diag([1.0, 1.0, 3.0, 1.0]))
