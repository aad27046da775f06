"""The notebooks of `examples/notebooks` run from the first cell to the last, without network, and draw pictures."""

import os
import re
import runpy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from test_structure import REPOSITORY

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

FOLDER = REPOSITORY / "examples" / "notebooks"
APART = ("04_train_on_your_data", "06_read_a_results_table")  # the second reads what the first leaves
ALONE = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in APART)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where they run: what they draw and train is shared, as it is for a reader, and thrown away."""
    place = tmp_path_factory.mktemp("notebooks")
    (place / "examples").symlink_to(REPOSITORY / "examples")
    return place


def run(name, place, monkeypatch):
    """What a notebook has defined in the end; its last picture is not empty. PICTURES keeps them, to be looked at."""
    plt.close("all")
    monkeypatch.chdir(place)
    made = runpy.run_path(str(FOLDER / f"{name}.py"))
    made["figure"].canvas.draw()
    pixels = np.asarray(made["figure"].canvas.buffer_rgba())
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 20
    if folder := os.environ.get("PICTURES"):
        made["figure"].savefig(Path(folder, f"{name}.png"), dpi=110)
    plt.close("all")
    return made


@pytest.mark.slow
def test_detect_on_a_scan(place, monkeypatch):
    made = run("01_detect_on_a_scan", place, monkeypatch)
    assert made["result"].dice > 0.5 and (place / "out/notebooks/result/BraTS2021_00000_anomaly.nii.gz").is_file()


def test_compare_saliency_methods(place, monkeypatch):
    made = run("02_compare_saliency_methods", place, monkeypatch)
    assert len(made["maps"]) == len(made["METHODS"]) == 11
    assert all(0 < saliency.max() <= 1 for saliency in made["maps"].values())


def test_edit_the_mask(place, monkeypatch):
    made = run("03_edit_the_mask", place, monkeypatch)
    change = (made["second"].counterfactuals - made["image"]).abs()
    assert change[made["kept"]].max() == 0 and change[~made["kept"]].max() > 0.05


def test_write_a_saliency_source(place, monkeypatch):
    made = run("05_write_a_saliency_source", place, monkeypatch)
    assert made["average_precision"](made["saliency"][0], made["lesion"]) > 2 * made["lesion"].float().mean()


@pytest.mark.slow
def test_train_on_your_data_and_read_a_results_table(place, monkeypatch):
    run("04_train_on_your_data", place, monkeypatch)
    assert (place / "out/notebooks/model/model_index.json").is_file()
    made = run("06_read_a_results_table", place, monkeypatch)
    assert set(made["table"]["results"]) == {"Dif-fuse", "all repainted"}


@pytest.mark.parametrize("name", sorted([*ALONE, *APART]))
def test_every_notebook_is_cells_of_text_and_code_and_has_a_test(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert text.startswith("# %% [markdown]\n# # ") and sum(cell.startswith(" [markdown]") for cell in cells) > 2
    assert f'"{name}"' in Path(__file__).read_text(encoding="utf-8")
