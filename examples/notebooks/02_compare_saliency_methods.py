# %% [markdown]
# # Compare saliency methods on one slice
#
# Which tissue makes the classifier say "lesion"? All methods have one signature, so a comparison is a loop. The
# slice is synthetic, the networks are those of the embedded demo model.

# %%
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from difffuse_hf import average_precision, load_pipeline, pointing_game, read_case
from difffuse_hf.phantoms.brain_phantom import draw_example
from difffuse_hf.reporting.figures import REFERENCE, SALIENCY_COLOURS, draw, grey_window
from difffuse_hf.saliency.methods import METHODS, saliency_method

pipeline = load_pipeline("demo")
case = read_case(draw_example(Path("out/notebooks/example")), pipeline.processor.modalities)
slices, geometry = pipeline.processor.preprocess_volume(case.volumes, case.affine)  # (S, C, H, W) in [0, 1]
lesions = pipeline.processor.preprocess_labels(case.reference, geometry)  # (S, H, W)
chosen = int(lesions.sum((1, 2)).argmax())
image, lesion = slices[chosen : chosen + 1], lesions[chosen]
print(f"slice {chosen}: P(lesion) = {pipeline.classifier(image).logits.softmax(1)[0, 1]:.2f}")

# %% [markdown]
# The target is class 1, "lesion". RISE and Score-CAM ask the classifier hundreds of times; fewer masks are
# quicker and coarser.

# %%
options = {"rise": {"num_masks": 200}, "smooth_grad": {}, "class_agnostic_saliency": {"num_steps": 6}}
maps = {}
for name in METHODS:
    torch.manual_seed(0)
    method = saliency_method(name, pipeline.classifier, pipeline.autoencoder, **options.get(name, {}))
    maps[name] = method(image, torch.tensor([1]))[0, 0].detach()  # (H, W) in [0, 1]

# %% [markdown]
# Two measures against the true lesion: does the brightest pixel hit it (pointing game), and how well does the map
# rank its pixels (area under the precision-recall curve). One slice is an example, not a comparison;
# `evaluate_saliency.py` scores whole data sets.

# %%
for name, saliency in maps.items():
    hit, area = pointing_game(saliency[None], lesion), average_precision(saliency[None], lesion)
    print(f"{name:26} hit: {'yes' if hit == 1 else 'no':4} AUPRC {area:.2f}")

# %%
figure, axes = plt.subplots(3, 4, figsize=(9, 7.6), facecolor="white", layout="constrained")
flair = image[0, 0].numpy()
tiles = {"FLAIR, the true lesion": None, **maps}
for place, (name, saliency) in zip(axes.flat, tiles.items()):
    layer = {} if saliency is None else {"colour": saliency.numpy(), "colours": SALIENCY_COLOURS, "opacity": 0.75}
    draw(place, flair, grey_window(flair), outlines=[(lesion.numpy(), REFERENCE)], **layer)
    place.set_title(name.replace("_", " "), fontsize=9)
scale = plt.cm.ScalarMappable(cmap=SALIENCY_COLOURS)
figure.colorbar(scale, ax=axes, shrink=0.4, label="saliency, 1 = the map's maximum (no unit)")
figure.suptitle(f"Saliency methods on a synthetic slice ({chosen})")
