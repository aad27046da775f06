# %% [markdown]
# # Write your own saliency source
#
# Dif-fuse takes its mask from any map. A saliency source is a function `f(classifier, image, target)` that
# returns a map (B, 1, H, W) in [0, 1]. Here: occlusion (Zeiler and Fergus 2014), which the package does not have.
# A square slides over the slice, and a pixel counts as much as the probability falls when it is covered.

# %%
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from difffuse_hf import average_precision, load_pipeline, read_case
from difffuse_hf.phantoms.brain_phantom import draw_example
from difffuse_hf.reporting.figures import MASK, REFERENCE, SALIENCY_COLOURS, draw, grey_window
from difffuse_hf.saliency.common import Query, scale_to_one


@torch.no_grad()
def occlusion(classifier, image, target=None, *, saliency=None, side=16, step=8):
    """Fall of the target's probability when a square of `side` pixels is 0, (B, 1, H, W) in [0, 1]."""
    query = Query.of(classifier, image, target, saliency)  # checks the shapes, finds the target
    whole = query.probability(image)
    total, count = torch.zeros_like(image[:, :1]), torch.zeros_like(image[:, :1])
    for top in range(0, image.shape[-2] - side + 1, step):
        for left in range(0, image.shape[-1] - side + 1, step):
            square = (..., slice(top, top + side), slice(left, left + side))
            covered = image.clone()
            covered[square] = 0
            fall = (whole - query.probability(covered)).clamp_min(0)
            total[square] += fall[:, None, None, None]
            count[square] += 1
    return scale_to_one(total / count.clamp_min(1))


# %% [markdown]
# On a synthetic slice, with the classifier of the demo model:

# %%
pipeline = load_pipeline("demo")
pipeline.set_progress_bar_config(disable=True)
case = read_case(draw_example(Path("out/notebooks/example")), pipeline.processor.modalities)
slices, geometry = pipeline.processor.preprocess_volume(case.volumes, case.affine)
lesions = pipeline.processor.preprocess_labels(case.reference, geometry)
chosen = int(lesions.sum((1, 2)).argmax())
image, lesion = slices[chosen : chosen + 1], lesions[chosen]
saliency = occlusion(pipeline.classifier, image, torch.tensor([1]))
print(f"AUPRC against the true lesion: {average_precision(saliency[0], lesion):.2f}")

# %% [markdown]
# The pipeline blurs the map, cuts it at its percentile and repaints what is left. That is all: nothing has to be
# registered. CONTRIBUTING.md says what it takes to add a method to the package.

# %%
out = pipeline(image, saliency=saliency, generator=torch.Generator().manual_seed(0))

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 3), facecolor="white", layout="constrained")
flair, found = image[0, 0].numpy(), saliency[0, 0].numpy()
white = grey_window(flair)
draw(axes[0], flair, white, outlines=[(lesion.numpy(), REFERENCE)])
draw(axes[1], flair, white, colour=found, colours=SALIENCY_COLOURS, opacity=0.75)
draw(axes[2], flair, white, outlines=[(out.masks[0, 0].numpy(), MASK)])
draw(axes[3], out.counterfactuals[0, 0].numpy(), white)
for place, title in zip(axes, ("FLAIR, the true lesion", "occlusion", "its mask", "counterfactual")):
    place.set_title(title, fontsize=9)
scale = plt.cm.ScalarMappable(cmap=SALIENCY_COLOURS)
figure.colorbar(scale, ax=axes[1], shrink=0.7, location="bottom", label="saliency, 1 = its maximum")
figure.suptitle(f"A saliency source of one's own, on a synthetic slice ({chosen})")
