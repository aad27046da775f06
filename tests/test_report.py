"""The report of a scan: what it shows, and that it needs nothing but itself."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from tiny_scans import AFFINE, MODALITIES, lesion, tiny_volumes

from difffuse_hf import Case, DetectionResult, DifFuseProcessor
from difffuse_hf.detection.result import ModelSlices
from difffuse_hf.detection.shown import choose_slices
from difffuse_hf.reporting import report
from difffuse_hf.reporting.coverage import NOTHING_FLAGGED, areas_of, coverage_of, why_not_repainted
from difffuse_hf.reporting.figures import crop_to_foreground, tile_png
from difffuse_hf.reporting.shown_slices import select_slices


@pytest.fixture(scope="module")
def result():
    """A detection made by hand: the lesion's bright voxels are found, but for the slices above its middle."""
    processor = DifFuseProcessor(MODALITIES, image_size=(32, 32), slice_margin=0, anomaly_threshold=0.1)
    volumes = np.stack(list(tiny_volumes().values())).astype(np.float32)
    header = nibabel.Nifti1Image(volumes[0], AFFINE).header
    case = Case("Case_1", volumes, AFFINE, header, lesion().astype(np.uint8), dict.fromkeys(MODALITIES, "in.nii.gz"))
    slices, geometry = processor.preprocess_volume(volumes, AFFINE)
    anomaly = 0.3 * torch.from_numpy(lesion().astype(np.float32))
    anomaly[:, :, 6:] = 0
    stacked = geometry.to_slices(anomaly[None].numpy())  # (S, 1, H, W)
    mask = (stacked > 0).float()
    probability = np.where(anomaly.sum((0, 1)) > 0, 0.9, 0.1)
    return DetectionResult(
        case=case,
        counterfactual=volumes,
        anomaly=anomaly.numpy(),
        lesion=(anomaly.numpy() >= 0.1).astype(np.uint8),
        saliency=anomaly.numpy(),
        mask=(anomaly.numpy() > 0).astype(np.uint8),
        tissue=geometry.tissue,
        lesion_probability=probability,
        slices=ModelSlices(
            indices=torch.arange(len(slices)),
            image=slices,
            counterfactual=slices * (1 - 0.5 * mask),
            pictures=slices * (1 - 0.5 * mask),
            mask=mask,
            anomaly=stacked,
            saliency=stacked / 0.3,
            reference=processor.preprocess_labels(case.reference, geometry)[:, None].float(),
        ),
        parameters={
            "preset": "fast",
            "anomaly_threshold": 0.1,
            "lesion_probability_threshold": 0.5,
            "slice_margin": 0,
            "min_foreground": 0.02,
            "repainted_slices": np.flatnonzero(probability > 0.5).tolist(),
        },
    )


def write(result, folder, **options):
    report.write_report(result, folder, model="tiny", seconds=12.3, num_slices=2, **options)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    html = write(result, folder, model_line="Trained on <synthetic> subjects.")
    return SimpleNamespace(folder=folder, html=html)


def test_the_report_is_well_formed_and_asks_for_nothing_outside_itself(written):
    assert unbalanced_tags(written.html) == []
    without_pictures = re.sub(r"base64,[\w+/=]+", "", written.html)
    assert not re.search(r"https?://|//\w|<link|<script|@import|url\(", without_pictures)
    sources = re.findall(r'src="([^"]{22})', written.html)
    assert sources and set(sources) == {"data:image/png;base64,"}


def test_the_report_states_its_figures_its_model_and_its_limits(result, written):
    for fact in (
        f"{result.lesion_ml:.1f} <small>ml",
        f"<dd>{result.dice:.3f}</dd>",
        "<code>tiny</code>",
        "Trained on &lt;synthetic&gt; subjects.",
        "not a medical device",
        "anomaly threshold",
        "outline of the repainted region",
        "Detected and reference",
        "T1 contrast, counterfactual",
    ):
        assert fact in written.html, fact
    assert "Synthetic scan" not in written.html


def test_the_summary_is_the_report_for_machines(result, written):
    summary = json.loads((written.folder / "summary.json").read_text())
    assert summary["dice"] == pytest.approx(result.dice, abs=1e-4)
    assert summary["lesion_ml"] == pytest.approx(np.count_nonzero(result.lesion) / 1000)
    assert summary["reference_ml"] == pytest.approx(lesion().sum() / 1000)
    assert summary["slices_flagged"] == summary["slices_repainted"] == len(result.parameters["repainted_slices"])
    change = (result.slices.counterfactual - result.slices.image).abs()
    assert 0 < summary["flicker"] <= 2 * change.max()


def test_the_overview_is_a_picture_with_a_row_per_slice_shown(result, written):
    assert (written.folder / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert written.html.count("<section>") == len(select_slices(result, 2))
    assert len(list(written.folder.iterdir())) == 3


def test_the_report_of_a_synthetic_scan_without_reference_and_saliency_has_a_badge_and_neither(result, tmp_path):
    bare = replace(result, case=replace(result.case, reference=None))
    bare.slices = replace(result.slices, reference=None, saliency=None)
    html = write(bare, tmp_path, synthetic=True)
    assert unbalanced_tags(html) == []
    assert "Synthetic scan" in html and "Anomaly map" in html
    assert "Dice" not in html and "Saliency" not in html and "Reference" not in html


def test_a_scan_without_a_flagged_slice_is_shown_as_it_is(result, tmp_path):
    nothing = torch.zeros_like(result.slices.mask)
    healthy = replace(
        result,
        case=replace(result.case, reference=None),
        lesion=np.zeros_like(result.lesion),
        lesion_probability=np.zeros(10),
        slices=replace(
            result.slices,
            counterfactual=result.slices.image,
            mask=nothing,
            anomaly=nothing,
            saliency=nothing,
            reference=None,
        ),
        parameters={**result.parameters, "repainted_slices": []},
    )
    html = write(healthy, tmp_path)
    assert unbalanced_tags(html) == [] and html.count("<section>") == 2
    assert html.count(NOTHING_FLAGGED) == 1 and "--all-slices" in html
    assert "lesion probability 0.00, below the model&#39;s threshold of 0.50" in html
    assert "Anomaly map" not in html and "outline of" not in html
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["coverage"][0] == NOTHING_FLAGGED and summary["slices_not_repainted"] == {
        "below_threshold": list(range(10))
    }


def test_every_slice_that_was_not_repainted_has_its_reason(result):
    usable = replace(
        result,
        slices=ModelSlices(**{name: value[1:7] for name, value in vars(result.slices).items()}),
        parameters={**result.parameters, "slice_margin": 31},  # 2 of 10 slices at either end
    )
    usable.slices.indices = torch.arange(2, 8)[[0, 1, 2, 3, 5]]  # 6 holds too little
    usable.parameters["repainted_slices"] = [4]
    left_out = {one.reason: one.slices for one in coverage_of(usable).left_out}
    assert left_out == {"below_threshold": [2, 3, 5, 7], "outside_margin": [0, 1, 8, 9], "too_little_tissue": [6]}
    sentence = coverage_of(usable).in_words()[0]
    assert sentence.startswith("10 axial slices: 5 usable, 3 flagged by the classifier, 1 repainted.")
    assert "4 outside the slice margin (the first and the last 2)" in sentence
    assert "1 with too little brain (less than 2 % of the picture)" in sentence
    usable.parameters["window_hu"] = [0, 80]
    assert "1 with too little head" in coverage_of(usable).in_words()[0]


def test_the_reference_in_slices_that_were_not_repainted_is_counted(result, written):
    unseen = [index for index in range(10) if index not in result.parameters["repainted_slices"]]
    ml, share = lesion()[:, :, unseen].sum() / 1000, lesion()[:, :, unseen].sum() / lesion().sum()
    assert 0 < share < 1
    summary = json.loads((written.folder / "summary.json").read_text())
    assert summary["reference_not_repainted_ml"] == pytest.approx(ml, abs=1e-3)
    assert summary["reference_not_repainted_share"] == pytest.approx(share, abs=1e-4)
    assert f"({100 * share:.3g} %) lie in slices that were not repainted." in written.html
    upside_down = replace(
        result, case=replace(result.case, affine=AFFINE @ np.diag([1, 1, -1, 1]), reference=lesion()[:, :, ::-1])
    )
    assert coverage_of(upside_down).missed_ml == pytest.approx(ml)


def test_a_reference_that_is_empty_or_all_in_repainted_slices_is_not_missed(result):
    everything = replace(result, parameters={**result.parameters, "repainted_slices": list(range(10))})
    assert coverage_of(everything).in_words()[-1].startswith("All of the reference lesion")
    empty = replace(result, case=replace(result.case, reference=np.zeros_like(result.case.reference)))
    assert coverage_of(empty).missed_ml == 0 and coverage_of(empty).missed_share is None
    bare = replace(result, case=replace(result.case, reference=None))
    assert coverage_of(bare).missed_ml is None and len(coverage_of(bare).in_words()) == 1


def test_a_probability_just_below_the_threshold_can_be_told_from_it():
    assert "0.9859, below the model's threshold of 0.9860" in why_not_repainted(0.98590, 0.98601)


def test_head_ct_is_shown_in_the_window_of_its_model(result, tmp_path):
    slices = ModelSlices(
        **{name: value[:, :1] if value.ndim == 4 else value for name, value in vars(result.slices).items()}
    )
    parameters = {
        "window_hu": [0, 80],
        "anomaly_shows": "darker on ct than healthy, share of the model's intensity range",
    }
    case = replace(
        result.case, files={"ct": "head.nii.gz"}, volumes=result.case.volumes[:1], notes=["Slices are uneven."]
    )
    ct = replace(result, case=replace(case, read_as="CT in DICOM"), slices=slices, counterfactual=case.volumes)
    ct.parameters = {**result.parameters, **parameters}
    shown = select_slices(ct, 2)
    assert [white for one in shown for *_, white in one.modalities] == [1.0, 1.0]
    html = write(ct, tmp_path)
    for fact in (
        "CT, counterfactual",
        "from 0 HU (black) to 80 HU (white)",
        "darker on CT than healthy, share of the model&#39;s intensity range, 0 to 80 HU",
        "input, CT",
        "CT in DICOM",
        "Slices are uneven.",
    ):
        assert fact in html, fact


def test_a_scan_without_a_usable_slice_has_a_report_without_pictures(result, tmp_path):
    empty = ModelSlices(**{name: value[:0] for name, value in vars(result.slices).items()})
    html = write(replace(result, slices=empty), tmp_path)
    assert "no picture to show" in html and "<img" not in html
    assert not (tmp_path / "overview.png").exists()


def test_lesion_areas_times_slice_thickness_are_the_volume(result):
    detected, reference = areas_of(result)
    assert detected.sum() / 10 == pytest.approx(result.lesion_ml)  # cm² times 0.1 cm
    assert reference.sum() / 10 == pytest.approx(lesion().sum() / 1000)


def test_lesion_areas_are_listed_from_feet_to_crown_however_the_scan_is_stored(result):
    upside_down = replace(
        result.case, affine=AFFINE @ np.diag([1, 1, -1, 1]), reference=result.case.reference[:, :, ::-1]
    )
    flipped = replace(result, case=upside_down, lesion=result.lesion[:, :, ::-1])
    for one, other in zip(areas_of(result), areas_of(flipped)):
        assert np.array_equal(one, other)


def test_the_colour_bar_reaches_every_anomaly_shown(result):
    slices = select_slices(result, 5)
    assert max(one.anomaly.max() for one in slices) <= slices[0].limit


def test_slices_are_spread_over_the_reference():
    reference = np.zeros((40, 4, 4))
    reference[10:30] = 1
    assert choose_slices(np.zeros_like(reference), reference, count=4) == [12, 17, 22, 27]


def test_without_a_reference_the_largest_anomaly_is_shown_and_neighbours_are_not():
    anomaly = np.exp(-(((np.arange(60) - 31) / 6.0) ** 2))[:, None, None] * np.ones((60, 4, 4))
    chosen = choose_slices(anomaly, None, count=5)
    assert 31 in chosen and chosen == sorted(chosen) and len(chosen) == 5
    assert min(np.diff(chosen)) >= 2


def test_without_an_anomaly_slices_are_spread_over_the_scan():
    assert choose_slices(np.zeros((61, 4, 4)), None, count=5) == [6, 18, 30, 42, 54]


def test_slices_that_were_repainted_are_shown_first_even_without_an_anomaly():
    repainted = np.isin(np.arange(40), [20, 21, 30])
    assert choose_slices(np.zeros((40, 4, 4)), None, repainted, count=3) == [20, 21, 30]
    chosen = choose_slices(np.zeros((40, 4, 4)), None, repainted, count=5)
    assert chosen[:3] == [20, 21, 30] and len(set(chosen)) == 5 and chosen[3:] == sorted(chosen[3:])


def test_of_a_reference_that_was_not_repainted_one_slice_is_shown_last():
    reference = np.zeros((40, 4, 4))
    reference[10:30] = 1
    repainted = np.arange(40) >= 20
    chosen = choose_slices(np.zeros_like(reference), reference, repainted, count=4)
    assert chosen[:3] == [21, 24, 28] and 10 <= chosen[3] < 20
    assert choose_slices(np.zeros_like(reference), reference, repainted, count=1) == [24]


@pytest.mark.parametrize("size", [0, 1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_as_many_different_slices_are_shown_as_there_are_places(size, count):
    rng = np.random.default_rng(size)
    anomaly, reference, repainted = rng.random((size, 2, 2)), rng.random((size, 2, 2)) > 0.8, rng.random(size) > 0.5
    for drawn in (None, reference):
        chosen = choose_slices(anomaly, drawn, repainted, count)
        assert len(set(chosen)) == len(chosen) == min(size, count)
        assert chosen == choose_slices(anomaly, drawn, repainted, count)
        assert repainted[chosen].tolist() == sorted(repainted[chosen], reverse=True)


def test_the_crop_holds_the_whole_head(result):
    image = result.slices.image.numpy()
    rows, columns = crop_to_foreground(image, margin=0)
    outside = image.copy()
    outside[..., rows, columns] = 0
    assert not outside.any() and image[..., rows, columns].shape[2:] != image.shape[2:]


def test_a_tile_has_the_width_asked_for_and_the_shape_of_the_slice():
    width, height = (int.from_bytes(tile_png(np.ones((30, 20)), width=100)[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (100, 150)


def unbalanced_tags(html):
    class Balance(HTMLParser):
        void = {"meta", "img"}

        def __init__(self):
            super().__init__()
            self.open, self.wrong = [], []

        def handle_starttag(self, tag, attributes):
            if tag not in self.void:
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            if not self.open or self.open.pop() != tag:
                self.wrong.append(tag)

    parser = Balance()
    parser.feed(html)
    return parser.wrong + parser.open
