# %% [markdown]
# # Detect lesions on a scan
#
# A synthetic subject goes through the embedded demo model. Nothing is downloaded, and no patient is in it. For a
# scan of your own, set `folder` to its place: `<name>_flair.nii.gz`, `<name>_t1.nii.gz`, `<name>_t1ce.nii.gz`,
# `<name>_t2.nii.gz`, skull-stripped.

# %%
import textwrap
from pathlib import Path

import nibabel as nib
from matplotlib import pyplot as plt

from difffuse_hf import detect_volume, load_pipeline, read_case
from difffuse_hf.phantoms.brain_phantom import draw_example
from difffuse_hf.reporting.figures import ANOMALY_COLOURS, DETECTED, REFERENCE, draw, grey_window

OUT = Path("out/notebooks")
folder = draw_example(OUT / "example")
print(sorted(file.name for file in folder.iterdir()))

# %% [markdown]
# To be quick, only every eighth axial slice is kept, as in a scan of 8 mm slices. Leave this cell out for all of
# them.

# %%
thick = OUT / "thick" / folder.name
thick.mkdir(parents=True, exist_ok=True)
for file in folder.glob("*.nii.gz"):
    nib.save(nib.load(file).slicer[:, :, ::8], thick / file.name)
folder = thick

# %% [markdown]
# The classifier looks at every slice; those that it flags are repainted, and what changed is the anomaly map.

# %%
pipeline = load_pipeline("demo")
case = read_case(folder, pipeline.processor.modalities)
result = detect_volume(pipeline, case, num_shown=1)
print(f"{result.lesion_ml:.1f} ml of lesion; Dice with the true one: {result.dice:.2f}")

# %% [markdown]
# All arrays of the result lie on the scan's own voxel grid, and `save` writes them as NIfTI.

# %%
result.save(OUT / "result")
print(sorted(file.name for file in (OUT / "result").iterdir()))

# %% [markdown]
# `result.slices` holds the same on the model's pixels: axial slices, anterior on top, the patient's right on the
# left.

# %%
shown = result.slices
best = int(shown.reference.sum((1, 2, 3)).argmax())
flair, picture, anomaly, true = (
    one[best, 0].numpy() for one in (shown.image, shown.pictures, shown.anomaly, shown.reference)
)
found = anomaly >= result.parameters["anomaly_threshold"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.9), facecolor="white", layout="constrained")
white, limit = grey_window(flair), float(anomaly.max())
draw(axes[0], flair, white)
draw(axes[1], picture, white)
outlines = [(true, REFERENCE), (found, DETECTED)]
draw(axes[2], flair, white, colour=anomaly, limit=limit, opacity=0.8 * (anomaly > 0), outlines=outlines)
for one, title in zip(axes, ("FLAIR", "healthy counterfactual", "anomaly; found (orange), true (blue)")):
    one.set_title(title, fontsize=9)
scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), ANOMALY_COLOURS)
bar = figure.colorbar(scale, ax=axes[2], location="bottom", shrink=0.8)
bar.set_label(textwrap.fill(result.parameters["anomaly_shows"], 48), fontsize=8)
figure.suptitle(f"Synthetic subject, slice {int(shown.indices[best])}")
