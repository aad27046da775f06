"""Facts about head CT as a kind of scan: its slices, where a lesion can be, DICOM in and DICOM out."""

import zipfile
from dataclasses import asdict, replace

import nibabel
import numpy as np
import pytest
import torch

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import tilted, write_enhanced, write_series  # noqa: E402
from pydicom import dcmread  # noqa: E402
from synthetic_head import SPACING, turn, turned_head  # noqa: E402
from tiny_scans import tiny_pipeline  # noqa: E402

from difffuse_hf import Case, DetectionResult, DifFuseProcessor, detect_volume  # noqa: E402
from difffuse_hf.app.job import Choices, Detector  # noqa: E402
from difffuse_hf.app.session import Sessions  # noqa: E402
from difffuse_hf.cli.main import main  # noqa: E402
from difffuse_hf.data.axial_slices import SliceRecipe  # noqa: E402
from difffuse_hf.detection.dicom_case import affine_of, read_dicom_case  # noqa: E402
from difffuse_hf.detection.dicom_out import ANOMALY_STEP, write_dicom  # noqa: E402
from difffuse_hf.detection.sources import is_dicom, opened, read_source  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.io.nifti import SYNTHETIC  # noqa: E402
from difffuse_hf.preprocessing.dicom import group_series, read_headers  # noqa: E402
from difffuse_hf.preprocessing.intracranial import inside_skull  # noqa: E402

RECIPE = SliceRecipe(
    modalities=("ct",), image_size=(48, 48), pixel_spacing_mm=4.0, slice_margin=0, window_hu=(0.0, 100.0)
)
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])


@pytest.fixture(scope="module")
def head():
    """Brain of 30 HU in a skull of 1000 HU and a skin of 50 HU, off the middle of the image: (80, 90, 8) voxels."""
    x, y, z = np.meshgrid(np.arange(80), np.arange(90), np.arange(8), indexing="ij")
    radius = np.sqrt(((x - 30) / 30) ** 2 + ((y - 50) / 36) ** 2 + ((z - 3.5) / 9) ** 2)
    return np.select([radius < 0.8, radius < 0.9, radius < 0.96], [30.0, 1000.0, 50.0], -1000.0).astype(np.float32)


def test_the_window_becomes_zero_to_one_and_the_head_lies_in_the_middle(head):
    slices, geometry = RECIPE.cut(head[None], AFFINE)
    assert slices.shape == (8, 1, 48, 48) and slices.min() == 0 and slices.max() == 1
    middle = slices[4, 0]
    rows, columns = np.nonzero((middle > 0.9).numpy())  # the skull
    np.testing.assert_allclose([np.ptp(rows) / 2 + rows.min(), np.ptp(columns) / 2 + columns.min()], 23.5, atol=1)
    np.testing.assert_allclose(middle[20:28, 20:28], 0.3, atol=1e-6)
    back = (geometry.to_volume(slices)[0] - geometry.intensity_offset[0]) / geometry.intensity_scale[0]
    np.testing.assert_allclose(back[25:36, 45:56, 4], 30, atol=1e-4)


def test_a_lesion_can_be_only_inside_the_skull(head):
    _, geometry = RECIPE.cut(head[None], AFFINE)
    brain = head == 30
    assert 2 * (geometry.tissue & brain).sum() / (geometry.tissue.sum() + brain.sum()) > 0.93
    assert not geometry.tissue[head < -500].any()


def test_the_mask_of_a_slice_of_ct_lies_inside_the_skull(head):
    slices, geometry = RECIPE.cut(head[None], AFFINE)
    pipeline = tiny_pipeline(("ct",))
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(RECIPE)))
    tissue = geometry.to_slices(geometry.tissue[None].astype(np.float32)) > 0.5
    inside = pipeline.foreground(slices)
    assert tissue.any() and not (tissue & ~inside).any()
    brain = geometry.to_slices((head == 30)[None].astype(np.float32)) > 0
    assert not (inside & ~brain).any()  # no bone, no skin, no air
    assert torch.equal(pipeline.foreground(slices * (1 - 1e-6)), inside)  # as resampling may leave the skull
    narrow = replace(RECIPE, window_hu=(0.0, 80.0))
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(narrow)))
    assert torch.equal(pipeline.foreground(narrow.cut(head[None], AFFINE)[0]), inside)
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(RECIPE)))
    salient_outside = torch.rand(slices.shape, generator=torch.Generator().manual_seed(0)) + 1.0 * ~inside
    mask, _ = pipeline.choose_mask(slices, saliency=salient_outside, percentile=80)
    assert not mask[~inside].any()
    share = mask.sum((1, 2, 3)) / inside.sum((1, 2, 3))
    torch.testing.assert_close(share, torch.full_like(share, 0.2), atol=0.01, rtol=0)


def test_the_skull_is_closed_over_a_burr_hole_but_air_in_a_sinus_is_not_inside(head):
    hounsfield = head[:, :, 2:6].transpose(2, 1, 0).copy()
    hole = hounsfield.copy()
    hole[:, 48:52, 55:] = np.where(hole[:, 48:52, 55:] > 100, 40, hole[:, 48:52, 55:])
    whole, bored = inside_skull(hounsfield, 2.0), inside_skull(hole, 2.0)
    assert (whole & ~bored).sum() < 0.02 * whole.sum() and (bored & ~whole).sum() < 0.02 * whole.sum()
    sinus = hounsfield.copy()
    sinus[:, 45:55, 25:35] = -900
    assert not inside_skull(sinus, 2.0)[:, 46:54, 26:34].any()


def test_ct_turned_by_its_affine_gives_the_same_slices(head):
    slices, _ = RECIPE.cut(head[None], AFFINE)
    turned = np.diag([2.0, 2.0, 5.0, 1.0])
    again, _ = RECIPE.cut(head[None, ::-1, ::-1], turned)
    np.testing.assert_array_equal(again, slices)


@pytest.mark.parametrize("wrong", [lambda head: head + 1024, lambda head: np.minimum(head, 200)])
def test_what_is_not_in_hounsfield_units_is_refused(head, wrong):
    with pytest.raises(InputError, match="is not in Hounsfield units: its values go from"):
        RECIPE.cut(wrong(head)[None], AFFINE)


def test_a_processor_keeps_the_window(tmp_path):
    processor = DifFuseProcessor(modalities=("ct",), image_size=(48, 48), pixel_spacing_mm=4.0, window_hu=(10, 70))
    processor.save_pretrained(tmp_path)
    assert DifFuseProcessor.from_pretrained(tmp_path).recipe == processor.recipe
    assert processor.recipe.window_hu == (10, 70)


# DICOM


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A hospital's folder of one head CT, its gantry tilted by 12 degrees, and its values."""
    folder = tmp_path_factory.mktemp("disk") / "head"
    hounsfield = turned_head(turn("x", 0))[0].hounsfield.astype(int)
    write_series(folder, hounsfield, SPACING, ImageOrientationPatient=tilted(12), PatientID="P-1", KVP=120)
    return folder, hounsfield


@pytest.fixture(scope="module")
def case(disk):
    return read_dicom_case(disk[0])


def test_a_case_has_the_slices_of_its_series_as_they_were_stored(disk, case):
    folder, hounsfield = disk
    assert case.name == "head" and case.read_as == "CT in DICOM" and list(case.files) == ["ct"]
    np.testing.assert_array_equal(case.volumes[0], hounsfield.transpose(2, 1, 0))
    for index in (0, len(hounsfield) - 1):
        header = dcmread(case.dicom[index].path)
        corner = case.affine @ [0, 0, index, 1]
        np.testing.assert_allclose(corner[:3] * (-1, -1, 1), header.ImagePositionPatient, atol=1e-3)
    across = case.affine @ [1, 1, 0, 0]
    expected = np.array(tilted(12)[:3]) * SPACING[2] + np.array(tilted(12)[3:]) * SPACING[1]
    np.testing.assert_allclose(across[:3] * (-1, -1, 1), expected, atol=1e-6)
    np.testing.assert_allclose(case.header.get_sform(), case.affine, atol=1e-4)


def test_a_drawn_scan_is_called_synthetic_by_what_its_files_say(disk, case, tmp_path):
    assert not case.header["descrip"].item()
    write_series(tmp_path / "drawn", disk[1], SPACING, ImageComments=SYNTHETIC.decode())
    assert read_dicom_case(tmp_path / "drawn").header["descrip"].item() == SYNTHETIC


def test_uneven_slices_are_told_of(tmp_path):
    steps = np.cumsum([0, *[4.0] * 5, *[7.0] * 5])
    files = write_series(
        tmp_path / "a", np.zeros((11, 8, 8), int), ImagePositionPatient=lambda i: [-20.0, -20.0, float(steps[i])]
    )
    (series,) = group_series(read_headers(files)[0])
    affine, notes = affine_of(series.slices)
    assert affine[2, 2] == pytest.approx(5.5) and "4.00 to 7.00 mm apart" in notes[0]


@pytest.fixture(scope="module")
def written(case, tmp_path_factory):
    """A result with a lesion of one box, and the folder of its DICOM files."""
    pytest.importorskip("highdicom", reason="needs the extra `dicom`")
    shape = case.volumes.shape[1:]
    lesion = np.zeros(shape, np.uint8)
    lesion[20:30, 22:28, 4:7] = 1
    result = DetectionResult(
        case=case, counterfactual=case.volumes + 10 * lesion, anomaly=0.25 * lesion.astype(np.float32), lesion=lesion,
        saliency=np.zeros(shape, np.float32), mask=lesion, tissue=np.ones(shape, bool),
        lesion_probability=np.ones(shape[2]), slices=None,
        parameters={"anomaly_threshold": 0.2, "window_hu": [0, 100]},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("out") / "dicom"
    write_dicom(result, folder, "some/model")
    return result, folder


def test_the_segmentation_is_the_mask_voxel_for_voxel(case, written):
    import highdicom

    result, folder = written
    segmentation = highdicom.seg.segread(folder / "lesion.dcm")
    uids = [one.sop_instance_uid for one in case.dicom]
    pixels = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[1], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels[..., 0].transpose(2, 1, 0), result.lesion)
    segment = segmentation.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert segmentation.PatientID == "P-1" and "not for diagnosis" in segmentation.SeriesDescription


def test_every_derived_slice_lies_on_its_source(case, written):
    result, folder = written
    for name, volume in (("counterfactual", result.counterfactual[0]), ("anomaly", result.anomaly)):
        files = sorted((folder / name).iterdir())
        assert len(files) == len(case.dicom)
        for index, (file, header) in enumerate(zip(files, case.dicom)):
            image, source = dcmread(file), dcmread(header.path)
            assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
            for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID",
                        "StudyInstanceUID", "PatientID"):  # fmt: skip
                assert image[tag].value == source[tag].value
            values = image.pixel_array * float(image.RescaleSlope)
            np.testing.assert_allclose(values.T, volume[:, :, index], atol=0.5 if name[0] == "c" else ANOMALY_STEP)
            assert image.SOPInstanceUID != source.SOPInstanceUID and image.ImageType[0] == "DERIVED"


def test_without_identity_nothing_of_the_patient_is_in_any_file(case, written, tmp_path):
    write_dicom(written[0], tmp_path / "dicom", "some/model", deidentify=True)
    source = dcmread(case.dicom[0].path)
    secrets = [source.PatientID, str(source.PatientName), source.StudyInstanceUID, source.StudyDate,
               *(one.sop_instance_uid for one in case.dicom)]  # fmt: skip
    files = list((tmp_path / "dicom").rglob("*.dcm"))
    assert len(files) == 1 + 2 * len(case.dicom)
    studies = {dcmread(file).StudyInstanceUID for file in files}
    assert len(studies) == 1
    for file in files:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in secrets)


def test_the_same_result_has_the_same_identifiers_and_another_one_others(written, tmp_path):
    result, folder = written
    uids = []
    for number, threshold in enumerate((0.2, 0.2, 0.3)):
        result.parameters["anomaly_threshold"] = threshold
        write_dicom(result, tmp_path / str(number), "some/model")
        uids.append(dcmread(tmp_path / str(number) / "anomaly" / "0001.dcm").SOPInstanceUID)
    result.parameters["anomaly_threshold"] = 0.2
    assert uids[0] == uids[1] != uids[2]


def test_the_frames_of_one_file_are_referred_to_by_their_numbers(tmp_path, written, case):
    """Frames that lie from the top down in the file, while a case's slices go up."""
    highdicom = pytest.importorskip("highdicom", reason="needs the extra `dicom`")
    path = write_enhanced(tmp_path / "a", np.zeros((4, 8, 8), int))
    dataset = dcmread(path)
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, -20.0, -20.0 - 5 * index]
    dataset.save_as(path)
    slices = tuple(read_headers([path])[0][::-1])
    lesion = np.zeros((8, 8, 4), np.uint8)
    lesion[2:5, 3, 3], lesion[6, 1:4, 2] = 1, 1
    found = replace(written[0], lesion=lesion, anomaly=lesion * 0.25, counterfactual=lesion[None] * 40.0)
    write_dicom(replace(found, case=replace(case, dicom=slices)), tmp_path / "dicom", "some/model")
    segmentation = highdicom.seg.segread(tmp_path / "dicom" / "lesion.dcm")
    pixels = segmentation.get_pixels_by_source_frame(
        dataset.SOPInstanceUID, [1, 2, 3, 4], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels[..., 0].transpose(2, 1, 0)[..., ::-1], lesion)
    files = [dcmread(file) for file in sorted((tmp_path / "dicom" / "anomaly").iterdir())]
    assert [one.SourceImageSequence[0].ReferencedFrameNumber for one in files] == [4, 3, 2, 1]
    assert [one.ImagePositionPatient[2] for one in files] == [-35, -30, -25, -20]
    assert len({one.SOPInstanceUID for one in files}) == 4
    for index, one in enumerate(files):
        np.testing.assert_allclose(one.pixel_array.T * one.RescaleSlope, found.anomaly[..., index], atol=1e-6)


def test_frames_of_several_files_get_no_segmentation(tmp_path, written, case):
    paths = [write_enhanced(tmp_path / name, np.zeros((2, 8, 8), int)) for name in "ab"]
    result = replace(written[0], case=replace(case, dicom=tuple(read_headers(paths)[0])))
    with pytest.raises(InputError, match="is one of 2 files with several frames"):
        write_dicom(result, tmp_path / "dicom", "some/model")
    assert not (tmp_path / "dicom").exists()


def test_dicom_goes_in_and_the_lesion_comes_back_as_nifti_and_as_dicom(disk, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="needs the extra `dicom`")
    pipeline = tiny_pipeline(("ct",))
    recipe = replace(RECIPE, image_size=(64, 64))
    thresholds = {"anomaly_threshold": 0.001, "lesion_probability_threshold": 0.0}
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(recipe), **thresholds))
    pipeline.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--dicom-out", "--device", "cpu"]
    assert main(["detect", str(disk[0]), *options, "--preset", "thesis", "--noise-level", "3"]) == 0
    folder = tmp_path / "out" / "head"
    image = nibabel.load(folder / "head_lesion.nii.gz")
    lesion = np.asarray(image.dataobj)
    sources = {dcmread(file).SOPInstanceUID: dcmread(file) for file in disk[0].iterdir()}
    uids = sorted(sources, key=lambda uid: sources[uid].ImagePositionPatient[2])
    segmentation = highdicom.seg.segread(folder / "dicom" / "lesion.dcm")
    pixels = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[1], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert lesion.any() and not lesion.all()
    np.testing.assert_array_equal(pixels[..., 0].transpose(2, 1, 0), lesion)
    corner = image.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner[:3] * (-1, -1, 1), sources[uids[0]].ImagePositionPatient, atol=1e-3)
    assert len(list((folder / "dicom" / "counterfactual").iterdir())) == len(uids)


def test_the_page_gives_dicom_back_for_a_zip_of_dicom_without_the_patient(disk, tmp_path):
    pytest.importorskip("highdicom", reason="needs the extra `dicom`")
    pipeline = tiny_pipeline(("ct",))
    thresholds = {"anomaly_threshold": 0.001, "lesion_probability_threshold": 1.0}  # nothing suspicious: quick
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(replace(RECIPE, image_size=(64, 64))), **thresholds))
    pipeline.save_pretrained(tmp_path / "model")
    archive = tmp_path / "head.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(disk[0].iterdir()):
            file.write(path, path.name)
    session = Sessions(tmp_path).of("visitor")
    session.take([archive], 10**9)
    finished = Detector(str(tmp_path / "model")).detect(session, Choices(deidentify=True))
    assert not isinstance(finished, str), finished
    with zipfile.ZipFile(finished.downloads["dicom"]) as file:
        names = file.namelist()
        lesion = file.read("dicom/lesion.dcm")
    assert len(names) == 1 + 2 * len(list(disk[0].iterdir()))
    assert lesion[128:132] == b"DICM" and b"P-1" not in lesion


# Sources


def test_a_zip_is_unpacked_for_as_long_as_it_is_used(disk, tmp_path):
    archive = tmp_path / "patient.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(disk[0].iterdir())[:3]:
            file.write(path, f"export/{path.name}")
    with opened(archive) as folder:
        assert folder.name == "patient" and is_dicom(folder)
        assert len(list(folder.rglob("*.*"))) >= 3
    assert not folder.exists()
    with pytest.raises(InputError, match=f"^{archive} lacks"), opened(archive) as folder:
        raise InputError(f"{folder} lacks something.")
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(archive.read_bytes().replace(b"DICM", b"DICN", 1))
    with pytest.raises(InputError, match="damaged.zip cannot be unpacked"), opened(damaged):
        pass


def test_a_scan_of_another_kind_than_the_model_takes_is_refused(disk, tmp_path):
    mr = DifFuseProcessor(modalities=("flair",))
    with pytest.raises(InputError, match="holds DICOM but no MR, and the model takes MR volumes .flair."):
        read_source(disk[0], mr)
    ct = DifFuseProcessor(modalities=("ct",), window_hu=(0, 100))
    with pytest.raises(InputError, match="--series names a series of DICOM files"):
        read_source({"ct": tmp_path / "a.nii"}, ct, series=["1.2.3"])
    with pytest.raises(InputError, match="no series 1.2.3"):
        read_source(disk[0], ct, series=["1.2.3"])


def test_the_pictures_show_no_anomaly_in_the_skull(head):
    pipeline = tiny_pipeline(("ct",), threshold=0.2)
    pipeline.register_to_config(percentile_over="image")  # so that masks reach into the skull
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(RECIPE), anomaly_threshold=0.2))
    header = nibabel.Nifti1Image(head, AFFINE).header
    case = Case("Head", head[None], AFFINE, header, headers={"ct": header})
    options = {"all_slices": True, "percentile": 1.0, "noise_level": 10, "num_inference_steps": 2, "progress": False}
    result = detect_volume(pipeline, case, preset="thesis", **options)
    skull = result.slices.image > 0.9
    assert result.slices.mask[skull].any() and result.slices.anomaly[~skull].any()
    assert not result.slices.anomaly[skull].any()
