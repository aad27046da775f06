# %% [markdown]
# # Train on your data
#
# From cases in the BraTS layout to a model that detects, in miniature: four synthetic subjects, narrow networks,
# some steps. The result is not of use; it shows every step that a real training has. With your data, leave out
# the first cell of code, set `cases` to your folders, leave out the sizes, and train on a GPU (docs/training.md).

# %%
import runpy
from pathlib import Path

from matplotlib import pyplot as plt

from difffuse_hf import BrainPhantom
from difffuse_hf.data.prepare import make_builder, prepare
from difffuse_hf.data.slices import load_slices
from difffuse_hf.reporting.figures import draw, grey_window

OUT, STEPS = Path("out/notebooks"), 10
phantom = BrainPhantom(layout="brats2021", seed=0)
cases = {"train": (0, 2), "validation": (2, 1), "test": (3, 1)}  # split: first subject, how many
for split, (first, count) in cases.items():
    list(phantom.write(OUT / "cohort" / split, count, first))

# %% [markdown]
# Volumes become slices with labels. Splits are by patient; your own folder is divided 70-15-15 where `split` is
# left out.

# %%
for split in cases:
    size = {"image_size": (96, 96), "pixel_spacing_mm": 2.0}
    prepare(make_builder("brats2021", OUT / "cohort" / split, split=split, **size), OUT / "slices")
slices = load_slices(str(OUT / "slices"), "train").with_format("numpy")
print(slices)

# %% [markdown]
# The scripts of `examples/` are called here as on the command line. Classifier and autoencoder see image labels
# only, the U-Net healthy slices only; the drawn lesions are for thresholds and scores.

# %%
EXAMPLES = next(place / "examples" for place in (Path.cwd(), *Path.cwd().parents) if (place / "examples").is_dir())


def run(script, *flags):
    """`python examples/SCRIPT.py FLAGS`, in this process."""
    runpy.run_path(str(EXAMPLES / f"{script}.py"))["main"]([str(flag) for flag in flags])


common = ("--dataset", OUT / "slices", "--max_steps", STEPS, "--batch_size", 4, "--cpu", "--report_to", "none")
common += ("--validation_samples", 4, "--validation_steps", STEPS)
narrow = ("--block_out_channels", 16, 32, 32, "--layers_per_block", 1, "--attention_levels", 1, "--norm_num_groups", 8)
run("train_classifier", *common, "--output_dir", OUT / "classifier", "--backbone", "resnet10t")
run("train_autoencoder", *common, "--output_dir", OUT / "autoencoder", "--channels", 8, 8, 8)
run("train_diffusion", *common, "--output_dir", OUT / "diffusion", *narrow, "--display_steps", 2)

# %% [markdown]
# The three parts become one model; both thresholds are chosen on the validation split. `difffuse detect CASE
# --model out/notebooks/model` takes it from here.

# %%
parts = [flag for name in ("classifier", "autoencoder", "diffusion") for flag in (f"--{name}", OUT / name)]
settings = ("--preset", "fast", "--noise_level", 200, "--limit", 4, "--saliency_options", '{"num_steps": 3}')
run("assemble_pipeline", "--dataset", OUT / "slices", *parts, *settings, "--output_dir", OUT / "model",
    "--training_data", "Four synthetic subjects.")  # fmt: skip

# %%
figure, axes = plt.subplots(1, 4, figsize=(9, 3), facecolor="white", layout="constrained")
for place, number in zip(axes, range(0, len(slices), len(slices) // 4)):
    image, label = slices[number]["image"][0], slices[number]["label"]
    draw(place, image, grey_window(image))
    place.set_title(slices.features["label"].int2str(int(label)), fontsize=9)
figure.suptitle("FLAIR of four training slices (synthetic), with the labels that the classifier learns from")
