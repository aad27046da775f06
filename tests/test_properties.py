"""Properties that hold for whatever is drawn: readers, names of a case, the cutting into slices, masks, archives.

Thirty examples of each, always the same; `EXAMPLES=1000 pytest tests/test_properties.py` draws as many, others each
time (docs/reliability.md).
"""

import gzip
import io
import math
import os
import struct
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from dicom_files import write_series
from tiny_scans import everything_in

pytest.importorskip("hypothesis", reason="needs the extra `dev`")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from nibabel.orientations import axcodes2ornt, inv_ornt_aff  # noqa: E402
from pydicom.datadict import dictionary_VR  # noqa: E402
from pydicom.uid import ImplicitVRLittleEndian  # noqa: E402

from difffuse_hf.data.axial_slices import SliceRecipe  # noqa: E402
from difffuse_hf.data.slice_settings import SliceSettings  # noqa: E402
from difffuse_hf.detection.sources import opened  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.io.layouts import case_name, find_case  # noqa: E402
from difffuse_hf.io.volume_file import UNIT_MM, VolumeFile, read_volume_file  # noqa: E402
from difffuse_hf.preprocessing import headers  # noqa: E402
from difffuse_hf.preprocessing.dicom import group_series  # noqa: E402
from difffuse_hf.preprocessing.headers import SliceHeader, Unread, read_header  # noqa: E402
from difffuse_hf.saliency.mask import saliency_to_mask  # noqa: E402

EXAMPLES = os.environ.get("EXAMPLES")
settings.register_profile(
    "ours", max_examples=int(EXAMPLES or 30), derandomize=not EXAMPLES, deadline=None, database=None, print_blob=True
)
settings.load_profile("ours")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about what is drawn

ORIENTATIONS = st.sampled_from([x + y + z for x in "RL" for y in "AP" for z in "SI"]).flatmap(st.permutations)
SIZES = st.tuples(*[st.integers(1, 6)] * 3)
SPACINGS = st.tuples(*[st.floats(0.2, 8)] * 3)
# Where, and what is written over it, 1 to 8 bytes; most faults are in the header.
FAULTS = st.lists(st.tuples(st.integers(0, 420) | st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=4)


def affine_of(codes, spacing, shape):
    """Millimetres of a grid whose axes run as `codes` say."""
    return np.diag([*spacing, 1.0]) @ inv_ornt_aff(axcodes2ornt(tuple(codes)), shape)


def with_faults(content, faults, end):
    """Bytes with some written over, up to `end` in thousandths of them."""
    content = bytearray(content)
    for place, written in faults:
        content[place : place + len(written)] = written
    return bytes(content[: math.ceil(len(content) * end / 1000)])


def is_one_sentence(error, *names):
    said = str(error)
    return "\n" not in said and 10 < len(said) < 2000 and all(str(name) in said for name in names)


@given(ORIENTATIONS, SIZES, SPACINGS, st.sampled_from(["u1", "i2", "i4", "f4"]), st.sampled_from(sorted(UNIT_MM)),
       st.sampled_from(["case.nii", "case.nii.gz"]), st.integers(0, 99))  # fmt: skip
def test_a_nifti_file_comes_back_with_its_voxels_and_its_geometry_in_millimetres(
    codes, shape, spacing, dtype, unit, name, seed
):
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    affine = affine_of(codes, spacing, shape)
    affine[:3, 3] += (-30, 12.5, 7)
    image = nibabel.Nifti1Image(voxels, np.diag([1 / UNIT_MM[unit]] * 3 + [1.0]) @ affine, dtype=voxels.dtype)
    image.header["xyzt_units"] = unit
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, Path(folder, name))
        read = read_volume_file(Path(folder, name))
    assert np.array_equal(read.voxels, voxels)
    np.testing.assert_allclose(read.affine, affine, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(read.header.get_best_affine(), affine, rtol=1e-4, atol=1e-3)
    assert read.header.get_data_dtype() == np.dtype(dtype)


@given(FAULTS, st.integers(0, 1000) | st.just(1000), st.booleans(), st.booleans())
def test_a_damaged_nifti_file_is_a_volume_or_one_sentence_that_names_it(faults, end, packed, second_version):
    kind = nibabel.Nifti2Image if second_version else nibabel.Nifti1Image
    voxels = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    content = with_faults(kind(voxels, np.diag([-1.0, 1, 2, 1])).to_bytes(), faults, end)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "case.nii.gz" if packed else "case.nii")
        if packed:
            content = gzip.compress(content, 1)
        file.write_bytes(content)
        try:
            read = read_volume_file(file)
        except InputError as error:
            assert is_one_sentence(error, file)
        else:
            assert isinstance(read, VolumeFile) and read.voxels.ndim == 3 and read.voxels.size > 0
            assert np.isfinite(read.affine).all() and abs(np.linalg.det(read.affine[:3, :3])) > 0
        assert everything_in(Path(folder)) == [file.name]


@pytest.fixture(scope="module")
def slice_bytes(tmp_path_factory):
    """A whole slice of head CT in DICOM."""
    (file,) = write_series(tmp_path_factory.mktemp("dicom"), np.zeros((1, 8, 8)), WindowCenter=40, WindowWidth=80)
    return file.read_bytes()


@pytest.fixture(scope="module")
def slice_elements(slice_bytes):
    """The values of its elements by their tags, as bytes."""
    written = io.BytesIO()
    dataset = pydicom.dcmread(io.BytesIO(slice_bytes))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(written, dataset, implicit_vr=True, little_endian=True)
    read = pydicom.dcmread(io.BytesIO(written.getvalue()))
    return {tag: read.get_item(tag).value for tag in read.keys()}


def header_or_reason(content):
    """What is read of these bytes; it leads on to the series, and nothing is left beside the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "slice.dcm")
        file.write_bytes(content)
        read = read_header(file)
        assert isinstance(read, (SliceHeader, Unread))
        if isinstance(read, Unread):
            assert read.why and "\n" not in read.why
        else:
            for one in group_series(headers.frames_of(read)):
                assert one.slices
        assert everything_in(Path(folder)) == [file.name]
    return read


@given(FAULTS, st.integers(0, 1000) | st.just(1000))
def test_a_damaged_dicom_file_is_a_header_or_a_reason(slice_bytes, faults, end):
    header_or_reason(with_faults(slice_bytes, faults, end))


TAGS = [tag for tag in headers._TAGS if dictionary_VR(tag) != "SQ"]
VALUES = st.sampled_from(
    ["", "0", "-1", "nan", "inf", "1e400", "1\\2", "1\\0\\0\\0\\1\\0", "\\\\", "9" * 40]
) | st.text(st.characters(max_codepoint=0x2FF), max_size=12)


@given(st.dictionaries(st.sampled_from(TAGS), VALUES, max_size=6))
def test_a_dicom_file_with_any_texts_in_its_header_is_a_header_or_a_reason(slice_elements, values):
    """The texts are written as they are, whatever the tag's type, without VR."""
    elements = slice_elements | {tag: text.encode() + b" " * (len(text.encode()) % 2) for tag, text in values.items()}
    content = b"".join(
        struct.pack("<HHI", tag.group, tag.element, len(value)) + value for tag, value in sorted(elements.items())
    )
    read = header_or_reason(content)
    if isinstance(read, SliceHeader):
        known = (read.slope, read.intercept, read.thickness_mm, *(read.pixel_spacing_mm or ()), *(read.position or ()))
        assert all(number is None or math.isfinite(number) for number in known)


WORDS = "t1 T1 t1ce T1_Gd t1c t1n T1w t2 T2w t2w t2f flair FLAIR FLAIR_2 seg ce-gadolinium_T1w 0000 0001 x Zoë".split()
NAMES = st.builds(
    lambda before, between, word, end: f"{before}{between}{word}{end}",
    st.sampled_from(["", "case", "BraTS2021_00001", "sub-1_ses-2", ".", "._", "a b", "ä"]),
    st.sampled_from(["", "_", "-", " ", "."]),
    st.sampled_from(WORDS),
    st.sampled_from([".nii.gz", ".nii", ".NII.GZ", ".mgz", ".nrrd", ".hdr", ".img", ".txt", ""]),
)
MODALITIES = ("flair", "t1", "t1ce", "t2")


@given(st.lists(NAMES, unique_by=str.lower, max_size=9), st.sets(st.sampled_from(MODALITIES), min_size=1))
def test_a_folder_of_any_names_is_a_case_with_a_file_for_each_modality_or_one_sentence(names, needed):
    needed = sorted(needed)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).touch()
        try:
            case = find_case(folder, needed)
        except InputError as error:
            assert is_one_sentence(error, folder)
        else:
            files = [*case.files.values(), *([case.reference] if case.reference else [])]
            assert list(case.files) == needed and len(set(files)) == len(files)
            assert {file.parent for file in files} == {Path(folder)} and {file.name for file in files} <= set(names)


LAYOUTS = [("flair", "t1", "t1ce", "t2"), ("t2f", "t1n", "t1c", "t2w"), ("FLAIR", "T1w", "ce-gd_T1w", "T2w"),
           ("flair", "t1", "t1_gd", "t2")]  # fmt: skip


@given(st.sampled_from(LAYOUTS), st.sampled_from(["sub-1", "sub-01_ses-a"]),
       st.sampled_from([str.lower, str.upper, str]), st.permutations(range(4)))  # fmt: skip
def test_a_whole_case_is_found_in_every_layout_and_any_case_of_letters(endings, name, letters, order):
    files = [letters(f"{name}_{ending}.nii.gz") for ending in endings]
    with tempfile.TemporaryDirectory() as folder:
        for number in order:
            Path(folder, files[number]).touch()
        assert [file.name for file in find_case(folder, MODALITIES).files.values()] == files


FILE_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)


@given(FILE_NAMES, st.sampled_from(["", ".zip", ".nii.gz", ".NII"]))
@example("..", ".zip")  # `...zip`, which was once unpacked into the folder above
@example(".", "")
def test_the_name_of_a_case_leads_nowhere_else(name, ending):
    """It names the folder of the results below the output folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name + ending)
        if ending:
            file.touch()
        named = case_name(file)
        assert named and "/" not in named and named not in ("..", ".")


@given(ORIENTATIONS, st.tuples(*[st.integers(8, 14)] * 3), SPACINGS, st.integers(0, 9), st.booleans())
def test_slices_lead_back_to_the_voxels_they_were_cut_from(codes, shape, spacing, seed, wide):
    """Where a pixel is a voxel exactly; at any size of voxels what is cut is in [0, 1], its ground 0."""
    spacing = (1.5, 1.5, spacing[2]) if wide else spacing
    random = np.random.default_rng(seed)
    volume = np.zeros(shape, np.float32)
    volume[2:-2, 2:-2, 2:-2] = random.uniform(0.3, 1, [n - 4 for n in shape]) * 1000
    recipe = SliceRecipe(modalities=("t2",), image_size=(16, 16), pixel_spacing_mm=1.5, slice_margin=0)
    affine = affine_of(codes, spacing, shape)
    try:
        slices, geometry = recipe.cut(volume[None], affine)
    except InputError as error:
        assert is_one_sentence(error) and not wide
        return
    assert slices.shape == (geometry.lps_shape[2], 1, 16, 16) and 0 <= slices.min() and slices.max() <= 1
    back = geometry.to_volume(slices)
    assert back.shape == (1, *shape) and np.isfinite(back).all()
    if wide:
        expected = (volume * geometry.intensity_scale[0]).clip(0, 1)
        np.testing.assert_allclose(back[0], expected, atol=1e-5)
        assert len(recipe.usable(slices)) > 0


FLOATS = st.floats() | st.integers(-3, 300)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "modalities": st.lists(st.sampled_from(MODALITIES), max_size=4).map(tuple),
        "image_size": st.lists(st.integers(-2, 300), max_size=3).map(tuple),
        "pixel_spacing_mm": FLOATS,
        "reference_intensity": FLOATS,
        "slice_margin": st.integers(-5, 200),
        "min_foreground": FLOATS,
        "window_hu": st.none() | st.lists(FLOATS, max_size=3).map(tuple),
        "optional_modalities": st.lists(st.sampled_from(("t1", "dwi")), max_size=2).map(tuple),
        "body_part": st.sampled_from(["head", "chest", "knee"]),
    },
)


@given(SETTINGS)
def test_settings_of_slices_make_sense_or_are_refused_in_one_sentence(chosen):
    try:
        made = SliceSettings(**chosen)
    except ValueError as error:
        assert is_one_sentence(error) and "`" in str(error)
        return
    assert {field.name for field in fields(made)} >= set(chosen)
    assert min(made.image_size) > 0 and 0 < made.pixel_spacing_mm < math.inf
    assert made.slice_margin >= 0 and 0 <= made.min_foreground <= 1
    assert made.modalities and len(set(made.modalities)) == len(made.modalities)
    assert made.window_hu is None or -math.inf < made.window_hu[0] < made.window_hu[1] < math.inf
    assert made.kind in ("skull-stripped MR", "head CT", "lung CT")


@given(st.tuples(st.integers(1, 3), st.integers(3, 12), st.integers(3, 12)), st.integers(0, 999), st.integers(0, 5),
       st.floats(0, 100), st.floats(0, 100), st.sampled_from(["thesis", "reference_code"]), st.booleans())  # fmt: skip
def test_masks_are_inside_the_foreground_shrink_with_the_percentile_and_do_not_depend_on_the_scale(
    shape, seed, levels, one, other, variant, inside
):
    random = torch.Generator().manual_seed(seed)
    saliency = torch.rand(shape[0], 1, *shape[1:], generator=random)
    if levels:  # ties
        saliency = (saliency * levels).floor() / 8
    foreground = torch.rand(saliency.shape, generator=random) < 0.5 if inside else None
    low, high = sorted((one, other))
    wide, narrow = (saliency_to_mask(saliency, p, variant=variant, foreground=foreground) for p in (low, high))
    for mask in (wide, narrow):
        assert mask.shape == saliency.shape and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert foreground is None or not (mask.bool() & ~foreground).any()
    assert (narrow <= wide).all()
    assert torch.equal(narrow, saliency_to_mask(saliency * 4, high, variant=variant, foreground=foreground))
    for image, mask in zip(saliency, narrow):
        assert image.unique().numel() > 1 or not mask.any()  # a constant map has nothing salient
    if variant == "thesis":
        counted = foreground if foreground is not None else torch.ones_like(narrow)
        most = ((1 - high / 100) * counted.flatten(1).sum(1) + 1).ceil()
        assert (narrow.flatten(1).sum(1) <= most).all()


PARTS = st.sampled_from(["..", ".", "", "a", "b.nii", "C:", "\\..\\..\\evil", "~", "ä", "x" * 30])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), max_size=6), st.booleans())
@example(["..", "../a"], False)  # once "File exists", of a temporary file
def test_no_name_in_an_archive_leads_out_of_its_folder(names, absolute):
    with tempfile.TemporaryDirectory() as top:
        here = Path(top, "a", "b", "c")
        here.mkdir(parents=True)
        before, kept = tempfile.tempdir, everything_in(Path(top))
        with zipfile.ZipFile(here / "case.zip", "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo("/" * absolute + (name or "x")), b"evil")
        tempfile.tempdir = str(here)
        try:
            with opened(here / "case.zip") as folder:
                inside = {str(path) for path in Path(folder).parent.rglob("*")}
                outside = {str(path) for path in Path(top).rglob("*")} - inside - {str(Path(folder).parent)}
                assert outside == {os.path.join(top, one) for one in [*kept, "a/b/c/case.zip"]}
        except InputError as error:
            assert is_one_sentence(error, here / "case.zip")
        finally:
            tempfile.tempdir = before
        assert everything_in(Path(top)) == [*kept, "a/b/c/case.zip"]
