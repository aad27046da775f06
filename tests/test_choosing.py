"""Facts about the choice of a method: what a method needs, how far it was taken, the advice, and the page about it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_classifier, tiny_noisy_classifier, tiny_unet

pytest.importorskip("sklearn", reason="needs the extra `train`")

from difffuse_hf import (  # noqa: E402
    AnoDDPMPipeline,
    AnoFPDMPipeline,
    ClassifierGuidancePipeline,
    DenoisingAutoencoder,
    DifFusePipeline,
    DifFuseScheduler,
    FAnoGAN,
    IterMask2Pipeline,
    IterMaskNetwork,
    ReconstructionPipeline,
    ResNetAutoencoder,
    SliceClassifier,
    UnmaskedPipeline,
)
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.evaluation.calibration import Calls  # noqa: E402
from difffuse_hf.evaluation.effort import at_an_edge, chosen_of, improves, training_of  # noqa: E402
from difffuse_hf.evaluation.needs import (  # noqa: E402
    HEALTHY_ONLY,
    IMAGE_LABELS,
    labels_needed,
    networks_needed,
    painters,
)
from difffuse_hf.reporting.choosing import advice, level_with, trainings_table, write_choice  # noqa: E402

ROOT = Path(__file__).parents[1]
MASKED = ["U-Net", "classifier", "autoencoder"]


def difffuse(**options):
    torch.manual_seed(0)
    networks = (tiny_classifier(SliceClassifier), ResNetAutoencoder(1, [4, 4, 4]))
    return DifFusePipeline(tiny_unet(1), DifFuseScheduler(), *networks, saliency_options=options)


def itermask():
    small = {"block_out_channels": (4, 4), "layers_per_block": 1, "attention_levels": 1, "norm_num_groups": 2}
    return IterMask2Pipeline(IterMaskNetwork(1, **small), mask_threshold=0.1)


@pytest.mark.parametrize(
    ("pipeline", "networks", "labels"),
    [
        (difffuse, MASKED, IMAGE_LABELS),
        (lambda: difffuse(method="grad_cam"), MASKED[:2], IMAGE_LABELS),
        (lambda: UnmaskedPipeline(tiny_unet(1), DifFuseScheduler()), MASKED[:1], HEALTHY_ONLY),
        (lambda: AnoDDPMPipeline(tiny_unet(1), DifFuseScheduler()), ["U-Net of simplex noise"], HEALTHY_ONLY),
        (lambda: AnoFPDMPipeline(tiny_unet(1, num_class_embeds=3), DifFuseScheduler()), ["class-conditional U-Net"],
         IMAGE_LABELS),
        (lambda: ClassifierGuidancePipeline(tiny_unet(1, num_class_embeds=3), DifFuseScheduler(),
                                            tiny_noisy_classifier()),
         ["class-conditional U-Net", "noisy classifier"], IMAGE_LABELS),
        (lambda: ReconstructionPipeline(DenoisingAutoencoder(1, [4, 8])), ["denoising autoencoder"], HEALTHY_ONLY),
        (lambda: ReconstructionPipeline(FAnoGAN(1, 16, 2, 4)), ["f-AnoGAN"], HEALTHY_ONLY),
        (itermask, ["two U-Nets that fill masks"], HEALTHY_ONLY),
    ],
)  # fmt: skip
def test_what_a_method_needs_is_read_from_its_components(pipeline, networks, labels):
    made = pipeline()
    assert (networks_needed(made), labels_needed(made)) == (networks, labels)


def test_the_calls_of_a_reconstruction_are_those_of_the_network_that_paints():
    image = torch.rand(3, 1, 16, 16)
    for pipeline, calls in (
        (ReconstructionPipeline(FAnoGAN(1, 16, 2, 4)), [3]),
        (ReconstructionPipeline(DenoisingAutoencoder(1, [4, 8])), [3]),
        (itermask(), range(2 * 3, 12 * 3)),
    ):
        pipeline.set_progress_bar_config(disable=True)
        with Calls(*painters(pipeline)) as counted:
            pipeline(image)
        assert counted.images in calls
    assert (
        painters(ReconstructionPipeline(None, tiny_classifier(SliceClassifier), ResNetAutoencoder(1, [4, 4, 4]))) == []
    )


def tuned(*points, **chosen):
    return [{"setting": dict(zip(("noise_level", "erosion_size"), one[:2])), "dice": one[2]} for one in points]


def test_a_best_value_at_the_end_of_what_was_tried_is_marked_and_the_end_of_a_range_is_none():
    inside = tuned((100, 1, 0.1), (200, 1, 0.5), (350, 1, 0.3), (200, 3, 0.4))
    assert chosen_of(inside) == {"noise_level": 200, "erosion_size": 1} and at_an_edge(inside) == []
    assert at_an_edge([*inside, *tuned((350, 3, 0.6))]) == ["noise_level", "erosion_size"]
    assert at_an_edge(tuned((100, 1, 0.1))) == []  # one value is no search
    assert at_an_edge([*inside[:2], {**inside[2], "chosen": True}]) == ["noise_level"]  # not the best, but chosen


def test_a_network_still_improves_where_the_last_third_of_its_validations_is_better_than_all_before(tmp_path):
    assert improves([1.0, 0.8, 0.6, 0.5, 0.4, 0.3]) is True
    assert improves([1.0, 0.5, 0.3, 0.2, 0.3, 0.199]) is False  # by less than 1 %
    assert improves([1.0, 0.5]) is None
    with pytest.raises(InputError, match="holds no history.jsonl, so no network was trained there"):
        training_of(tmp_path)
    lines = [{"step": step, "validation": {"loss": 1 / step}} for step in (1, 2, 3)]
    (tmp_path / "history.jsonl").write_text("\n".join(json.dumps(line) for line in [{"step": 1, "loss": 2.0}, *lines]))
    assert (training_of(tmp_path).steps, training_of(tmp_path).hours) == (3, None)
    (tmp_path / "gan").mkdir()
    for folder, seconds in ((tmp_path, 1800), (tmp_path / "gan", 5400)):
        (folder / "duration.json").write_text(json.dumps({"steps": 10, "seconds": seconds}))
    one = training_of(tmp_path)
    assert (one.steps, one.hours, one.still_improving) == (20, 2.0, True)
    assert trainings_table({"U-Net": [one, one]}).rows == [["U-Net", "20", "2.00", "2 of 2"]]


SUBJECTS = ["a", "a", "b", "b", "c", "c"]
DICE = {"slow": [0.8, 0.7, 0.9, 0.8, 0.7, 0.9], "quick": [0.8, 0.8, 0.8, 0.8, 0.7, 0.8], "last": [0.1] * 6}


def scores(**changes):
    """As `anomaly.json` holds them, of three methods and one seed."""
    about = {"slow": (MASKED, IMAGE_LABELS), "quick": (MASKED[1:], IMAGE_LABELS), "last": (MASKED[:1], HEALTHY_ONLY)}
    seconds, by_labels = {"slow": 9.0, "quick": 0.1, "last": 1.0}, {"slow": 0.5, "quick": 0.6, "last": 0.1}
    results = {name: [{"dice": sum(values) / 6, "seconds_per_slice": seconds[name], "dice_by_labels": by_labels[name]}]
               for name, values in DICE.items()}  # fmt: skip
    whole = {
        "results": results,
        "slices": {name: [{"subject": SUBJECTS, "dice": values}] for name, values in DICE.items()},
        "about": {name: [{"networks": networks, "labels": labels}] for name, (networks, labels) in about.items()},
        "admission": {name: [[]] for name in DICE},
        "synthetic": True,
    }
    return {**whole, **changes}


def written(folder, data):
    folder.mkdir()
    (folder / "anomaly.json").write_text(json.dumps(data))
    return folder


def test_of_methods_that_are_level_the_quickest_is_recommended():
    data = scores()
    assert level_with("slow", data["slices"]) == ["quick"]
    assert advice(data["results"], data["slices"], data["about"]) == [
        "slow has the highest Dice (0.800) and level with it are quick; take quick, the quickest of them.",
        "Where no lesion is drawn, quick has the highest Dice (0.600, against 0.783 with drawn ones).",
        "Where there are healthy slices alone, it is last (0.100).",
    ]
    nothing = {name: [{}] for name in DICE}
    with pytest.raises(InputError, match="No method has a Dice"):
        advice(nothing, data["slices"], data["about"])


def test_the_choice_is_written_as_a_table_a_figure_and_three_sentences(tmp_path, capsys):
    failed = {"what": "change of healthy slices", "value": 0.1, "limit": 0.02, "passed": False}
    results = written(tmp_path / "results", scores(admission={"slow": [[failed]], "quick": [[]], "last": [[]]}))
    without = scores()
    without["results"]["quick"][0]["dice_by_labels"] = 0.44
    by_labels = written(tmp_path / "by labels", without)
    (tmp_path / "U-Net").mkdir()
    (tmp_path / "U-Net" / "history.jsonl").write_text('{"step": 7, "loss": 1.0}\n')
    specification = importlib.util.spec_from_file_location("choose", ROOT / "examples" / "choose_method.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    script.main([str(results), "--by_labels", str(by_labels), "--networks", str(tmp_path / "U-Net"), "--output_dir",
                 str(tmp_path / "out")])  # fmt: skip
    page = (tmp_path / "out" / "choosing.md").read_text()
    assert page.startswith("quick has the highest Dice (0.783) and no other method is level with it; take quick.")
    (slow,) = re.findall(r"^\| slow \|.*$", page, flags=re.MULTILINE)
    assert "0.8" not in slow and slow.endswith("| U-Net, classifier, autoencoder | a label of each slice |")
    assert "0.440" in page and "| U-Net | 7 | – | not known |" in page and "synthetic data" in page
    assert (tmp_path / "out" / "choosing.png").stat().st_size > 10_000
    assert "take quick." in capsys.readouterr().out
    with pytest.raises(InputError, match="There is no .*anomaly.json; make it with examples/evaluate_anomaly.py"):
        write_choice(tmp_path, tmp_path / "other")
    old = written(tmp_path / "old", {"results": {}})
    with pytest.raises(InputError, match="has no slices; make it again"):
        write_choice(old, tmp_path / "other")


def rows_of(text):
    """{first cell: other cells} of the first table in a text, without what makes figures bold."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip().strip("*") for cell in cells[1:]] for cells in lines}


def test_the_figures_of_the_page_are_those_of_the_results():
    page = rows_of((ROOT / "docs" / "choosing-a-method.md").read_text(encoding="utf-8"))
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    sections = [
        ("### Found in gliomas", 0),
        ("### Out of domain", 0),
        ("## Dif-fuse on synthetic head CT", 0),
        ("### The counterfactuals", 1),
        ("## Dif-fuse on synthetic head CT", 4),
    ]
    found = 0
    for number, (section, column) in enumerate(sections):
        table = rows_of(results.split(section)[1].split("\n| method | Dice, size 1")[0].split("\n###")[0])
        for name, cells in page.items():
            if name in table and name != "method":
                assert cells[number] == table[name][column], (name, section)
                found += 1
            elif name != "method" and not name.startswith("-"):
                assert cells[number] == "–", (name, section)
    assert found > 50
