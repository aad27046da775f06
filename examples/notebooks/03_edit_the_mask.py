# %% [markdown]
# # Edit the mask and repaint
#
# Dif-fuse repaints what the mask holds and keeps the rest. The mask comes from the saliency map; here it is
# corrected by hand. The slice is synthetic, the model the embedded demo.

# %%
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from difffuse_hf import load_pipeline, read_case
from difffuse_hf.phantoms.brain_phantom import draw_example
from difffuse_hf.reporting.figures import ANOMALY_COLOURS, MASK, REFERENCE, draw, grey_window

pipeline = load_pipeline("demo")
pipeline.set_progress_bar_config(disable=True)
case = read_case(draw_example(Path("out/notebooks/example")), pipeline.processor.modalities)
slices, geometry = pipeline.processor.preprocess_volume(case.volumes, case.affine)
lesion = pipeline.processor.preprocess_labels(case.reference, geometry)
chosen = int(lesion.sum((1, 2)).argmax())
image, lesion = slices[chosen : chosen + 1], lesion[chosen]

# %% [markdown]
# First as the model does it by itself.

# %%
first = pipeline(image, generator=torch.Generator().manual_seed(0))
print(f"the mask holds {int(first.masks.sum())} pixels, the lesion {int(lesion.sum())}")

# %% [markdown]
# A mask of your own is (B, 1, H, W), 1 where tissue is repainted, in the pixels of the slice. Here: the pixels
# within two of the true lesion, as a reader would draw them. On the web page (`difffuse app`) the same is done
# with a brush.

# %%
drawn = torch.nn.functional.max_pool2d(lesion[None, None].float(), kernel_size=5, stride=1, padding=2)
second = pipeline(image, mask=drawn, generator=torch.Generator().manual_seed(0))
kept = (drawn == 0).expand_as(image)
print("largest change outside the mask:", float((second.counterfactuals - image)[kept].abs().max()))

# %% [markdown]
# For a whole scan, `detect_volume(pipeline, case, masks={number_of_the_slice: mask})` takes masks (H, W) slice by
# slice.

# %%
figure, axes = plt.subplots(2, 4, figsize=(9, 5.2), facecolor="white", layout="constrained")
flair = image[0, 0].numpy()
white, limit = grey_window(flair), float(max(first.anomaly_maps.max(), second.anomaly_maps.max()))
for row, (name, out) in zip(axes, {"the model's mask": first, "the drawn mask": second}.items()):
    anomaly = out.anomaly_maps[0, 0].numpy()
    draw(row[0], flair, white, outlines=[(lesion.numpy(), REFERENCE)])
    draw(row[1], flair, white, outlines=[(out.masks[0, 0].numpy(), MASK)])
    draw(row[2], out.counterfactuals[0, 0].numpy(), white)
    draw(row[3], flair, white, colour=anomaly, limit=limit, opacity=0.8 * (anomaly > 0))
    for place, title in zip(row, ("FLAIR, the true lesion", name, "counterfactual", "anomaly map")):
        place.set_title(title, fontsize=9)
scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), ANOMALY_COLOURS)
shows = pipeline.calibration(None).recipe.in_words(pipeline.processor.modalities)
figure.colorbar(scale, ax=axes, shrink=0.6).set_label(f"anomaly: {shows}", fontsize=8)
figure.suptitle(f"A synthetic slice ({chosen}), repainted twice")
