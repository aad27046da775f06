"""IST-3: scans that were preprocessed, joined to a table of labels."""

import csv
import json

import nibabel
import numpy as np
import pandas
import pytest

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from difffuse_hf.data.ist3 import IST3  # noqa: E402
from difffuse_hf.data.ist3_labels import SIDES  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402


def write_csv(path, columns, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(rows)


def write_preprocessed(root, patients, shape=(40, 50, 3)):
    """What `difffuse preprocess --linkage` leaves: scan i is study i, of intensity (i + 1) / 100; -1 was rejected."""
    rows, linkage = [], []
    for i, patient in enumerate(patients):
        scan_id = f"{i:016x}"
        image = nibabel.Nifti1Image(np.full(shape, 100 * (i + 1), np.int16), np.diag([-0.5, -0.5, 14, 1]))
        image.header.set_slope_inter(1e-4, 0)
        (root / "scans").mkdir(parents=True, exist_ok=True)
        nibabel.save(image, root / "scans" / f"{scan_id}.nii.gz")
        rows.append(
            {
                "scan_id": scan_id,
                "patient": f"hash{patient}",
                "study": f"study-hash{i}",
                "decision": "keep" if i != len(patients) - 1 else "reject",
                "reason": "" if i != len(patients) - 1 else "bone-kernel",
                "merged_into": "",
                "file": f"scans/{scan_id}.nii.gz",
                "pixel_mm": 0.5,
                "source_slices": [0, 4, 9][: shape[2]],
                "to_mni_mm": [-0.5, 0, 0, 100, 0, -0.5, 0, 12, 0, 0, 3, -40] if i else None,
                "to_patient_mm": [-0.5, 0, 0, 10, 0, -0.5, 0, 20, 0, 0, 3, -30],
                "study_day": 2 if patient in patients[:i] else 0,
                "age_years": 70.0 + i if i else None,
            }
        )
        linkage.append((scan_id, f"P{patient}", f"1.2.{i}", f"1.2.{i}.1"))
    pandas.DataFrame(rows).to_parquet(root / "manifest.parquet")
    (root / "config.json").write_text(json.dumps({"num_slices": shape[2], "image_size": [shape[1], shape[0]]}))
    write_csv(root / "private" / "linkage.csv", ["scan_id", "patient_id", "study_uid", "series_uid"], linkage)


@pytest.fixture
def root(tmp_path):
    """Six kept scans and a rejected one; patient 0 has two scans."""
    write_preprocessed(tmp_path / "ist3" / "preprocessed", [0, 0, 1, 2, 3, 4, 5])
    labels = [
        (f"1.2.{i}", ["none", "left", "right", "both"][i % 4], i % 5, "MCA left" if i % 4 else "") for i in range(7)
    ]
    write_csv(tmp_path / "ist3" / "labels.csv", ["study_uid", "lesion", "infarct_size", "territory"], labels)
    return tmp_path / "ist3" / "preprocessed"


@pytest.fixture
def build(root, tmp_path):
    def build(name="volumes", num_proc=None, **options):
        size = {"image_size": (32, 32)} if name == "slices" else {}
        options = {"split": "train", **size, **options}
        builder = IST3(name, data_dir=root, cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        rows = builder.as_dataset()
        return rows["train"] if options["split"] else rows

    return build


def test_a_scan_has_the_label_of_its_study_and_rejected_scans_are_not_read(build, capsys):
    rows = build().with_format("numpy")
    assert len(rows) == 6 and "0 kept scans have no label and 1 labels no kept scan" in capsys.readouterr().out
    for i, row in enumerate(rows):
        assert row["scan_id"] == f"{i:016x}"
        np.testing.assert_allclose(row["image"], np.full((3, 1, 50, 40), (i + 1) / 100), atol=1e-6)
        assert rows.features["label"].int2str(int(row["label"])) == SIDES[i % 4]
        assert row["presence"] == (i % 4 > 0) and row["infarct_size"] == i % 5
        assert row["territory"] == ("MCA left" if i % 4 else "")
        assert row["source_slices"].tolist() == [0, 4, 9]
    assert build()[0]["to_mni_mm"] is None and build()[1]["to_mni_mm"][3] == 100
    assert build()["old_infarct"][:] == build()["time"][:] == [None] * 6  # the table does not say


def test_volumes_have_the_size_of_the_scans_and_no_other(build):
    with pytest.raises(InputError, match="preprocess --image-size"):
        build(image_size=(32, 32))


def test_a_scan_is_read_as_slice_row_column(build, root):
    planes = np.arange(40 * 50 * 3).reshape(40, 50, 3).astype(np.int16)
    image = nibabel.Nifti1Image(planes, np.diag([-0.5, -0.5, 14, 1]))
    nibabel.save(image, root / "scans" / f"{0:016x}.nii.gz")
    np.testing.assert_array_equal(build().with_format("numpy")[0]["image"][:, 0], planes.transpose(2, 1, 0))


def write_mask(path, lesion, affine):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(lesion.astype(np.uint8), affine), path)


# Of a mask with voxels (column, row, slice) where the scans of `write_preprocessed` have (column, row, source slice).
SAME_GRID = np.array([[-0.5, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])


def test_a_mask_on_the_grid_of_the_files_is_copied_at_the_slices_that_were_sampled(build, root):
    lesion = np.random.default_rng(0).random((40, 50, 10)) > 0.5
    write_mask(root.parent / "masks" / "1.2.1.nii.gz", lesion, SAME_GRID)
    write_mask(root.parent / "masks" / f"{2:016x}.nii", lesion[::-1], SAME_GRID)
    rows = build(masks=str(root.parent / "masks"))
    np.testing.assert_array_equal(rows[1]["mask"], lesion.transpose(2, 1, 0)[[0, 4, 9]])
    np.testing.assert_array_equal(rows[2]["mask"], lesion[::-1].transpose(2, 1, 0)[[0, 4, 9]])
    assert not np.any(rows[0]["mask"])  # no mask file, label none
    assert rows[3]["mask"] is None and rows.with_format("torch")[3]["mask"].isnan().all()  # lesion, no mask file


def test_a_mask_in_a_sheared_frame_of_other_voxels_is_interpolated(build, root):
    """A block in a mask of half the resolution whose slices slide along the rows, as under a tilted gantry."""
    shear = SAME_GRID @ np.array([[2, 0, 0, 0.5], [0, 2, 3, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]])  # 3 rows a slice
    lesion = np.zeros((20, 25, 10))
    lesion[5:10, 2:6, 4] = 1  # columns 10 to 19, rows 4 + 12 to 11 + 12 of slice 4
    write_mask(root.parent / "masks" / "1.2.1.nii.gz", lesion, shear)
    expected = np.zeros((3, 50, 40))
    expected[1, 16:24, 10:20] = 1
    np.testing.assert_array_equal(build(masks=str(root.parent / "masks"))[1]["mask"], expected)


def test_a_lesion_between_the_sampled_slices_is_not_in_the_mask(build, root):
    lesion = np.zeros((40, 50, 10))
    lesion[10:20, 10:20, 6] = 1
    write_mask(root.parent / "masks" / "1.2.1.nii.gz", lesion, SAME_GRID)
    assert not np.any(build(masks=str(root.parent / "masks"))[1]["mask"])


def test_the_masks_of_a_phantom_are_found_by_themselves_where_the_linkage_leads_to_them(build, root):
    write_mask(root.parent / "truth" / "1.2.1.nii.gz", np.ones((40, 50, 10)), SAME_GRID)
    assert build()[1]["mask"] is None  # a folder of that name beside real labels is not taken for masks
    subjects = [(f"dicom/{i}", f"S{i}", f"anatomy{i}", 0, 1.0) for i in range(6)]
    write_csv(root.parent / "subjects.csv", ["subject", "patient", "group", "seed", "lesion_ml"], subjects)
    labels = [(f"{i:016x}", "left", f"S{i}") for i in range(6)]
    write_csv(root.parent / "labels.csv", ["scan_id", "lesion", "patient"], labels)
    assert np.all(build()[1]["mask"])
    (root / "private" / "linkage.csv").unlink()
    assert build()[1]["mask"] is None


def test_masks_that_change_are_prepared_again(build, root):
    write_mask(root.parent / "masks" / "1.2.1.nii.gz", np.zeros((40, 50, 10)), SAME_GRID)
    before = build(masks=str(root.parent / "masks"))[1]["mask"]
    write_mask(root.parent / "masks" / "1.2.1.nii.gz", np.ones((40, 50, 10)), SAME_GRID)
    assert not np.any(before) and np.all(build(masks=str(root.parent / "masks"))[1]["mask"])


def test_masks_that_do_not_fit_are_named(build, root, tmp_path):
    masks = root.parent / "masks"
    with pytest.raises(FileNotFoundError, match="masks is not a folder; `masks` holds"):
        build(masks=str(masks))
    write_mask(masks / "someone.nii.gz", np.ones((40, 50, 10)), SAME_GRID)
    with pytest.raises(InputError, match="No mask in .*masks is named by the scan_id"):
        build(masks=str(masks))
    write_mask(masks / "1.2.1.nii.gz", np.ones((40, 50, 10)), np.eye(4) + 500 * np.eye(4, k=3))
    with pytest.raises(InputError, match="1.2.1.nii.gz lies outside its scan; the mask's affine"):
        build(masks=str(masks))
    write_mask(masks / "1.2.1.nii.gz", np.ones((40, 50, 10, 2)), SAME_GRID)
    with pytest.raises(InputError, match="has the shape .*40, 50, 10, 2.* a mask is one volume"):
        build(masks=str(masks))
    (masks / "1.2.1.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(InputError, match="1.2.1.nii.gz cannot be read as a mask"):
        build(masks=str(masks))
    with pytest.raises(ValueError, match="of .slices. with .slice_labels"):
        build("slices", masks=str(masks))
    manifest = pandas.read_parquet(root / "manifest.parquet")
    manifest.drop(columns="to_patient_mm").to_parquet(root / "manifest.parquet")
    with pytest.raises(InputError, match="older version and does not say where its scans lie"):
        build(masks=str(masks))


def test_no_patient_is_in_two_splits(build):
    patients = {split: set(rows["patient"]) for split, rows in build(split=None).items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 5


def test_scans_without_a_patient_are_split_by_study(build, root):
    manifest = pandas.read_parquet(root / "manifest.parquet").assign(patient="")
    manifest.to_parquet(root / "manifest.parquet")
    assert set(build()["patient"]) == {f"study-hash{i}" for i in range(6)}


def test_subjects_of_a_phantom_on_one_anatomy_stay_together(build, root):
    subjects = [(f"dicom/{i}", f"S{i}", f"anatomy{i // 2}", 0, 1.0) for i in range(5)]
    write_csv(root.parent / "subjects.csv", ["subject", "patient", "group", "seed", "lesion_ml"], subjects)
    labels = [(f"1.2.{i}", "none", f"S{max(i - 1, 0)}") for i in range(6)]
    write_csv(root.parent / "labels.csv", ["study_uid", "lesion", "patient"], labels)
    splits = [sorted(int(scan, 16) for scan in rows["scan_id"]) for rows in build(split=None).values()]
    assert sorted(splits) == [[0, 1, 2], [3, 4], [5]]


def test_a_slice_is_shrunk_to_fit_padded_and_labelled_like_its_scan(build, root):
    rows = build("slices").with_format("numpy")
    assert len(rows) == 18 and rows.features["label"].names == ["healthy", "lesion"]
    row = rows[5]  # the last slice of scan 1
    assert row["image"].shape == (1, 32, 32) and (row["slice"], row["label"], row["side"]) == (2, 1, 1)
    inside = row["image"][0, :, 3:29]  # 50 x 40 becomes 32 x 26, three columns of padding on either side
    np.testing.assert_allclose(inside, 0.02, atol=1e-6)
    assert row["image"][0, :, :3].max() == row["image"][0, :, 29:].max() == 0
    assert row["pixel_mm"] == pytest.approx(0.5 * 40 / 26)
    whole = build("slices", image_size=(50, 40)).with_format("numpy")
    np.testing.assert_array_equal(whole[5]["image"][0], build().with_format("numpy")[1]["image"][2, 0])


def test_a_table_in_other_words_is_mapped_by_the_configuration(build, root, tmp_path):
    path = tmp_path / "elsewhere" / "reads.tsv"
    rows = [(f"{i:016x}", i % 4, "scan 1" if i % 2 else "scan 2", "1") for i in range(6)]
    write_csv(path, ["Scan", "side ", "visit", "atrophy"], rows, delimiter="\t")
    sides = {str(number): word for number, word in enumerate(SIDES)}
    options = {
        "labels": str(path),
        "columns": {"scan_id": "Scan", "lesion": "side", "time": "visit"},
        "values": {"lesion": sides, "time": {"scan 1": "baseline", "scan 2": "follow-up"}},
    }
    mapped = build(**options)
    assert mapped["label"][:] == [0, 1, 2, 3, 0, 1] and mapped["time"][:] == [1, 0, 1, 0, 1, 0]
    assert mapped["atrophy"][:] == [True] * 6
    options["values"] = {"lesion": {}}
    with pytest.raises(InputError, match="column 'side': '0' is none of none, left, right, both"):
        build(**options)


def test_a_patients_rows_are_told_apart_by_the_day_of_the_scan(build, root):
    rows = [
        ("P0", "baseline", "none"),
        ("P0", "follow-up", "left"),
        *((f"P{i}", "baseline", "both") for i in (1, 2, 3, 4)),
    ]
    write_csv(root.parent / "labels.csv", ["patient_id", "time", "lesion"], rows)
    assert build()["label"][:] == [0, 1, 3, 3, 3, 3]
    write_csv(root.parent / "labels.csv", ["patient_id", "lesion"], [row[::2] for row in rows])
    with pytest.raises(InputError, match="two rows for patient_id P0"):
        build()


def test_scans_and_labels_without_a_partner_are_counted(build, root, capsys):
    rows = [("1.2.0", "left"), ("1.2.1", ""), ("9.9.9", "left")]
    write_csv(root.parent / "labels.csv", ["study_uid", "lesion"], rows)
    assert build()["scan_id"][:] == [f"{0:016x}"]
    assert "5 kept scans have no label and 1 labels no kept scan" in capsys.readouterr().out
    write_csv(root.parent / "labels.csv", ["study_uid", "lesion"], rows[2:])
    with pytest.raises(InputError, match="No `study_uid` in .*labels.csv is that of a kept scan"):
        build()


def test_two_series_that_were_joined_are_one_scan(build, root):
    manifest = pandas.read_parquet(root / "manifest.parquet")
    part = manifest.iloc[[0]].assign(merged_into=manifest["scan_id"][0], file="")
    pandas.concat([part, manifest]).to_parquet(root / "manifest.parquet")
    assert build()["scan_id"][:2] == [f"{0:016x}", f"{1:016x}"]


def test_labels_that_change_are_prepared_again(build, root):
    before = build()["label"][0]
    write_csv(root.parent / "labels.csv", ["study_uid", "lesion"], [(f"1.2.{i}", "both") for i in range(6)])
    assert before == 0 and build()["label"][0] == 3


def test_what_is_missing_is_named_with_what_is_there(build, root, tmp_path):
    with pytest.raises(FileNotFoundError, match="`data_dir` is missing.*apply to the trial's investigators"):
        IST3("volumes", cache_dir=str(tmp_path / "cache")).download_and_prepare()
    write_csv(root.parent / "labels.csv", ["study_uid", "side"], [("1.2.0", "left")])
    with pytest.raises(InputError, match="no column 'lesion' for `lesion`.*columns there are study_uid, side"):
        build()
    with pytest.raises(InputError, match="no column 'seite' for `lesion`"):
        build(columns={"lesion": "seite"})
    with pytest.raises(InputError, match="There is no column `lession` of labels"):
        build(columns={"lession": "side"})
    write_csv(root.parent / "labels.csv", ["name", "lesion"], [("1.2.0", "left")])
    with pytest.raises(InputError, match="has no key: no column scan_id or series_uid or study_uid or patient_id"):
        build()
    (root.parent / "labels.csv").rename(root.parent / "reads.csv")
    with pytest.raises(FileNotFoundError, match="no labels table .*labels.csv.*tables there: .*reads.csv"):
        build()
    (root / "private" / "linkage.csv").unlink()
    with pytest.raises(FileNotFoundError, match="linkage.csv, which leads from `study_uid`.*--linkage"):
        build(labels=str(root.parent / "reads.csv"), columns={"study_uid": "name"})
    (root / "manifest.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="holds no manifest.parquet.*difffuse preprocess"):
        build()


def test_a_folder_of_decisions_alone_has_no_scans(build, root):
    pandas.read_parquet(root / "manifest.parquet").assign(file="").to_parquet(root / "manifest.parquet")
    with pytest.raises(InputError, match="is that of a kept scan"):
        build()


def test_the_size_of_the_thesis_streams(tmp_path):
    write_preprocessed(tmp_path / "preprocessed", [0, 1, 2, 3], shape=(400, 500, 11))
    write_csv(tmp_path / "labels.csv", ["scan_id", "lesion"], [(f"{i:016x}", "left") for i in range(4)])
    builder = IST3(data_dir=tmp_path / "preprocessed", cache_dir=str(tmp_path / "cache"))
    assert next(iter(builder.as_streaming_dataset(split="test")))["image"].shape == (11, 1, 500, 400)
    slices = IST3("slices", data_dir=tmp_path / "preprocessed", cache_dir=str(tmp_path / "cache"))
    assert next(iter(slices.as_streaming_dataset(split="test")))["image"].shape == (1, 256, 256)
