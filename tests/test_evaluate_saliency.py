"""The script that holds saliency maps against lesions, on synthetic scans and tiny untrained networks."""

import importlib.util
import json
from pathlib import Path

import datasets
import nibabel
import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="needs scikit-image")
pytest.importorskip("sklearn", reason="needs scikit-learn")

from difffuse_hf import (  # noqa: E402
    ACATClassifier,
    LesionClassifier,
    LesionClassifierConfig,
    ResNetAutoencoder,
)
from difffuse_hf.data.scans import SaliencyStore, load_scans  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.evaluation.localisation import localise  # noqa: E402
from difffuse_hf.evaluation.saliency_runs import SaliencyRun, SaliencySettings, score_run  # noqa: E402
from difffuse_hf.models.auto import load_classifier  # noqa: E402
from difffuse_hf.reporting.saliency_tables import lesion_tables, short  # noqa: E402
from difffuse_hf.saliency.gradient import gradient  # noqa: E402
from difffuse_hf.saliency.methods import METHODS  # noqa: E402

SCRIPT = Path(__file__).parents[1] / "examples" / "evaluate_saliency.py"
SIDES = ["none", "left", "right", "both"]
SIZE = (2, 16, 16)  # slices, rows, columns
FAST = {
    "class_agnostic_saliency": {"num_steps": 1},
    "negative_counterfactual": {"num_steps": 1},
    "latent_shift": {"shifts": [1.0], "num_frames": 1},
    "smooth_grad": {"num_samples": 2},
    "integrated_gradients": {"num_steps": 2},
    "rise": {"num_masks": 4, "grid": 3},
}


def run(*flags):
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main([str(flag) for flag in (*flags, "--device", "cpu", "--options", json.dumps(FAST))])


def write_scans(folder):
    """Healthy, left with its mask, right with its mask, left without: of the last only the territory is known."""
    masks = np.zeros((4, *SIZE), np.uint8)
    masks[1, 1, 4:8, 10:14] = masks[2, 0, 6:9, 2:5] = 1
    columns = {
        "image": (
            datasets.Array4D((SIZE[0], 1, *SIZE[1:]), "float32"),
            np.random.default_rng(0).random((4, SIZE[0], 1, *SIZE[1:]), np.float32),
        ),
        "mask": (datasets.Array3D(SIZE, "uint8"), [*masks[:3], None]),
        "label": (datasets.ClassLabel(names=SIDES), [0, 1, 2, 1]),
        "infarct_size": (datasets.Value("int32"), [0, 1, 4, None]),
        "territory": (datasets.Value("string"), ["", "MCA left", "borderzone right", "MCA left"]),
        "to_mni_mm": (datasets.List(datasets.Value("float32")), [[-1, 0, 0, 7.5, 0, -1, 0, 7.5, 0, 0, 5, 0]] * 4),
        "source_slices": (datasets.List(datasets.Value("int32")), [[0, 3]] * 4),
        "scan_id": (datasets.Value("string"), [f"scan{i}" for i in range(4)]),
    }
    features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
    test = datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features=features)
    datasets.DatasetDict({"test": test}).save_to_disk(str(folder))
    (folder / "README.md").write_text("---\ntags:\n- synthetic\n---\nSynthetic scans.\n")
    return masks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds of networks, their data, saliency maps and an atlas: left and right MCA."""
    root = tmp_path_factory.mktemp("made")
    masks = write_scans(root / "data")
    for seed in range(2):
        torch.manual_seed(seed)
        classifier = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4] * 7, num_pools=2))
        classifier.save_pretrained(root / f"classifier-{seed}")
        ResNetAutoencoder(in_channels=1, channels=(4, 4, 4)).save_pretrained(root / f"autoencoder-{seed}")
        ACATClassifier.from_baseline(classifier).save_pretrained(root / f"acat-{seed}")
    keys = list(load_scans(str(root / "data"), "test")["key"])
    SaliencyStore(root / "maps", "test", {}).write(range(4), keys, torch.rand(4, SIZE[0], 1, *SIZE[1:]))
    labels = np.ones((20, 20, 20), np.int16)
    labels[10:] = 2
    affine = np.array([[2.0, 0, 0, -19], [0, 2, 0, -19], [0, 0, 2, -19], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(labels, affine), root / "halves.nii.gz")
    (root / "halves_regions.txt").write_text("MCAL\nMCAR\n")
    return root, masks


@pytest.fixture(scope="module")
def everything(made):
    """Two seeds with few methods: every file of the script."""
    root, _ = made
    runs = [
        ("--run", *(root / f"{name}-{seed}" for name in ("classifier", "autoencoder")), root / "data")
        for seed in (0, 1)
    ]
    acat = [("--acat", root / f"acat-{seed}", root / "maps") for seed in (0, 1)]
    run(*(flag for flags in (*runs, *acat) for flag in flags), "--output_dir", root / "out",
        "--methods", "gradient", "grad_cam",
        "--atlas", root / "halves.nii.gz", "--randomise", 2, "--randomise_steps", 3, "--noise_std", 0.1)  # fmt: skip
    return json.loads((root / "out" / "saliency.json").read_text()), (root / "out" / "saliency.md").read_text()


def test_every_method_has_measures_and_acat_those_of_its_own_round(made):
    root, _ = made
    seed = SaliencyRun(*(str(root / name) for name in ("classifier-0", "autoencoder-0", "data", "acat-0", "maps")))
    scored = score_run(seed, SaliencySettings(limit=1, options=FAST), num_kept=1)
    assert list(scored.measures) == [*METHODS, "acat_own_classifier"]
    assert all(np.isfinite(scans[0]["energy"]) for scans in scored.measures.values())
    assert [scan.key for scan in scored.scans] == ["scan1"] and set(scored.maps[0]) == set(scored.measures)


def test_rows_stand_beside_chance_and_the_thesiss_figures(everything):
    _, text = everything
    first = text.split("\n\n")[1].splitlines()
    assert "pointing game, thesis (real data)" in first[0]
    names = [line.split("|")[1].strip() for line in first[2:]]
    assert names == ["gradient", "grad_cam", "acat_own_classifier", "chance, image", "chance, head"]
    assert "61.29" in first[2] and "68.55" in first[4] and "synthetic data" in text and "over 2 seeds" in text
    chance = 100 * (16 + 9) / 2 / np.prod(SIZE)
    assert f"| {chance:.2f} ± 0.00 |" in first[5]


def test_each_kind_of_lesion_has_a_table_of_its_own_where_there_is_one():
    whole = {"pointing": 1.0, "pointing_slices": 0.5, "energy": 0.25, "auprc": 0.5}
    chance = {"chance": 0.1, "chance_slices": 0.2, "chance_head": 0.3}
    large, small = ({"infarct_size": size, **whole, **chance} for size in (4, 1))
    (table,) = lesion_tables([{"rise": [large, large]}], "here")
    assert [row[0] for row in table.rows] == ["rise", "chance, image", "chance, head"]
    assert table.rows[0][1:] == ["100.00", "–", "50.00", "25.00", "0.500", "2"]  # the thesis has no RISE
    assert table.rows[1][1:] == ["10.00", "–", "20.00", "10.00", "0.100", "2"]
    assert table.rows[2][1:] == ["30.00", "–", "–", "30.00", "0.300", "2"]
    two = lesion_tables([{"rise": [large, small]}, {"rise": [small, small]}], "here")
    assert [table.rows[0][-1] for table in two] == ["2", "2"] and len(two) == 2  # 1 and 2 small ones: 1.5 is 2
    assert two[0].caption.startswith("Maps against the drawn lesion: here. Mean ± standard error over 2 seeds")


def test_healthy_scans_are_left_out_and_a_scan_without_a_mask_is_judged_by_its_territory(everything):
    results, text = everything
    assert results["scans"] == [["scan1", "scan2", "scan3"]] * 2
    first, second, third = results["runs"][0]["gradient"]
    assert "pointing" in first and "territory_pointing" in first
    assert (
        "pointing" in second and "territory_pointing" not in second
    )  # no artery of the atlas is that of a border zone
    assert "pointing" not in third and third["territory_chance"] == pytest.approx(0.5)  # the left half
    assert "Small lesions only (infarct size 1 and 2)" in text and "territory that the reader named" in text


def test_the_numbers_are_those_of_the_map_of_the_true_class(everything, made):
    results, (root, masks) = everything[0], made
    classifier = load_classifier(root / "classifier-1")
    image = load_scans(str(root / "data"), "test")[2]["pixel_values"]
    expected = localise(gradient(classifier, image[None], torch.tensor([2]))[0], masks[2], image)
    found = results["runs"][1]["gradient"][1]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_sanity_checks_and_variances_are_those_of_the_first_run(everything):
    results, text = everything
    assert set(results["randomised"]) == set(results["runs"][0])
    steps = results["randomised"]["acat_own_classifier"][1]["cascade"]
    assert len(steps) == 3 and "base.side_head" in steps[0]["layers"]
    assert [step["stage"] for step in results["variances"]["classifier"]] == list(range(1, 8))
    assert results["variances"]["ACAT"][0]["ratio"] == pytest.approx(results["variances"]["classifier"][0]["ratio"])
    assert "Variance of the pre-activations without and with noise of standard deviation 0.1" in text


def test_the_figure_is_a_picture(everything, made):
    assert (made[0] / "out" / "saliency.png").read_bytes().startswith(b"\x89PNG")


def test_scans_of_one_study_have_names_of_their_own_in_the_figure():
    study = "1.2.826.0.1.3680043.8.498."
    assert short("BraTS2021_00001") == "BraTS2021_00001"
    assert short(f"{study}1234567890") != short(f"{study}1234567891") and len(short(study)) == 16


def test_what_does_not_fit_is_one_sentence(made, tmp_path, capsys):
    root, _ = made
    one = ("--run", root / "classifier-0", root / "autoencoder-0", root / "data", "--output_dir", tmp_path)
    with pytest.raises(SystemExit):
        run(*one, "--acat", root / "acat-0", root / "maps", "--acat", root / "acat-1", root / "maps")
    assert "--acat is given once for each --run, got 2 for 1 runs" in capsys.readouterr().err
    healthy = datasets.load_from_disk(str(root / "data"))["test"].select([0])
    datasets.DatasetDict({"test": healthy}).save_to_disk(str(tmp_path / "healthy"))
    with pytest.raises(InputError, match="No scan in the split 'test' of .*healthy has a drawn lesion"):
        run("--run", root / "classifier-0", root / "autoencoder-0", tmp_path / "healthy", "--output_dir", tmp_path)
