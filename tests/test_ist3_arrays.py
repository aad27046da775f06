"""The cohort of arrays: exact infarcts on the scan's own anatomy, the same for the same seed, mapped into memory."""

import shutil

import nibabel
import numpy as np
import pytest
import scipy

from difffuse_hf import ACATProcessor, DifFuseProcessor
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.planes import fit_affine
from difffuse_hf.data.prepare import make_builder, prepare
from difffuse_hf.data.scans import load_scans
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError
from difffuse_hf.phantoms.anatomy import _MNI_CENTRES
from difffuse_hf.phantoms.ist3_arrays import COLUMNS, ROWS, SIDES, SLICES, draw_scans, read_rows, write_cohort
from difffuse_hf.phantoms.ist3_plan import plan_patient

SEED = 4


def shows_much(index):
    """An infarct of medium size that is not seen at first, and no shift of the brain later."""
    plan = plan_patient(SEED, index)
    sizes = [infarct.size for infarct in plan.infarcts]
    return sizes == [2] and not plan.studies[0].stage and not plan.findings["hyperdense_vessel"]


INDEX = next(filter(shows_much, range(500)))


def label_map(path):
    """A head of ellipsoids in FreeSurfer numbers, 1 mm, RAS: skull, fluid, cortex, white matter, nuclei, ventricle."""
    x, y, z = np.ogrid[-90:91, -110:111, -70:86]
    radius = np.sqrt((x / 70) ** 2 + (y / 88) ** 2 + ((z - 8) / 68) ** 2)
    labels = np.zeros(radius.shape, np.int16)
    for number, reach in ((515, 1.12), (24, 1.03), (3, 1.0), (2, 0.9)):
        labels[radius < reach] = number
    labels[(x**2 / 100 + (y + 10) ** 2 / 900 + (z - 12) ** 2 / 80) < 1] = 4
    for numbers, (a, b, c) in _MNI_CENTRES.items():
        for number, side in zip(numbers, (-1, 1)):
            labels[((x - side * a) ** 2 + (y - b) ** 2 + (z - c) ** 2) < 16] = number
    affine = np.eye(4)
    affine[:3, 3] = -90, -110, -70
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory):
    return label_map(tmp_path_factory.mktemp("anatomy") / "head.nii.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, anatomy):
    return write_cohort(tmp_path_factory.mktemp("arrays") / "cohort", range(INDEX, INDEX + 1), SEED, [anatomy])


def test_an_infarct_is_darker_than_the_same_brain_before_it_and_nothing_else_has_changed(folder):
    image = np.load(folder / "image.npy", mmap_mode="r").astype(float) * 100 / 255
    place = np.load(folder / "place.npy", mmap_mode="r").astype(bool)
    before, after = read_rows(folder)
    (infarct,) = plan_patient(SEED, INDEX).infarcts
    assert image.shape == place.shape == (2, SLICES, ROWS, COLUMNS)
    assert [int(row["label"]) for row in (before, after)] == [0, SIDES.index(infarct.side)]
    assert (after["infarct_size"], after["territory"]) == ("2", f"{infarct.territory} {infarct.side}")
    change, inside = image[1] - image[0], place[1]
    head = (image.min(0) > 5) & (image.max(0) < 60)
    far = ~np.pad(inside, 1)[1:-1, 1:-1, 1:-1] & head
    assert -14 < change[inside & head].mean() < -3 and abs(change[far].mean()) < 0.5
    columns = np.flatnonzero(inside.any((0, 1)))
    assert (columns.mean() > COLUMNS / 2) == (infarct.side == "left")  # the patient's left is on the right


def test_infarcts_of_a_size_are_darker_by_a_factor_and_all_else_is_the_same(folder, anatomy):
    once, twice = (draw_scans(SEED, INDEX, anatomy, contrast)[1] for contrast in ((1, 1, 1, 1), (1, 2, 1, 1)))
    other = draw_scans(SEED, INDEX, anatomy, (2, 1, 2, 2))[1]  # the infarct is one of size 2
    assert np.array_equal(once.image, other.image) and once.row == other.row
    assert twice.row["drop_hu"] == pytest.approx(2 * once.row["drop_hu"], abs=0.02) and 7 <= once.row["drop_hu"] <= 13
    assert np.array_equal(once.place, twice.place)
    near = scipy.ndimage.binary_dilation(once.place.any(0), iterations=6)  # in any slice: the next ones have its edge
    assert np.array_equal(once.image[:, ~near], twice.image[:, ~near])
    inside = (once.place > 0) & (once.image > 15 * 2.55)
    darker = (once.image.astype(float) - twice.image)[inside].mean() * 100 / 255
    assert 0.4 * once.row["drop_hu"] < darker < 1.1 * once.row["drop_hu"]
    with pytest.raises(InputError, match="holds another cohort"):
        write_cohort(folder, range(INDEX, INDEX + 1), SEED, [anatomy], infarct_contrast=(2, 2, 2, 2))
    older = folder.parent / "older"  # from before there was such a factor
    shutil.copytree(folder, older)
    rows = [row.rsplit(",", 3)[0] for row in (older / "scans.csv").read_text().splitlines()]
    (older / "scans.csv").write_text("\n".join(rows) + "\n")
    assert write_cohort(older, range(INDEX, INDEX + 1), SEED, [anatomy]) == older
    with pytest.raises(InputError, match="holds another cohort"):
        write_cohort(older, range(INDEX, INDEX + 1), SEED, [anatomy], infarct_contrast=(2, 2, 2, 2))
    for contrast in ((1, 1, -1, 1), (1, 1)):
        with pytest.raises(InputError, match="a factor above 0 for each of 4 sizes, got 1 1"):
            write_cohort(folder.parent / "none", range(1), SEED, [anatomy], infarct_contrast=contrast)


def test_a_scan_without_an_infarct_has_a_place_for_one_in_the_same_brain(folder):
    """The place tells nothing: it is brain in both scans, and no air, bone or ventricle."""
    image, place = (np.load(folder / f"{name}.npy").astype(float) for name in ("image", "place"))
    assert (place.sum((1, 2, 3)) > 50).all()
    for grey, where in zip(image * 100 / 255, place > 0):
        assert 15 < np.median(grey[where]) < 45 and np.quantile(grey[where], 0.95) < 75


def test_a_scan_is_drawn_again_the_same_and_a_folder_holds_one_cohort(folder, anatomy):
    again = draw_scans(SEED, INDEX, anatomy)
    assert np.array_equal(np.load(folder / "image.npy"), np.stack([scan.image for scan in again]))
    kept = (folder / "scans.csv").stat().st_mtime_ns
    write_cohort(folder, range(INDEX, INDEX + 1), SEED, [anatomy])
    assert (folder / "scans.csv").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="holds another cohort .2 scans.; choose another folder"):
        write_cohort(folder, range(3), SEED, [anatomy])
    with pytest.raises(InputError, match="holds no cohort of arrays"):
        read_rows(folder.parent)


def test_slices_for_diffusion_have_the_arrays_pixels_their_own_labels_and_a_processor_that_cuts_the_like(
    folder, tmp_path
):
    low, high = 0, 80
    builder = make_builder("ist3", folder, window_hu=(low, high), split="test")
    prepare(builder, tmp_path / "slices")
    rows = load_slices(str(tmp_path / "slices"), "test").with_format("numpy")[:]
    image, place = (np.load(folder / f"{name}.npy") for name in ("image", "place"))
    before, after = np.split(np.arange(len(rows["label"])), [SLICES])
    top = (128 - ROWS) // 2
    assert rows["image"].shape[1:] == (1, 128, 96)
    assert np.allclose(
        rows["image"][before, 0, top : top + ROWS], (image[0] * (100 / 255) / high).clip(0, 1), atol=1e-6
    )
    assert not rows["label"][before].any() and not rows["mask"][before].any()
    shown = rows["slice"][after]
    assert np.array_equal(rows["mask"][after, top : top + ROWS], place[1, shown])
    assert np.array_equal(rows["label"][after], place[1, shown].any((1, 2)))
    left_out = np.setdiff1d(np.arange(SLICES), shown)
    assert (place[1, left_out].sum((1, 2)) < 10).all() and (place[1, left_out].sum((1, 2)) > 0).all()
    assert set(rows["infarct_size"][after]) == {2} and set(rows["infarct_size"][before]) == {0}
    processor = DifFuseProcessor.from_pretrained(tmp_path / "slices")
    assert processor.recipe.window_hu == (low, high) and processor.recipe.pixel_spacing_mm == 2
    assert is_synthetic(str(tmp_path / "slices"))


def test_processes_side_by_side_draw_the_same_scans_in_the_same_order(folder, anatomy, tmp_path):
    patients = range(INDEX - 1, INDEX + 2)
    several = write_cohort(tmp_path / "several", patients, SEED, [anatomy], workers=2)
    assert [row["patient"] for row in read_rows(several)] == [f"SYNTH-{SEED}-{i:05d}" for i in patients for _ in "12"]
    assert read_rows(several)[2:4] == read_rows(folder)
    for name in ("image", "place"):
        assert np.array_equal(np.load(several / f"{name}.npy")[2:4], np.load(folder / f"{name}.npy"))


def test_a_window_beyond_what_the_arrays_hold_is_refused(folder):
    with pytest.raises(InputError, match="hold 0 to 100 HU"):
        make_builder("ist3", folder, window_hu=(-100.0, 50.0))


def test_scans_for_classifiers_have_side_and_presence_their_mask_and_a_place_whether_or_not_they_have_a_lesion(
    folder, tmp_path
):
    prepare(make_builder("ist3", folder, "volumes", window_hu=(0, 80), split="test"), tmp_path / "scans")
    scans = load_scans(str(tmp_path / "scans"), "test").with_format("numpy")[:]
    image, place = (np.load(folder / f"{name}.npy") for name in ("image", "place"))
    (infarct,) = plan_patient(SEED, INDEX).infarcts
    assert np.allclose(scans["pixel_values"][:, :, 0], (image * (100 / 255) / 80).clip(0, 1), atol=1e-6)
    assert scans["label"].tolist() == [0, SIDES.index(infarct.side)] and scans["presence"].tolist() == [0, 1]
    assert np.array_equal(scans["place"], place) and place.any((1, 2, 3)).all()
    assert not scans["mask"][0].any() and np.array_equal(scans["mask"][1], place[1])
    processor = ACATProcessor.from_pretrained(tmp_path / "scans")
    assert (processor.num_slices, tuple(processor.image_size)) == (SLICES, (ROWS, COLUMNS))
    assert scans["source_slices"].shape == (2, SLICES) and (np.diff(scans["source_slices"]) > 0).all()


@pytest.mark.parametrize("size", [(ROWS, COLUMNS), (60, 48), (64, 64)])
def test_a_scan_says_where_mni_space_lies_on_whatever_pixels_it_has(folder, anatomy, tmp_path, size):
    """The head of ellipsoids is drawn in MNI space, so its middle, ends, and lowest and highest slice are known."""
    prepare(make_builder("ist3", folder, "volumes", image_size=size, split="test"), tmp_path / "scans")
    scans = load_scans(str(tmp_path / "scans"), "test").with_format("numpy")[:]
    for image, to_mni, slices in zip(scans["pixel_values"], scans["to_mni_mm"], scans["source_slices"]):
        rows, columns = np.nonzero(image[SLICES // 2, 0] > 0.1)
        ends = [[columns.mean(), rows.mean(), one, 1] for one in (slices[0], slices[SLICES // 2], slices[-1])]
        low, middle, high = (to_mni.reshape(3, 4) @ end for end in ends)
        assert np.abs(middle[:2]).max() < 12  # the head is centred, but for a warp and a tilt
        assert low[2] == pytest.approx(-42, abs=12) and high[2] == pytest.approx(62, abs=12)
        left = to_mni.reshape(3, 4) @ [columns.max(), rows.mean(), slices[SLICES // 2], 1]
        front = to_mni.reshape(3, 4) @ [columns.mean(), rows.min(), slices[SLICES // 2], 1]
        assert left[0] == pytest.approx(-78, abs=12) and front[1] == pytest.approx(98, abs=14)


def test_an_affine_map_goes_with_the_pixels_that_planes_are_shrunk_and_padded_to():
    whole = np.arange(12.0).reshape(3, 4) + np.eye(3, 4)
    half = fit_affine(whole, (120, 96), (64, 48))  # half the size, and two rows of margin above and below
    assert np.allclose(half @ [7, 5 + 2, 3, 1], whole @ [2 * 7 + 0.5, 2 * 5 + 0.5, 3, 1])


def test_a_cohort_from_before_it_said_where_it_lies_is_read(folder, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    rows = [row.rsplit(",", 2)[0] for row in (older / "scans.csv").read_text().splitlines()]
    (older / "scans.csv").write_text("\n".join(rows) + "\n")
    prepare(make_builder("ist3", older, "volumes", split="test"), tmp_path / "scans")
    scans = load_scans(str(tmp_path / "scans"), "test")
    assert scans["to_mni_mm"][0] is None and scans["label"][0] == 0
