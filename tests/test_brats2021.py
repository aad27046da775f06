import nibabel
import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from difffuse_hf.data.brats2021 import BraTS2021  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.models.processing_difffuse import DifFuseProcessor  # noqa: E402

SHAPE = (40, 40, 12)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SETTINGS = {"modalities": ("flair", "t1"), "image_size": (48, 48), "slice_margin": 0, "min_lesion_pixels": 10}


def ellipsoid(centre, radii):
    axes = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii)) <= 1


def write_case(root, name, seed, lesion=True, seg=True):
    """A subject in the BraTS layout: an ellipsoid of brain, and a brighter one in it."""
    rng = np.random.default_rng(seed)
    brain = ellipsoid((19.5, 19.5, 5.5), (14, 16, 5))
    tumour = ellipsoid((15, 18, 7), (5, 5, 2.5)) & lesion
    (root / name).mkdir(parents=True)
    for modality in ("flair", "t1"):
        volume = brain * (rng.integers(200, 300, SHAPE) + 400 * tumour)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), LPS), root / name / f"{name}_{modality}.nii.gz")
    if seg:
        nibabel.save(nibabel.Nifti1Image((4 * tumour).astype(np.uint8), LPS), root / name / f"{name}_seg.nii.gz")
    return tumour


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        write_case(tmp_path / "data", f"BraTS2021_{i:05d}", seed=i, lesion=i % 3 > 0)
    return tmp_path / "data"


@pytest.fixture
def build(root, tmp_path):
    def build(name="slices", num_proc=None, **changes):
        builder = BraTS2021(name, data_dir=root, cache_dir=str(tmp_path / "cache"), **{**SETTINGS, **changes})
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset()

    return build


def test_no_patient_is_in_two_splits(build):
    subjects = {split: set(rows["subject"]) for split, rows in build().items()}
    assert set(subjects) == {"train", "validation", "test"}
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 6


def test_subjects_that_share_an_anatomy_stay_together(build, root):
    rows = [f"BraTS2021_{i:05d},anatomy{i % 3},0,1.0" for i in range(6)]
    (root / "subjects.csv").write_text("\n".join(["subject,group,seed,lesion_ml", *rows]) + "\n")
    anatomies = [{int(s[-5:]) % 3 for s in rows["subject"]} for rows in build().values()]
    assert sorted(anatomies, key=min) == [{0}, {1}, {2}]


def test_one_split_can_take_all_subjects(build):
    rows = build(split="test")
    assert list(rows) == ["test"] and len(set(rows["test"]["subject"])) == 6


def test_a_slice_row_is_what_the_processor_makes_of_the_files(build, root):
    row = build(split="train")["train"].with_format("numpy")[30]
    folder = root / row["subject"]
    images = [nibabel.load(folder / f"{row['subject']}_{modality}.nii.gz") for modality in ("flair", "t1")]
    processor = DifFuseProcessor(modalities=("flair", "t1"), image_size=(48, 48), slice_margin=0)
    slices, _ = processor.preprocess_volume(np.stack([image.get_fdata() for image in images]), images[0].affine)
    assert row["image"].dtype == np.float32 and row["image"].shape == (2, 48, 48)
    np.testing.assert_array_equal(row["image"], slices[row["slice"]].numpy())


def test_the_label_says_whether_the_mask_has_lesion_and_the_area_how_much(build):
    rows = build(split="train")["train"].with_format("numpy")
    assert rows.features["label"].names == ["healthy", "lesion"]
    pixels = rows["mask"][:].sum(axis=(1, 2))
    brain = (rows["image"][:] > 0).any(axis=1).sum(axis=(1, 2))
    np.testing.assert_array_equal(rows["label"][:], pixels > 0)
    np.testing.assert_allclose(rows["lesion_area"][:], pixels / brain, rtol=1e-6)
    assert 0 < rows["label"][:].mean() < 1


def test_slices_with_a_few_lesion_pixels_are_neither_healthy_nor_lesion(build):
    everything = build(split="train", min_lesion_pixels=1)["train"].with_format("numpy")
    clear = build(split="train", min_lesion_pixels=60)["train"].with_format("numpy")
    pixels = everything["mask"][:].sum(axis=(1, 2))
    assert ((pixels > 0) & (pixels < 60)).any()
    assert len(clear) == np.count_nonzero((pixels == 0) | (pixels >= 60))


def test_two_processes_prepare_the_same_rows(build, tmp_path):
    one = build(split="train")["train"].with_format("numpy")[:]
    two = build(split="train", num_proc=2, split_seed=1)["train"].with_format("numpy")[
        :
    ]  # the seed keeps caches apart
    np.testing.assert_array_equal(one["image"], two["image"])


def test_the_volumes_are_nifti_with_their_affine_and_type(build, root):
    write_case(root, "BraTS2021_00006", seed=6, seg=False)
    rows = build("volumes", split="train")["train"]
    assert rows.column_names == ["subject", "flair", "t1", "seg"] and len(rows) == 7
    np.testing.assert_array_equal(rows[0]["flair"].affine, LPS)
    assert rows[0]["flair"].get_data_dtype() == np.int16 and rows[6]["seg"] is None


def test_files_that_change_are_prepared_again(build, root):
    before = build(split="train")["train"]
    write_case(root, "BraTS2021_00006", seed=6)
    assert len(build(split="train")["train"]) > len(before)


def test_a_missing_folder_says_how_to_get_the_data(tmp_path):
    for data_dir in (None, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="register at https://www.synapse.org/brats2021"):
            BraTS2021("slices", data_dir=data_dir, cache_dir=str(tmp_path / "cache")).download_and_prepare()


def test_a_case_without_a_modality_or_labels_is_named(build, root):
    (root / "BraTS2021_00003" / "BraTS2021_00003_t1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks BraTS2021_00003_t1.nii.gz"):
        build()
    write_case(root, "BraTS2021_00002b", seed=1, seg=False)
    with pytest.raises(FileNotFoundError, match="lacks BraTS2021_00002b_seg.nii.gz"):
        build()


def test_the_folder_may_be_given_relative_and_streams(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    builder = BraTS2021("slices", data_dir="data", cache_dir=str(tmp_path / "cache"), **SETTINGS)
    assert builder.config.data_dir == str(root)
    assert next(iter(builder.as_streaming_dataset(split="train")))["image"].shape == (2, 48, 48)


def test_a_scan_that_cannot_be_used_is_named(build, root):
    for modality in ("flair", "t1"):
        file = root / "BraTS2021_00003" / f"BraTS2021_00003_{modality}.nii.gz"
        values = np.random.default_rng(0).integers(100, 300, SHAPE).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, LPS), file)
    with pytest.raises(InputError, match="BraTS2021_00003 cannot be used: .*not surrounded by zeros"):
        build("slices")
