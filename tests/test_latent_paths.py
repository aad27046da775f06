"""Facts about the paths of counterfactual searches (Sec. 5.5.4), and the script that draws them."""

import importlib.util
import json
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from test_gradients import LinearScan, OneLayer, random
from test_latent_shift import Identity, Logit

from difffuse_hf import (
    LesionClassifier,
    LesionClassifierConfig,
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
)
from difffuse_hf.evaluation.latent_paths import (
    NO_DISTANCE,
    ONE_STEP,
    OURS,
    LatentPath,
    join_paths,
    latent_paths,
    other_class,
    shifted_images,
    summarise_paths,
)

SCRIPT = Path(__file__).parents[1] / "examples" / "plot_latent_paths.py"


@pytest.fixture
def steep():
    classifier = OneLayer(activation=torch.tanh, labels=2)
    with torch.no_grad():
        classifier.head.weight.mul_(20)
    return classifier


def test_latent_shift_goes_straight_at_even_steps(steep):
    image = random(3, 2, 6, 6)
    path = latent_paths(steep, Logit(), image, num_steps=6, step_size=0.5)[ONE_STEP]
    steps = torch.arange(7.0)[:, None]
    assert torch.allclose(path.distance, steps * path.distance[1], rtol=1e-3, atol=1e-7)


def test_without_the_l1_term_the_first_step_is_the_one_of_latent_shift(steep):
    paths = latent_paths(steep, Logit(), random(3, 2, 6, 6), num_steps=3, step_size=20.0)
    for measure in ("probability", "distance"):
        shift, free, ours = (getattr(paths[name], measure) for name in (ONE_STEP, NO_DISTANCE, OURS))
        assert shift.shape == free.shape == ours.shape == (4, 3)
        assert torch.allclose(shift[:2], free[:2], atol=1e-6)
        assert torch.equal(free[0], ours[0])
    assert not torch.allclose(paths[ONE_STEP].probability[2], paths[NO_DISTANCE].probability[2], atol=1e-3)


def test_the_probability_along_latent_shift_of_a_linear_classifier_by_hand():
    weight = torch.stack([torch.zeros(1, 3, 3), random(1, 3, 3)])
    image, target = random(1, 1, 3, 3, seed=1), torch.tensor([0])
    path = latent_paths(LinearScan(weight), Identity(), image, target, num_steps=4, step_size=0.3)[ONE_STEP]
    lesion = (weight[1] * image[0]).sum()
    slope = lesion.sigmoid() * weight[1]  # of -log p_0
    for k in range(5):
        expected = (-(lesion - k * 0.3 * (weight[1] * slope).sum())).sigmoid()
        assert torch.allclose(path.probability[k, 0], expected, atol=1e-6)


def test_shifted_images_are_where_the_straight_path_comes_by(steep):
    image, autoencoder = random(3, 2, 6, 6), Logit()
    made, probability = shifted_images(steep, autoencoder, image, [0.0, 0.5, 2.0])
    path = latent_paths(steep, autoencoder, image, num_steps=4, step_size=0.5)[ONE_STEP]
    assert torch.equal(made[0], autoencoder.decode(autoencoder.encode(image)))
    assert torch.equal(probability, path.probability[[0, 1, 4]])
    latent = [autoencoder.encode(one) for one in made]
    torch.testing.assert_close(latent[2] - latent[0], 4 * (latent[1] - latent[0]), rtol=0, atol=1e-3)
    assert (latent[2] - latent[0]).abs().max() > 0.1
    scans, of_scans = shifted_images(steep, autoencoder, random(2, 3, 2, 6, 6), [1.0])
    assert scans.shape == (1, 2, 3, 2, 6, 6) and of_scans.shape == (1, 2)


def test_equation_5_4_stays_nearer_than_a_search_without_its_l1_term(steep):
    paths = latent_paths(steep, Logit(), random(4, 3, 2, 6, 6), num_steps=20, step_size=0.5, l1_weight=3.0)
    assert (paths[OURS].distance[-1] < paths[NO_DISTANCE].distance[-1]).all()
    assert (paths[OURS].probability[-1] >= paths[OURS].probability[0]).all()


def test_the_other_class_is_none_for_a_lesion_and_the_likeliest_lesion_for_none():
    class Fixed(torch.nn.Module):
        def forward(self, image):
            logits = torch.tensor([[5.0, 1, 3, 2], [0, 1, 3, 2], [5, 4, 3, 2]])
            return type("Output", (), {"logits": logits})

    assert other_class(Fixed(), torch.zeros(3, 1, 4, 4)).tolist() == [2, 0, 1]


def test_the_summary_counts_images_and_takes_their_quartiles():
    first = LatentPath(torch.tensor([[0.1, 0.2], [0.9, 0.6], [0.7, 0.58]]), torch.zeros(3, 2))
    second = LatentPath(torch.tensor([[0.3], [0.3], [0.3]]), torch.ones(3, 1))
    row = summarise_paths({"a": join_paths([first, second])})["a"]
    assert row["images"] == 3
    assert row["reached"] == pytest.approx(2 / 3) and row["fell_back"] == pytest.approx(1 / 3)
    assert row["probability"]["median"] == pytest.approx([0.2, 0.6, 0.58])
    assert row["distance"]["quartile_1"] == [0, 0, 0] and row["distance"]["quartile_3"] == [0.5, 0.5, 0.5]


def test_a_path_needs_a_step(steep):
    with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
        latent_paths(steep, Logit(), random(1, 2, 6, 6), num_steps=0)


def test_paths_of_scans_are_of_one_code_a_slice():
    torch.manual_seed(0)
    config = LesionClassifierConfig(hidden_sizes=[4] * 7, num_pools=2)
    autoencoder = ResNetAutoencoder(in_channels=1, channels=(4, 4, 4)).eval()
    paths = latent_paths(LesionClassifier(config).eval(), autoencoder, random(2, 3, 1, 16, 16), num_steps=2)
    assert all(path.probability.shape == path.distance.shape == (3, 2) for path in paths.values())


def test_the_script_writes_the_figure_and_its_numbers(tmp_path, capsys):
    torch.manual_seed(0)
    config = SliceClassifierConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, num_labels=2)
    SliceClassifier(config).save_pretrained(tmp_path / "classifier")
    autoencoder = ResNetAutoencoder(in_channels=1, channels=(4, 4, 4), strides=(2, 2, 1))
    autoencoder.save_pretrained(tmp_path / "autoencoder")
    shape = (1, 16, 16)
    features = datasets.Features(
        {
            "image": datasets.Array3D(shape, "float32"),
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            "subject": datasets.Value("string"),
        }
    )
    columns = {"image": list(random(5, *shape).numpy()), "label": [0, 1] * 2 + [1], "subject": list("abcde")}
    rows = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "data")

    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    flags = {name: tmp_path / name for name in ("classifier", "autoencoder")}
    flags |= {"dataset": tmp_path / "data", "output_dir": tmp_path / "out", "limit": 4, "num_steps": 3}
    flags |= {"batch_size": 3, "device": "cpu"}
    module.main([part for name, value in flags.items() for part in (f"--{name}", str(value))])

    summary = json.loads((tmp_path / "out" / "latent_paths.json").read_text())
    assert summary["settings"]["num_steps"] == 3
    assert set(summary["paths"]) == {ONE_STEP, NO_DISTANCE, OURS}
    for row in summary["paths"].values():
        assert row["images"] == 4 and len(row["probability"]["median"]) == 4
    assert (tmp_path / "out" / "latent_paths.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob(".*"))
    assert f"| {OURS} |" in capsys.readouterr().out

    flags["output_dir"] = tmp_path / "grid"
    argv = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    module.main([*argv, "--step_size", "0.5", "1", "--l1_weight", "10", "100"])
    grid = json.loads((tmp_path / "grid" / "latent_paths.json").read_text())["grid"]
    assert [(one["settings"]["step_size"], one["settings"]["l1_weight"]) for one in grid] == [
        (0.5, 10), (0.5, 100), (1, 10), (1, 100)
    ]  # fmt: skip
    assert grid[3]["paths"] == summary["paths"] and len(list((tmp_path / "grid").glob("latent_paths_*.png"))) == 4
    with Image.open(tmp_path / "grid" / "latent_grid_pictures.png") as picture:
        one_and_a_start = picture.width / (2 + 4)  # inches a tile, about
    with Image.open(tmp_path / "grid" / "latent_shift_pictures.png") as picture:
        assert picture.width == pytest.approx(one_and_a_start * (2 + 5), rel=0.05) and picture.height > 400
    module.main([*argv, "--pictures", "0", "--output_dir", str(tmp_path / "none")])
    assert [path.name for path in (tmp_path / "none").glob("*.png")] == ["latent_paths.png"]
