"""An atlas carried to a scan through the affine that pre-processing wrote."""

from importlib.util import find_spec

import nibabel
import numpy as np
import pytest

pytest.importorskip("pandas", reason="needs the extra `preprocess`")

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.evaluation.atlas import Atlas, cerebral_territories, load_atlas, regions_of_scan, territory_mask  # noqa: E402

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -40], [0, 0, 4, -40], [0, 0, 0, 1]])  # 21 voxels of 4 mm
NAMES = ["ACAL", "ACAR", "MCAL", "MCAR"]


def split_brain():
    """ACA in front, MCA behind, left at x < 0, right at x > 0 (mm); nothing outside 30 mm of the middle."""
    x, y, z = np.moveaxis(nibabel.affines.apply_affine(AFFINE, np.moveaxis(np.indices((21, 21, 21)), 0, -1)), -1, 0)
    labels = 1 + (x > 0) + 2 * (y < 0)
    labels[(x == 0) | (np.sqrt(x**2 + y**2 + z**2) > 30)] = 0
    return labels.astype(np.int16)


@pytest.fixture
def atlas():
    return Atlas(split_brain(), AFFINE, dict(enumerate(NAMES, start=1)))


@pytest.fixture
def row():
    """A scan of 1 mm pixels, columns to the left, rows to the back, with slices 0, 9 and 14 of 3 mm sampled."""
    to_mni = [-1, 0, 0, 32.5, 0, -1, 0, 24.5, 0, 0, 3, -31]
    return {"image": np.zeros((3, 1, 50, 66)), "source_slices": [0, 9, 14], "to_mni_mm": to_mni}


def test_a_pixel_has_the_label_of_the_voxel_in_which_it_lies(atlas, row):
    regions = regions_of_scan(row, atlas)
    assert regions.shape == (3, 50, 66) and regions.dtype == np.int16
    for (s, r, c), label in np.ndenumerate(regions[:, ::7, ::5]):
        millimetres = np.array([32.5 - 5 * c, 24.5 - 7 * r, -31 + 3 * row["source_slices"][s]])
        voxel = np.rint(np.linalg.inv(AFFINE) @ [*millimetres, 1])[:3].astype(int)
        assert label == atlas.labels[tuple(voxel)]


def test_the_patients_left_is_on_the_right_of_the_image_and_the_front_above(atlas, row):
    middle = regions_of_scan(row, atlas)[1]  # z = -4 mm
    assert middle[10, 20] == 2 and middle[10, 45] == 1 and middle[40, 20] == 4 and middle[40, 45] == 3
    assert not middle[:, 0].any()  # 32 mm to the right: outside


def test_slices_are_taken_at_their_places_in_the_scan_before_sampling(atlas, row):
    areas = (regions_of_scan(row, atlas) > 0).sum((1, 2))  # at z = -31, -4 and 11 mm
    assert areas[0] == 0 < areas[2] < areas[1]
    uneven = regions_of_scan({**row, "source_slices": [9, 9, 14]}, atlas)
    np.testing.assert_array_equal(uneven[0], uneven[1])


def test_a_readers_territory_is_an_artery_and_a_side(atlas, row):
    assert atlas.labels_of("MCA left") == [3] and atlas.labels_of("mca superior right") == [4]
    assert atlas.labels_of("ACA left; MCA right") == [1, 4] and atlas.labels_of("ACA") == [1, 2]
    assert atlas.labels_of("ACA both") == [1, 2] and atlas.labels_of("MCAL") == [3]
    assert atlas.labels_of("borderzone left") == atlas.labels_of("lacunar left") == atlas.labels_of("") == []
    regions = regions_of_scan(row, atlas)
    np.testing.assert_array_equal(territory_mask(regions, atlas, "MCA left;ACA left"), np.isin(regions, [1, 3]))
    assert territory_mask(regions, atlas, "borderzone left") is None and territory_mask(regions, atlas, None) is None


def test_the_pointing_game_has_the_territories_of_three_arteries_on_two_sides():
    """Sec. 5.6.5."""
    assert cerebral_territories("MCA superior left; lacunar left;ACA") == "MCA superior left;ACA"
    assert cerebral_territories("PCA right") == "PCA right"
    assert cerebral_territories("cerebellar right;borderzone left") == cerebral_territories(None) == ""


def test_an_atlas_is_read_with_its_names_from_a_list_or_a_table(tmp_path):
    nibabel.save(nibabel.Nifti1Image(split_brain(), AFFINE), tmp_path / "Heads_space-MNI.nii.gz")
    (tmp_path / "Heads_regions.txt").write_text("\n".join(NAMES) + "\n")
    atlas = load_atlas(tmp_path / "Heads_space-MNI.nii.gz")
    np.testing.assert_array_equal(atlas.labels, split_brain())
    assert atlas.names == dict(enumerate(NAMES, start=1))
    (tmp_path / "names.csv").write_text("label,name\n1,frontal left\n2,frontal right\n3,MCA left\n4,MCA right\n")
    atlas = load_atlas(tmp_path / "Heads_space-MNI.nii.gz", tmp_path / "names.csv")
    assert atlas.labels_of("Frontal left; MCA right") == [1, 4]


def test_what_is_missing_is_named(tmp_path, atlas, row):
    with pytest.raises(InputError, match="does not say where MNI space lies.*preprocess it"):
        regions_of_scan({**row, "to_mni_mm": None}, atlas)
    path = tmp_path / "Heads.nii.gz"
    with pytest.raises(InputError, match="Heads.nii.gz cannot be read as an atlas"):
        load_atlas(path)
    nibabel.save(nibabel.Nifti1Image(split_brain(), AFFINE), path)
    with pytest.raises(InputError, match="Heads_regions.txt is no table of an atlas's names"):
        load_atlas(path)
    (tmp_path / "Heads_regions.txt").write_text("ACAL\nACAR\nMCAL\n")
    with pytest.raises(InputError, match="has no name for label 4"):
        load_atlas(path)


@pytest.mark.skipif(find_spec("rapidtide") is None, reason="needs the files of rapidtide")
def test_the_jhu_atlas_has_its_regions_on_their_sides():
    for level, count in ((1, 30), (2, 8)):
        atlas = load_atlas(level=level)
        assert len(atlas.names) == count
        for label, name in atlas.names.items():
            x = nibabel.affines.apply_affine(atlas.affine, np.argwhere(atlas.labels == label)).mean(0)[0]
            assert x < 0 if name.endswith("L") else x > 0
