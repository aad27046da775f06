"""Files of many kinds and with odd headers: what is read of them, in millimetres, and what is said about it."""

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer import MGHImage

from difffuse_hf.errors import InputError
from difffuse_hf.io.nifti import along_axes_of, same_grid, write_volume
from difffuse_hf.io.volume_file import read_volume_file, stem, volume_files

SHAPE = (6, 7, 5)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, -2.0, 0, 8], [0, 0, 3.0, -7], [0, 0, 0, 1]])
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def save(path, voxels=VOXELS, affine=AFFINE, change=None, kind=nibabel.Nifti1Image):
    image = kind(voxels, affine)
    if change:
        header = image.header.copy()
        change(header)
        image = kind(voxels, None, header)
    nibabel.save(image, path)
    return path


def read(path):
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    return volume


@pytest.mark.parametrize("name", ["a.nii", "A.NII.GZ", "a.img", "a.hdr", "a.mgz", "a.mgh"])
def test_formats_of_nibabel(name, tmp_path):
    kind = nibabel.Nifti1Pair if name[2:] in ("img", "hdr") else MGHImage if name[2:4] == "mg" else nibabel.Nifti1Image
    volume = read(save(tmp_path / name, kind=kind))
    assert volume.notes == () and volume.header.get_data_dtype() == np.int16
    assert [file.name for file in volume_files(tmp_path)] == [name.replace("img", "hdr")]
    assert stem(tmp_path / name).lower() == "a"


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_formats_of_simpleitk(name, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((-9.0, -8.0, -7.0))  # LPS
    sitk.WriteImage(image, str(tmp_path / name))
    assert read(tmp_path / name).notes == ()
    colours = sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / name))
    with pytest.raises(InputError, match="holds colours"):
        read_volume_file(tmp_path / name)


def write_nrrd(path, *lines):
    header = ["NRRD0004", "type: uchar", "dimension: 3", "sizes: 2 2 2", "encoding: raw", *lines, "", ""]
    path.write_bytes("\n".join(header).encode() + bytes(range(8)))


def test_an_nrrd_file_in_another_unit_is_refused(tmp_path):
    pytest.importorskip("SimpleITK")
    place = ["space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)"]
    write_nrrd(tmp_path / "a.nrrd", *place, 'space units: "mm" "mm" "mm"')
    assert read_volume_file(tmp_path / "a.nrrd").notes == ()
    write_nrrd(tmp_path / "a.nrrd", *place, 'space units: "m" "m" "m"')
    with pytest.raises(InputError, match="has lengths in m; convert it to millimetres"):
        read_volume_file(tmp_path / "a.nrrd")


def test_an_nrrd_file_without_a_space_says_that_its_axes_are_a_guess(tmp_path):
    pytest.importorskip("SimpleITK")
    write_nrrd(tmp_path / "a.nrrd", "spacings: 1 1 1")
    assert "does not say where left and front are" in read_volume_file(tmp_path / "a.nrrd").notes[0]


@pytest.mark.parametrize("axes", [(1,), (1, 1)])
def test_an_axis_with_one_volume_along_it_is_dropped(axes, tmp_path):
    read(save(tmp_path / "a.nii", VOXELS.reshape(*SHAPE, *axes)))


def test_several_volumes_are_refused(tmp_path):
    with pytest.raises(InputError, match="4 dimensions"):
        read_volume_file(save(tmp_path / "a.nii", np.stack([VOXELS] * 2, axis=-1)))


def test_a_slice_gets_a_third_axis(tmp_path):
    volume = read_volume_file(save(tmp_path / "a.nii", VOXELS[..., 0]))
    assert volume.voxels.shape == (6, 7, 1) and abs(np.linalg.det(volume.affine)) > 0


@pytest.mark.parametrize("kind", ["RGB", "complex"])
def test_colours_and_complex_numbers_are_refused(kind, tmp_path):
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if kind == "RGB" else np.complex64
    with pytest.raises(InputError, match="colours, vectors or complex"):
        read_volume_file(save(tmp_path / "a.nii", np.zeros(SHAPE, dtype)))


@pytest.mark.parametrize(("code", "factor", "words"), [(1, 0.001, "metres"), (3, 1000, "microns")])
def test_a_unit_is_honoured_and_the_header_comes_back_in_millimetres(code, factor, words, tmp_path):
    scaled = AFFINE.copy()
    scaled[:3] *= factor
    volume = read(save(tmp_path / "a.nii", affine=scaled, change=lambda header: header.set_xyzt_units(code)))
    assert words in volume.notes[0]
    write_volume(tmp_path / "out.nii", volume.voxels, volume.header, np.int16)
    assert read(tmp_path / "out.nii").notes == ()


def test_an_unknown_unit_is_refused(tmp_path):
    def change(header):
        header["xyzt_units"] = 5

    with pytest.raises(InputError, match="unknown unit of length"):
        read_volume_file(save(tmp_path / "a.nii", change=change))


def test_a_header_without_an_orientation_is_read_with_a_warning(tmp_path):
    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    (note,) = read_volume_file(save(tmp_path / "a.nii", change=forget)).notes
    assert "sform and qform codes are 0" in note and "left, front, top" in note
    (note,) = read_volume_file(save(tmp_path / "b.img", kind=nibabel.Spm99AnalyzeImage)).notes
    assert "Analyze" in note


def test_of_two_orientations_that_differ_the_sform_is_taken_and_said(tmp_path):
    def turn(header):
        header.set_sform(AFFINE, code=2)
        header.set_qform(AFFINE @ np.diag([1, -1, 1, 1]), code=1)

    (note,) = read(save(tmp_path / "a.nii", change=turn)).notes
    assert "the sform was taken" in note


def test_a_singular_header_is_refused(tmp_path):
    def flatten(header):
        header.set_sform(np.diag([1, 0, 1, 1]), code=1)

    with pytest.raises(InputError, match="how large a voxel is"):
        read_volume_file(save(tmp_path / "a.nii", change=flatten))


@pytest.mark.parametrize("slope", [np.nan, 0.0])
def test_a_slope_that_is_none_changes_no_intensity(slope, tmp_path):
    save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:116] = np.float32(slope).tobytes()  # scl_slope
    (tmp_path / "a.nii").write_bytes(data)
    assert read(tmp_path / "a.nii").header.get_data_dtype() == np.int16


def test_a_slope_is_applied_and_makes_the_results_float(tmp_path):
    save(tmp_path / "a.nii", change=lambda header: header.set_slope_inter(0.5, 3))
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.float32([0.5, 3]).tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    volume = read_volume_file(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.voxels, VOXELS * 0.5 + 3)
    assert volume.header.get_data_dtype() == np.float32


def test_big_endian_files_are_read_and_written(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(VOXELS.astype(">i2"), AFFINE, header), tmp_path / "a.nii")
    volume = read(tmp_path / "a.nii")
    write_volume(tmp_path / "out.nii", volume.voxels, volume.header, volume.header.get_data_dtype())
    read(tmp_path / "out.nii")


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR"])
def test_a_copy_along_other_axes_is_brought_back_voxel_by_voxel(codes, tmp_path):
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE).as_reoriented(turn), tmp_path / "turned.nii")
    first, turned = read(save(tmp_path / "a.nii")), read_volume_file(tmp_path / "turned.nii")
    assert not same_grid(turned, first)
    turned = along_axes_of(turned, first)
    np.testing.assert_array_equal(turned.voxels, VOXELS)
    assert same_grid(turned, first)
    write_volume(tmp_path / "out.nii", turned.voxels, turned.header)
    read(tmp_path / "out.nii")


@pytest.mark.parametrize(("shift_mm", "same"), [(0.004, True), (0.1, True), (0.5, False)])
def test_grids_are_compared_in_voxels(shift_mm, same, tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] += shift_mm
    assert (
        same_grid(read_volume_file(save(tmp_path / "b.nii", affine=shifted)), read(save(tmp_path / "a.nii"))) == same
    )


def test_hidden_files_and_other_formats_are_no_volumes(tmp_path):
    for name in ("._a.nii", "a.json", "notes.txt"):
        (tmp_path / name).write_text("")
    assert volume_files(tmp_path) == []
