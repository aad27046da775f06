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
from difffuse_hf.reporting.figures import crop_to_foreground, tile_png


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
    assert summary["slices_flagged"] == len(result.parameters["repainted_slices"])
    change = (result.slices.counterfactual - result.slices.image).abs()
    assert 0 < summary["flicker"] <= 2 * change.max()


def test_the_overview_is_a_picture_with_a_row_per_slice_shown(result, written):
    assert (written.folder / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert written.html.count("<section>") == len(report._select_slices(result, 2))
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
    assert "flagged no slice" in html and "--all-slices" in html and html.count("<section>") > 0


def test_a_scan_without_a_usable_slice_has_a_report_without_pictures(result, tmp_path):
    empty = ModelSlices(**{name: value[:0] for name, value in vars(result.slices).items()})
    html = write(replace(result, slices=empty), tmp_path)
    assert "no picture to show" in html and "<img" not in html
    assert not (tmp_path / "overview.png").exists()


def test_lesion_areas_times_slice_thickness_are_the_volume(result):
    detected, reference = report._areas(result)
    assert detected.sum() / 10 == pytest.approx(result.lesion_ml)  # cm² times 0.1 cm
    assert reference.sum() / 10 == pytest.approx(lesion().sum() / 1000)


def test_lesion_areas_are_listed_from_feet_to_crown_however_the_scan_is_stored(result):
    upside_down = replace(
        result.case, affine=AFFINE @ np.diag([1, 1, -1, 1]), reference=result.case.reference[:, :, ::-1]
    )
    flipped = replace(result, case=upside_down, lesion=result.lesion[:, :, ::-1])
    for one, other in zip(report._areas(result), report._areas(flipped)):
        assert np.array_equal(one, other)


def test_the_colour_bar_reaches_every_anomaly_shown(result):
    slices = report._select_slices(result, 5)
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
    assert choose_slices(np.zeros((61, 4, 4)), None, count=5) == [10, 20, 30, 40, 50]


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
