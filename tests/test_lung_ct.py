"""Facts about lung CT as a kind of scan: its slices, how it is told from a head, and from studies to results."""

import json
from dataclasses import asdict, replace

import nibabel
import numpy as np
import pytest
import torch
from synthetic_chest import AFFINE, chest, write_studies
from tiny_scans import tiny_pipeline

from difffuse_hf import DifFuseProcessor
from difffuse_hf.cli.main import main
from difffuse_hf.data.axial_slices import SliceRecipe, cut_labels
from difffuse_hf.errors import InputError
from difffuse_hf.preprocessing.chest import body_of

RECIPE = SliceRecipe(
    modalities=("ct",),
    image_size=(48, 56),
    pixel_spacing_mm=6.0,
    slice_margin=0,
    window_hu=(-1000.0, 400.0),
    body_part="chest",
)
HEAD = replace(RECIPE, window_hu=(0.0, 100.0), body_part="head", image_size=(64, 64))


@pytest.fixture(scope="module")
def lungs():
    return chest()


# Slices


def test_the_window_becomes_zero_to_one_the_lungs_lie_in_the_middle_and_the_table_is_gone(lungs):
    hounsfield, _ = lungs
    slices, geometry = RECIPE.cut(hounsfield[None], AFFINE)
    assert slices.shape == (6, 1, 48, 56) and slices.min() == 0 and slices.max() <= 1
    lung = (slices[3, 0] > 0) & (slices[3, 0] < 0.2)  # -850 HU is 0.107
    rows, columns = np.nonzero(lung.numpy())
    assert abs((rows.min() + rows.max()) / 2 - 23.5) <= 1 and abs((columns.min() + columns.max()) / 2 - 27.5) <= 1
    assert slices[3, 0][lung].median() == pytest.approx(150 / 1400, abs=0.01)
    body = hounsfield > -300
    body[:, 66] = False
    outside = geometry.to_slices(geometry.tissue[None].astype(np.float32)) == 0
    assert outside.any() and not slices[outside].any()  # noise of the air above -1000 HU, and the table


def test_the_body_holds_the_lungs_and_no_table(lungs):
    hounsfield, opacity = lungs
    tissue = RECIPE.cut(hounsfield[None], AFFINE)[1].tissue
    assert tissue[opacity].all() and not tissue[:, 67:].any() and not tissue[:25, 66].any()
    x, y = np.indices(hounsfield.shape[:2])
    ellipse = np.hypot((x - 50) / 40, (y - 40) / 26) < 1
    inside = np.repeat(ellipse[..., None], hounsfield.shape[2], 2)
    assert 2 * (inside & tissue).sum() / (inside.sum() + tissue.sum()) > 0.99


def test_the_same_slices_come_of_a_study_that_is_stored_the_other_way(lungs):
    hounsfield, _ = lungs
    turned = AFFINE @ np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:2, 3] = AFFINE[:2, :2] @ (np.array(hounsfield.shape[:2]) - 1)
    once, again = RECIPE.cut(hounsfield[None], AFFINE)[0], RECIPE.cut(hounsfield[None, ::-1, ::-1], turned)[0]
    torch.testing.assert_close(once, again, atol=1e-5, rtol=0)


def test_a_wide_chest_loses_its_sides_but_never_its_lungs(lungs):
    narrow = replace(RECIPE, image_size=(40, 46))  # 276 mm, the body is 320 mm wide and the lungs 256 mm
    slices, _ = narrow.cut(lungs[0][None], AFFINE)
    assert (slices[3, 0] > 0)[:, [0, -1]].any()
    with pytest.raises(InputError, match="The lungs do not fit into the model's field of view of 180 x 180 mm"):
        replace(RECIPE, image_size=(30, 30)).cut(lungs[0][None], AFFINE)


def test_where_a_lesion_can_be_on_a_slice_is_the_body(lungs):
    slices, geometry = RECIPE.cut(lungs[0][None], AFFINE)
    pipeline = tiny_pipeline(("ct",))
    pipeline.register_modules(processor=DifFuseProcessor(**asdict(RECIPE)))
    assert torch.equal(pipeline.foreground(slices), slices > 0)
    opacity = cut_labels(lungs[1], geometry)[:, None] > 0
    assert opacity.any() and pipeline.foreground(slices)[opacity].all()


def test_an_outline_does_not_depend_on_where_the_image_ends(lungs):
    planes = lungs[0].transpose(2, 1, 0)
    whole = body_of(planes, (4.0, 4.0))
    cut = body_of(planes[:, 14:, 12:], (4.0, 4.0))
    assert (cut != whole[:, 14:, 12:]).mean() < 0.002


# Kinds


def test_a_recipe_says_which_kind_of_scan_it_is_for(tmp_path):
    kinds = [SliceRecipe().kind, HEAD.kind, RECIPE.kind]
    assert kinds == ["skull-stripped MR", "head CT", "lung CT"]
    DifFuseProcessor(**asdict(RECIPE)).save_pretrained(tmp_path)
    assert DifFuseProcessor.from_pretrained(tmp_path).recipe == RECIPE
    for wrong in ({"window_hu": None}, {"body_part": "knee"}):
        with pytest.raises(ValueError, match="body_part"):
            replace(RECIPE, **wrong)


def test_a_head_for_a_model_of_lungs_and_the_reverse_are_one_sentence(lungs):
    x, y, z = np.meshgrid(np.arange(80), np.arange(90), np.arange(8), indexing="ij")
    radius = np.sqrt(((x - 40) / 30) ** 2 + ((y - 45) / 36) ** 2 + ((z - 3.5) / 9) ** 2)
    head = np.select([radius < 0.8, radius < 0.9, radius < 0.96], [30.0, 1000.0, 50.0], -1000.0)
    head[38:43, 12:20, :3] = -900  # a sinus
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    with pytest.raises(InputError, match="The model takes lung CT, and this looks like CT of a head"):
        RECIPE.cut(head[None], affine)
    with pytest.raises(InputError, match="The model takes head CT, and this looks like CT of a chest: 36.[0-9]%"):
        HEAD.cut(lungs[0][None], AFFINE)
    assert HEAD.cut(head[None], affine)[0].any()


# From studies to results


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Slices of synthetic studies, CT-0 and CT-2 by turns, with their own labels; without masks with their study's."""
    pytest.importorskip("datasets", reason="needs the extra `train`")
    root = tmp_path_factory.mktemp("lungs")
    raw = write_studies(root / "raw", (0, 2) * 6)
    options = ["--config", "slices", "--image-size", "48", "56", "--pixel-spacing-mm", "6", "--split-seed", "1"]
    assert main(["prepare", "mosmed", str(raw), str(root / "drawn"), *options, "--slice-labels", "mask"]) == 0
    (raw / "masks").rename(root / "unused")
    assert main(["prepare", "mosmed", str(raw), str(root / "undrawn"), *options]) == 0
    return root


def slices_of(root, name, split="validation"):
    from difffuse_hf.data.slices import load_slices
    from difffuse_hf.evaluation.anomaly import as_slices

    return as_slices(load_slices(str(root / name), split), split)


def test_prepared_slices_are_those_that_the_model_of_their_folder_cuts(prepared, lungs):
    processor = DifFuseProcessor.from_pretrained(prepared / "drawn")
    assert processor.recipe == RECIPE
    slices, geometry = processor.preprocess_volume(lungs[0][None], AFFINE)
    drawn = slices_of(prepared, "drawn", "train")
    sick = [one for one in dict.fromkeys(drawn.subjects) if int(one[-4:]) % 2 == 0][0]
    study = drawn.select(torch.tensor([one == sick for one in drawn.subjects]))
    assert torch.equal(study.images, slices)
    assert torch.equal(study.masks[:, 0], processor.preprocess_labels(lungs[1], geometry).float())
    assert torch.equal(study.labels == 1, study.drawn) and study.labels.tolist() == [0, 0, 1, 1, 1, 0]


def test_without_masks_a_slice_has_its_studys_label_and_what_nobody_drew_is_not_known(prepared):
    slices = slices_of(prepared, "undrawn")
    sick = slices.labels == 1
    assert sick.any() and slices.masks[sick].isnan().all() and not slices.masks[~sick].any()
    assert not slices.drawn.any()
    with pytest.raises(InputError, match="No lesion is drawn in the split 'validation'"):
        slices.with_drawn_lesion()


@pytest.fixture(scope="module")
def networks(prepared):
    """Untrained networks as the training scripts leave them: flags of assemble_pipeline.py."""
    pipeline, flags = tiny_pipeline(("ct",)), []
    for name in ("classifier", "autoencoder"):
        getattr(pipeline, name).save_pretrained(prepared / name)
        flags += [f"--{name}", prepared / name]
    pipeline.unet.save_pretrained(prepared / "diffusion" / "unet")
    pipeline.scheduler.save_pretrained(prepared / "diffusion" / "scheduler")
    quick = ["--preset", "fast", "--noise_level", "20", "--saliency_options", '{"num_steps": 1}', "--limit", "2"]
    quick += ["--percentile_over", "foreground", "--percentile", "60", "--morphology_size", "1"]
    return [str(flag) for flag in (*flags, "--diffusion", prepared / "diffusion", *quick)]


@pytest.fixture(scope="module")
def models(prepared, networks):
    pytest.importorskip("sklearn", reason="needs the extra `train`")
    from tiny_trainings import load_script

    script = load_script("assemble_pipeline")
    for name, more in (("drawn", []), ("undrawn", ["--false_positives", "0.05", "0.01"])):
        folders = ["--dataset", str(prepared / name), "--output_dir", str(prepared / f"model-{name}")]
        script.main([*networks, *folders, *more])
    return script


def test_a_model_is_assembled_by_drawn_lesions_or_by_healthy_slices(prepared, models, networks):
    drawn, undrawn = (DifFuseProcessor.from_pretrained(prepared / f"model-{name}/processor") for name in
                      ("drawn", "undrawn"))  # fmt: skip
    assert drawn.recipe == undrawn.recipe == RECIPE and drawn.anomaly_threshold > 0
    assert undrawn.anomaly_threshold == undrawn.threshold_for(0.05) < undrawn.threshold_for(0.01)
    card = (prepared / "model-undrawn" / "README.md").read_text()
    assert "lung CT" in card and "not known: no lesion is drawn" in card
    folders = ["--dataset", str(prepared / "undrawn"), "--output_dir", str(prepared / "none")]
    with pytest.raises(InputError, match="No lesion is drawn in the split 'validation'.*--false_positives 0.01"):
        models.main([*networks, *folders])


def test_what_needs_a_drawn_lesion_is_a_dash_where_there_is_none(prepared, models):
    from tiny_trainings import load_script

    run = ["--method", "Dif-fuse", prepared / "model-undrawn", prepared / "undrawn"]
    options = ['{"preset": "exact", "num_inference_steps": 1}', "--classifier", prepared / "classifier", "--limit", 2]
    flags = [*run, *options, "--device", "cpu", "--output_dir", prepared / "scores"]
    load_script("evaluate_anomaly").main([str(flag) for flag in flags])
    ((scores,),) = json.loads((prepared / "scores" / "anomaly.json").read_text())["results"].values()
    assert set(scores) == {"seconds_per_slice", "calls", "healthy_change", "kid", "flip_rate", "change_outside"}
    assert scores["change_outside"] is None and np.isfinite([scores["healthy_change"], scores["kid"]]).all()
    table = (prepared / "scores" / "anomaly.md").read_text()
    assert "No lesion is drawn in these data, so nothing that needs one is scored." in table
    assert table.count("| Dif-fuse | – |") == 2  # Dice and all that follow; the change outside the lesion


def test_a_study_goes_in_and_comes_back_in_hounsfield_units(prepared, models, lungs, capsys):
    study = prepared / "raw" / "studies" / "CT-2" / "study_0002.nii.gz"
    options = ["--model", str(prepared / "model-drawn"), "--device", "cpu", "--all-slices"]
    options += ["--preset", "thesis", "--noise-level", "3"]
    assert main(["detect", str(study), *options, "--output", str(prepared / "out")]) == 0
    folder = prepared / "out" / "study_0002"
    made = nibabel.load(folder / "study_0002_counterfactual_ct.nii.gz")
    mask = np.asarray(nibabel.load(folder / "study_0002_mask.nii.gz").dataobj) > 0
    np.testing.assert_allclose(made.affine, AFFINE)
    changed = np.asarray(made.dataobj)
    np.testing.assert_array_equal(changed[~mask], lungs[0][~mask])
    assert mask.any() and (changed[mask] != lungs[0][mask]).any() and changed.min() >= lungs[0].min()
    tissue = RECIPE.cut(lungs[0][None], AFFINE)[1].tissue
    assert not (mask & ~tissue).any()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["parameters"]["body_part"] == "chest" and summary["slices_usable"] == 6
    capsys.readouterr()
    assert main(["detect", str(study), *options, "--output", str(prepared / "dicom"), "--dicom-out"]) == 1
    assert "--dicom-out needs CT in DICOM to refer to" in capsys.readouterr().err
