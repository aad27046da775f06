"""RISE (Petsiuk et al. 2018): which random masks leave the classifier sure of its class?"""

import math

import torch
from torch.nn import functional as F

from .common import Images, Maps, Query, Target, per_image, scale_to_one


@torch.no_grad()
def rise(
    classifier,
    image: Images,
    target: Target = None,
    *,
    saliency: Maps = None,
    num_masks: int = 1000,
    grid: int = 7,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Mean of random masks, weighed by the target class's probability when only they are seen.

        S = 1/(N p) Σ_i softmax f(x ⊙ M_i)_target M_i

    All images of a batch see the same masks. The slices of a scan are masked independently of one another (our
    reading: they are thicker than a region is wide). The sum is as the paper writes it: no part of the image is 0 in
    it where masking changes little.

    Args:
        num_masks (`int`): N (paper: 4000 to 8000 for 224 x 224 pixels).
        grid (`int`): cells of a mask on each side, before it is enlarged and shifted (paper: 7).
        probability (`float`): p, with which a cell is seen (paper: 0.5).
        generator (`torch.Generator`, *optional*): source of the masks.
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments and the result are those of `gradient`.
    """
    query = Query.of(classifier, image, target, saliency)
    if num_masks < 1:
        raise ValueError(f"`num_masks` must be at least 1, got {num_masks}.")
    stack = image.shape[1:-3]  # () for slices, (S,) for scans
    height, width = image.shape[-2:]
    drawn = _draw(num_masks * math.prod(stack), (height, width), grid, probability, generator)
    drawn = [part.to(image.device).unflatten(0, (num_masks, -1)) for part in drawn]
    total = torch.zeros((), device=image.device)
    for parts in zip(*(part.split(query.batches_in(batch_size)) for part in drawn)):
        cells, down, right = (part.flatten(0, 1) for part in parts)
        masks = _enlarge(cells, down, right, (height, width)).to(image.dtype)
        masks = masks.view(-1, 1, *stack, 1, height, width)
        probabilities = query.probability((image * masks).flatten(0, 1))
        seen = per_image(probabilities, image).unflatten(0, (len(masks), -1))  # [count,B,1,1,1] or [count,B,1,1,1,1]
        total = total + (seen * masks).sum(0)  # [B,1,H,W] or [B,S,1,H,W]
    return scale_to_one(total / (num_masks * probability))


def _draw(count, size, grid, probability, generator):
    """Cells seen (count, grid, grid) and the shifts (count,) down and right, drawn before anything is cut in parts."""
    if not 0 < probability < 1:
        raise ValueError(f"`probability` lies between 0 and 1, got {probability}.")
    if not 1 <= grid <= min(size):
        raise ValueError(f"`grid` must lie between 1 and the image's shorter side, {min(size)}, got {grid}.")
    options = {"generator": generator, "device": "cpu" if generator is None else generator.device}
    seen = torch.rand(count, grid, grid, **options) < probability
    return seen, *(torch.randint(math.ceil(side / grid), (count,), **options) for side in size)


def _enlarge(seen, down, right, size):
    """Smooth masks (count, 1, H, W) in [0, 1] from cells: enlarged bilinearly to one cell more than the image on each
    axis, of which a part of the image's size is cut out at the shift (Petsiuk et al. 2018, Sec. 3.2)."""
    large = [(seen.shape[-1] + 1) * math.ceil(side / seen.shape[-1]) for side in size]
    masks = F.interpolate(seen[:, None].float(), size=large, mode="bilinear", align_corners=False)[:, 0]
    numbers, *pixels = (torch.arange(side, device=masks.device) for side in (len(masks), *size))
    rows, columns = (shift[:, None] + pixel for shift, pixel in zip((down, right), pixels))  # (count, H), (count, W)
    masks = masks[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]
    return masks.clamp_max(1)[:, None]  # interpolation rounds
