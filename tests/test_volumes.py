"""A scan through the pipeline: read on its own grid, detected slice by slice, written on the grid of the input."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from difffuse_hf import (
    DifFusePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
    detect_volume,
    make_healthy_unet,
    read_case,
)
from difffuse_hf.detection import slices as scan_slices
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.image_quality import flicker
from difffuse_hf.io.files import check_output
from difffuse_hf.pipelines.calibration import Calibration, ScanRule
from difffuse_hf.pipelines.map_recipe import MapRecipe
from difffuse_hf.pipelines.presets import Preset
from difffuse_hf.reporting.coverage import coverage_of
from difffuse_hf.saliency.mask import saliency_to_mask, smooth_through_slices

REAL_CASES = Path(__file__).resolve().parents[2] / "shared/data/brats_sample"
MODALITIES = ("flair", "t1")
SHAPE = (36, 40, 6)
OBLIQUE_LPS = nibabel.affines.from_matvec([[-0.9, 0.1, 0], [-0.1, -0.9, 0], [0, 0, 3]], [10, 20, -30])


def write(file, array, affine=OBLIQUE_LPS):
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    nibabel.save(image, file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A case of two modalities and a reference: an ellipsoid of brain with a bright lesion."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    brain = ((x - 18) / 13) ** 2 + ((y - 20) / 15) ** 2 + ((z - 2.5) / 4) ** 2 <= 1
    lesion = ((x - 22) / 4) ** 2 + ((y - 18) / 4) ** 2 + ((z - 3) / 2) ** 2 <= 1
    folder = tmp_path_factory.mktemp("cases") / "case7"
    folder.mkdir()
    write(folder / "case7_flair.nii.gz", (brain * (rng.integers(300, 400, SHAPE) + 900 * lesion)).astype(np.int16))
    write(folder / "case7_t1.nii.gz", (brain * rng.uniform(0.3, 0.4, SHAPE)).astype(np.float32))
    write(folder / "case7_seg.nii.gz", (4 * lesion * brain).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def pipeline():
    """All the real parts, small and untrained: what they find means nothing, where it ends up does."""
    torch.manual_seed(0)
    unet = make_healthy_unet(
        in_channels=2,
        sample_size=24,
        block_out_channels=(16, 16),
        attention_levels=0,
        norm_num_groups=8,
        layers_per_block=1,
    )
    torch.nn.init.normal_(unet.conv_out.weight, std=0.02)
    tiny = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    classifier = SliceClassifier(
        SliceClassifierConfig(backbone="resnet10t", backbone_kwargs=tiny, num_channels=2, num_labels=2)
    )
    processor = DifFuseProcessor(
        MODALITIES, image_size=(24, 24), pixel_spacing_mm=1.8, slice_margin=0, anomaly_threshold=0.05
    )
    return DifFusePipeline(
        unet=unet.eval(),
        scheduler=DifFuseScheduler(),
        classifier=classifier.eval(),
        autoencoder=ResNetAutoencoder(in_channels=2, channels=(8, 8, 8)).eval(),
        processor=processor,
        percentile=70,
        percentile_over="foreground",
        morphology_size=1,
        saliency_options={"num_steps": 2},
    )


def detect(pipeline, case, **options):
    options = {"num_inference_steps": 3, "all_slices": True, "progress": False, **options}
    return detect_volume(pipeline, case, **options)


@pytest.fixture(scope="module")
def case(folder):
    return read_case(folder, MODALITIES)


@pytest.fixture(scope="module")
def result(pipeline, case):
    """Every slice repainted with the settings of `detect`."""
    return detect(pipeline, case)


def test_a_case_is_read_on_its_own_grid(case):
    assert case.name == "case7" and list(case.files) == list(MODALITIES)
    assert case.volumes.shape == (2, *SHAPE) and case.volumes.dtype == np.float32
    np.testing.assert_allclose(case.affine, OBLIQUE_LPS, atol=1e-6)
    assert case.reference.dtype == np.uint8 and set(np.unique(case.reference)) == {0, 4}


def test_the_reference_is_optional_and_a_single_modality_may_be_a_file(folder):
    case = read_case(folder / "case7_flair.nii.gz", ["flair"])
    assert case.name == "case7_flair" and case.reference is None and case.volumes.shape == (1, *SHAPE)


def test_a_path_that_is_no_case_is_refused(folder):
    with pytest.raises(InputError, match="does not exist"):
        read_case(folder / "nowhere", MODALITIES)
    with pytest.raises(InputError, match="one file but the model takes flair, t1"):
        read_case(folder / "case7_flair.nii.gz", MODALITIES)


def test_a_case_of_other_modalities_than_the_models_is_refused(folder, pipeline):
    with pytest.raises(InputError, match="takes flair, t1, and the scan lacks t1"):
        detect(pipeline, read_case(folder, ("flair",)))


def test_voxels_outside_the_mask_are_exactly_the_input(case, result):
    kept = result.mask == 0
    assert kept.any() and not kept.all()
    np.testing.assert_array_equal(result.counterfactual[:, kept], case.volumes[:, kept])
    assert (result.counterfactual != case.volumes).any() and result.counterfactual.min() >= 0
    assert not result.counterfactual[:, (case.volumes == 0).all(axis=0)].any()


def test_the_lesion_is_the_anomaly_at_or_above_the_calibrated_threshold_within_the_brain(case, result):
    brain = (case.volumes > 0).any(axis=0)
    assert 0 < result.lesion.sum() < brain.sum()
    np.testing.assert_array_equal(result.lesion, (result.anomaly >= 0.05) & brain)
    assert result.lesion_ml == pytest.approx(result.lesion.sum() * 0.82 * 3 / 1000)
    overlap = np.count_nonzero((result.lesion > 0) & (case.reference > 0))
    assert result.dice == pytest.approx(2 * overlap / (result.lesion.sum() + np.count_nonzero(case.reference)))


def test_the_batch_size_does_not_change_the_result_and_the_seed_does(case, pipeline, result):
    one = detect(pipeline, case, batch_size=1)
    np.testing.assert_allclose(one.anomaly, result.anomaly, atol=1e-5)
    np.testing.assert_allclose(one.lesion_probability, result.lesion_probability, atol=1e-6)
    assert np.abs(detect(pipeline, case, seed=1).anomaly - one.anomaly).max() > 1e-3


def test_a_threshold_that_is_given_serves_one_call_and_the_models_stays_as_it_was(case, pipeline, result):
    lower = detect(pipeline, case, anomaly_threshold=0.01)
    np.testing.assert_array_equal(lower.anomaly, result.anomaly)
    np.testing.assert_array_equal(lower.lesion > 0, (result.anomaly >= 0.01) & (case.volumes > 0).any(axis=0))
    assert lower.parameters["anomaly_threshold"] == 0.01 and pipeline.processor.anomaly_threshold == 0.05


@pytest.mark.parametrize("shown", [None, {"leave": False}])
def test_detection_leaves_the_callers_progress_bar_alone(case, pipeline, monkeypatch, shown):
    monkeypatch.setattr(pipeline, "_progress_bar_config", shown or {}, raising=False)
    monkeypatch.setattr(pipeline.processor, "lesion_probability_threshold", 1.1)
    detect(pipeline, case, all_slices=False)
    assert pipeline._progress_bar_config == (shown or {})


def test_slices_the_classifier_does_not_suspect_are_left_as_they_are(case, pipeline, result, monkeypatch):
    order = np.argsort(result.lesion_probability)
    probability = result.lesion_probability
    monkeypatch.setattr(pipeline.processor, "lesion_probability_threshold", float(probability[order[-2]]))
    result = detect(pipeline, case, all_slices=False)
    assert result.parameters["repainted_slices"] == sorted(order[-2:].tolist())
    changed = {int(z) for z in np.flatnonzero((result.counterfactual != case.volumes).any(axis=(0, 1, 2)))}
    assert changed == set(order[-2:].tolist())


def test_a_scan_without_suspicious_slices_comes_back_unchanged(case, pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.processor, "lesion_probability_threshold", 1.1)
    result = detect(pipeline, case, all_slices=False)
    np.testing.assert_array_equal(result.counterfactual, case.volumes)
    assert result.lesion_ml == 0 and result.anomaly.max() == 0 and result.dice == 0


def test_the_pictures_hold_every_usable_slice_and_the_parameters_what_was_used(case, pipeline):
    result = detect(pipeline, case, percentile=80, preset="thesis")
    n = len(result.slices.indices)
    assert result.slices.image.shape == result.slices.counterfactual.shape == (n, 2, 24, 24)
    assert all(getattr(result.slices, m).shape == (n, 1, 24, 24) for m in ("saliency", "mask", "anomaly", "reference"))
    used = {"percentile": 80, "preset": "thesis", "noise_level": 500, "anomaly_threshold": 0.05, "seed": 0}
    assert used.items() <= result.parameters.items()


def test_pictures_are_made_of_the_slices_that_are_shown_and_change_no_map(case, pipeline):
    options = {"preset": "fast", "noise_level": 20, "num_shown": 2}
    plain, shown, every = (
        detect(pipeline, case, **options, **more) for more in ({"display_steps": 0}, {}, {"counterfactuals": "all"})
    )
    for result in (shown, every):
        np.testing.assert_array_equal(result.anomaly, plain.anomaly)
        np.testing.assert_array_equal(result.mask, plain.mask)

    def pictured(result):
        """Slices with a picture of their own."""
        differ = (result.slices.pictures != plain.slices.counterfactual).flatten(1).any(1)
        return result.slices.indices[differ].tolist()

    repainted = plain.parameters["repainted_slices"]
    assert 1 <= len(pictured(shown)) <= 2 and pictured(every) == repainted and pictured(plain) == []
    np.testing.assert_array_equal(shown.counterfactual, plain.counterfactual)  # the mean of the samples
    assert (every.counterfactual != plain.counterfactual).any()
    with pytest.raises(InputError, match="`counterfactuals` must be one of shown, all, got 'some'"):
        detect(pipeline, case, counterfactuals="some")


def test_a_share_of_false_positives_takes_the_threshold_that_the_preset_was_calibrated_for(
    case, pipeline, monkeypatch
):
    recipe = MapRecipe(channels=[0], signs=[1], sample_noise=0.1)
    chosen = Calibration(Preset(background="forward", num_inference_steps=2), 20, 60.0, recipe, 1.5, {"0.01": 2.5})
    monkeypatch.setattr(pipeline.processor, "calibrations", {"fast": chosen.to_dict()})
    result = detect(pipeline, case, preset="fast", num_inference_steps=None)
    assert result.parameters["anomaly_threshold"] == 1.5 and result.parameters["noise_level"] == 20
    assert "brighter on flair" in result.parameters["anomaly_shows"]
    strict = detect(pipeline, case, preset="fast", num_inference_steps=None, false_positives=0.01)
    np.testing.assert_array_equal(strict.anomaly, result.anomaly)
    assert strict.parameters["anomaly_threshold"] == 2.5
    with pytest.raises(InputError, match="not calibrated for a share of 0.2 false positives"):
        detect(pipeline, case, preset="fast", false_positives=0.2)


def test_fewer_slices_at_a_time_where_their_trajectories_would_take_too_much(case, pipeline, result, monkeypatch):
    sizes = []
    pipeline.unet.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    monkeypatch.setattr(scan_slices, "TRAJECTORY_BYTES", 2 * 3 * 2 * 24 * 24 * 4)  # of two slices in three steps
    smaller = detect(pipeline, case)
    assert max(sizes) == 2
    np.testing.assert_allclose(smaller.anomaly, result.anomaly, atol=1e-5)


def test_the_files_have_the_geometry_and_the_type_of_the_input(case, result, tmp_path):
    files = result.save(tmp_path / "out" / "case7")
    types = {
        "counterfactual_flair": np.int16,
        "counterfactual_t1": np.float32,
        "anomaly": np.float32,
        "lesion": np.uint8,
        "saliency": np.float32,
        "mask": np.uint8,
    }
    assert {file.name for file in files} == {f"case7_{name}.nii.gz" for name in types}
    assert sorted(files) == sorted((tmp_path / "out" / "case7").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case7"]
    source = nibabel.load(case.files["flair"])
    for name, dtype in types.items():
        image = nibabel.load(tmp_path / "out" / "case7" / f"case7_{name}.nii.gz")
        assert image.shape == SHAPE and image.get_data_dtype() == dtype
        np.testing.assert_array_equal(image.affine, source.affine)
        for key in ("pixdim", "sform_code", "qform_code", "xyzt_units"):
            np.testing.assert_array_equal(image.header[key], source.header[key])
    flair = np.asarray(nibabel.load(files[0].parent / "case7_counterfactual_flair.nii.gz").dataobj)
    np.testing.assert_array_equal(flair, np.rint(result.counterfactual[0]))
    assert result.save(tmp_path / "out" / "case7") == files  # once more, in their place


def test_an_output_that_cannot_be_written_is_refused_and_nothing_is_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        check_output(tmp_path / "file" / "out")
    assert check_output(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert not (tmp_path / "new").exists()


def test_a_model_without_a_calibrated_threshold_cannot_detect(case, pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.processor, "anomaly_threshold", None)
    with pytest.raises(InputError, match="anomaly_threshold"):
        detect(pipeline, case)


@pytest.mark.parametrize("name", ["BraTS2021_96692", "BraTS2021_00001"])
def test_real_brats_cases_are_read_and_restored(name):
    if not REAL_CASES.exists():
        pytest.skip(f"needs the real cases in {REAL_CASES}")
    modalities = ("flair", "t1", "t1ce", "t2")
    case = read_case(REAL_CASES / name, modalities)
    processor = DifFuseProcessor(modalities, image_size=(96, 96), pixel_spacing_mm=2.0)
    slices, geometry = processor.preprocess_volume(case.volumes, case.affine)
    assert slices.shape == (155, 4, 96, 96) and len(processor.usable_slices(slices)) == 105
    seen = np.clip(case.volumes * geometry.intensity_scale[:, None, None, None], 0, 1)
    assert np.abs(processor.restore(slices, geometry) - seen)[seen > 0].mean() < 0.03
    if case.reference is not None:
        masks = processor.preprocess_labels(case.reference, geometry)
        assert 4 * masks.sum().item() == pytest.approx(np.count_nonzero(case.reference), rel=0.1)
        rows, columns = masks.nonzero()[:, 1:].float().median(dim=0).values
        assert rows < 48 and columns < 48  # right frontal: in front, and on the picture's left


def test_in_volume_consistent_mode_slices_that_are_alike_get_the_same_counterfactual(pipeline, case):
    alike = np.repeat(case.volumes[..., SHAPE[2] // 2][..., None], SHAPE[2], axis=-1)
    case = dataclasses.replace(case, volumes=alike, affine=np.eye(4), reference=None)

    def made(**options):
        result = detect(pipeline, case, **options)
        return result, flicker(result.slices.image, result.slices.counterfactual)

    plain, consistent = made(), made(slice_smoothing_sigma=1.0, batch_size=3)
    assert plain[1] > 100 * consistent[1] and consistent[1] < 1e-6
    assert consistent[0].parameters["slice_smoothing_sigma"] == 1.0
    other = detect(pipeline, case, slice_smoothing_sigma=1.0, batch_size=5)
    np.testing.assert_allclose(other.counterfactual, consistent[0].counterfactual, atol=1e-3)


def test_a_model_that_does_without_t1_sees_an_empty_channel_and_writes_what_there_is(
    folder, pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline.processor, "optional_modalities", ("t1",))
    case = read_case(folder / "case7_flair.nii.gz", MODALITIES, ["t1"])
    slices, geometry = pipeline.processor.preprocess_volume(case.volumes, case.affine, ["flair"])
    whole = pipeline.processor.preprocess_volume(read_case(folder, MODALITIES).volumes, case.affine)[0]
    assert slices.shape == whole.shape and not slices[:, 1].any() and len(geometry.intensity_scale) == 1
    assert torch.equal(slices[:, 0], whole[:, 0])
    monkeypatch.setitem(pipeline._internal_dict, "anomaly_channels", [0])
    found = detect(pipeline, case)
    assert found.counterfactual.shape == case.volumes.shape and found.slices.image.shape[1] == 1
    assert found.parameters["modalities"] == ["flair"]
    outside = found.mask == 0
    assert np.array_equal(found.counterfactual[:, outside], case.volumes[:, outside])
    files = {file.name for file in found.save(tmp_path / "out")}
    assert {name for name in files if "counterfactual" in name} == {"case7_flair_counterfactual_flair.nii.gz"}
    monkeypatch.setitem(pipeline._internal_dict, "anomaly_channels", [1])
    with pytest.raises(InputError, match="anomaly map is made on t1, which the scan lacks"):
        detect(pipeline, case)


def test_a_calibrated_rule_smooths_saliency_by_millimetres_and_takes_one_percentile_for_the_scan(
    pipeline, case, monkeypatch
):
    def made(rule, **options):
        plan = dataclasses.replace(pipeline.calibration("exact"), scan=rule)
        monkeypatch.setattr(pipeline.processor, "calibrations", {"exact": plan.to_dict()})
        return detect(pipeline, case, preset="exact", **options)

    plain, together = made(None), made(ScanRule(smoothing_mm=6.0, together=True), batch_size=2)
    step = np.linalg.norm(case.affine[:3, 2])
    expected = smooth_through_slices(plain.slices.saliency, 6.0 / float(step))
    torch.testing.assert_close(together.slices.saliency, expected, atol=1e-5, rtol=0)
    share, brain = pipeline.calibration("exact").percentile, pipeline.foreground(plain.slices.image)
    torch.testing.assert_close(together.slices.mask, saliency_to_mask(expected, share, 5, "thesis", brain, True))
    assert (
        plain.slices.mask.flatten(1).sum(1).unique().numel() < together.slices.mask.flatten(1).sum(1).unique().numel()
    )
    assert together.parameters["slices_together"] == {
        "smoothing_mm": 6.0, "together": True, "neighbour_probability": None, "peak_saliency": 0.0,
        "peak_anomaly": 0.0, "peak_share": 0.0,
    }  # fmt: skip
    other = made(ScanRule(smoothing_mm=6.0, together=True), percentile=50.0)
    assert other.slices.mask[brain].mean() == pytest.approx(0.5, abs=0.01)


def test_what_is_flagged_counts_only_in_pieces_that_the_saliency_points_at(pipeline, case, monkeypatch):
    def made(peak, at=0.0, **options):
        rule = ScanRule(6.0, True, peak_saliency=peak, peak_anomaly=at)
        plan = dataclasses.replace(pipeline.calibration("exact"), scan=rule)
        monkeypatch.setattr(pipeline.processor, "calibrations", {"exact": plan.to_dict()})
        return detect(pipeline, case, preset="exact", **options)

    every = made(0.0)
    peak = float(every.slices.saliency[every.slices.anomaly > 0].max())
    some, none = made(peak), made(1.0)
    assert every.lesion.any() and not none.lesion.any() and not none.anomaly.any() and not none.slices.anomaly.any()
    left = some.slices.anomaly > 0
    assert left.any() and (some.slices.anomaly <= every.slices.anomaly).all()
    assert 0 < some.lesion.sum() <= every.lesion.sum() and not some.lesion[every.lesion == 0].any()
    assert none.parameters["uncounted_ml"] == pytest.approx(every.lesion_ml, abs=1e-3)
    assert every.parameters["uncounted_ml"] == 0
    said = coverage_of(none).in_words()[-1]
    assert said.endswith("and are not counted: they do not stand out where the saliency points.")
    highest = float(every.slices.anomaly.max())
    strongest, beyond = made(0.0, at=highest), made(0.0, at=2 * highest)
    assert strongest.slices.anomaly.max() == highest and not beyond.slices.anomaly.any()
    drawn = int(every.slices.indices[0])
    by_hand = made(1.0, masks={drawn: np.ones((24, 24), np.float32)})
    assert by_hand.slices.anomaly[0].any()  # what a reader asked for is not taken away


def test_a_scan_has_its_own_threshold_where_the_rule_says_so(pipeline, case, monkeypatch):
    def made(share, **options):
        plan = dataclasses.replace(pipeline.calibration("exact"), scan=ScanRule(peak_share=share))
        monkeypatch.setattr(pipeline.processor, "calibrations", {"exact": plan.to_dict()})
        return detect(pipeline, case, preset="exact", **options)

    whole, half = made(0.0), made(0.5)
    tissue = pipeline.processor.preprocess_volume(case.volumes, case.affine, list(case.files))[1].tissue
    assert whole.parameters["anomaly_threshold"] == pipeline.calibration("exact").threshold
    highest = float(half.slices.anomaly.max())
    assert half.parameters["anomaly_threshold"] == pytest.approx(highest / 2, rel=0.1)  # of where a lesion can be
    expected = (half.anomaly >= half.parameters["anomaly_threshold"]) & (tissue > 0)
    assert np.array_equal(half.lesion > 0, expected) and half.lesion.any()
    assert np.array_equal(whole.anomaly, half.anomaly)  # the map itself stays in its unit
    given = made(0.5, anomaly_threshold=0.1)
    assert given.parameters["anomaly_threshold"] == 0.1  # whoever gives one has it
    drawn = int(half.slices.indices[0])
    by_hand = made(0.5, masks={drawn: np.ones((24, 24), np.float32)})
    others = by_hand.slices.indices != drawn
    assert by_hand.parameters["anomaly_threshold"] <= 0.5 * float(by_hand.slices.anomaly[others].max()) + 1e-6


def test_a_mask_drawn_on_a_slice_leaves_the_others_as_they_were_where_slices_are_taken_together(
    pipeline, case, monkeypatch
):
    plan = dataclasses.replace(pipeline.calibration("exact"), scan=ScanRule(smoothing_mm=6.0, together=True))
    monkeypatch.setattr(pipeline.processor, "calibrations", {"exact": plan.to_dict()})
    least = detect(pipeline, case, preset="exact").lesion_probability[:-1].max()
    monkeypatch.setattr(pipeline.processor, "lesion_probability_threshold", float(least))
    options = {"preset": "exact", "all_slices": False}
    before = detect(pipeline, case, **options)
    drawn = int(next(i for i in before.slices.indices if int(i) not in before.parameters["repainted_slices"]))
    mask = np.zeros((24, 24), np.float32)
    mask[8:12, 8:12] = 1
    after = detect(pipeline, case, masks={drawn: mask}, **options)
    assert sorted({*before.parameters["repainted_slices"], drawn}) == after.parameters["repainted_slices"]
    others = before.slices.indices != drawn
    torch.testing.assert_close(after.slices.mask[others], before.slices.mask[others])
    torch.testing.assert_close(after.slices.anomaly[others], before.slices.anomaly[others])
    assert np.array_equal(after.slices.mask[~others][0, 0].numpy(), mask) and not after.slices.saliency[~others].any()
