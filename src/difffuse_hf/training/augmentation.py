"""Random changes of slices and scans during training, and of the labels that change with them.

Everything random about a sample can be decided by numbers that belong to the sample (`sample_uniform`), so that it is
the same on any number of processes.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F


def augment(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    flip: bool = True,
    intensity: float = 0.0,
    noise: float = 0.0,
    shift: int = 0,
    rotation: float = 0.0,
    zoom: float = 0.0,
    uniforms: torch.Tensor | None = None,
    saliency: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Random changes to a batch of slices (B, C, H, W) or scans (B, S, C, H, W) in [0, 1]; black stays black.

    Every slice, or every scan as a whole, is changed in its own way.

    Args:
        generator (`torch.Generator`, *optional*): source of all randomness, on the image's device.
        flip (`bool`): mirror left and right with probability one half.
        intensity (`float`): x → s·x^γ for each channel, with log γ and log s uniform in [-intensity, intensity].
        noise (`float`): adds Gaussian noise with a standard deviation uniform in [0, noise], over the background too.
        shift (`int`): moves a slice by up to this many pixels in both directions.
        rotation (`float`): turns a slice about its centre by up to so many degrees, bilinearly.
        zoom (`float`): magnifies a slice about its centre, log factor uniform in [-zoom, zoom].
        uniforms (`torch.Tensor` of shape `(B, augment_uniforms(C))`, *optional*): numbers in [0, 1) that decide
            everything in place of the generator, row i for sample i: `sample_uniform(seed, batch["position"], ...)`
            makes the changes the same on any number of processes. Which change is on moves no other one's numbers.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): map to move with the
            image.

    Returns:
        `torch.Tensor` of the image's shape, or with `saliency` the pair of both.
    """
    batch, channels, (height, width) = len(image), image.shape[-3], image.shape[-2:]
    single = (1,) * (image.ndim - 1)
    needed = augment_uniforms(channels)
    if uniforms is not None and (uniforms.ndim != 2 or len(uniforms) != batch or uniforms.shape[1] < needed):
        raise ValueError(
            f"`uniforms` has the shape {tuple(uniforms.shape)}, but {batch} samples with {channels} channels take "
            f"({batch}, {needed}): `sample_uniform(seed, batch['position'], augment_uniforms({channels}))`."
        )

    def uniform(first, *shape):
        if uniforms is None:
            return torch.rand((batch, *shape), generator=generator, device=image.device)
        return uniforms[:, first : first + math.prod(shape)].reshape(batch, *shape)

    if flip:
        mirror = (uniform(0) < 0.5).view(batch, *single)
        image = torch.where(mirror, image.flip(-1), image)
        if saliency is not None:
            saliency = torch.where(mirror, saliency.flip(-1), saliency)
    if shift:
        offsets = (uniform(1, 2) * (2 * shift + 1)).long().tolist()

        def moved(stack):
            padded = F.pad(stack, [shift] * 4)
            return torch.stack([padded[i, ..., y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])

        image = moved(image)
        saliency = None if saliency is None else moved(saliency)
    if rotation or zoom:
        turn, growth = (2 * uniform(5 + 2 * channels, 2) - 1).unbind(1)
        angle, scale = torch.deg2rad(rotation * turn), (zoom * growth).exp()
        image = turned(image, angle, scale)
        saliency = None if saliency is None else turned(saliency, angle, scale)
    if intensity:
        gamma, scale = ((2 * uniform(5, 2, channels) - 1) * intensity).exp().unbind(1)  # [B,C] each
        each = (batch, *single[:-3], channels, 1, 1)
        image = scale.view(each) * image ** gamma.view(each)
    if noise:
        strength = noise * uniform(3).view(batch, *single)
        if uniforms is None:
            normal = torch.randn(image.shape, generator=generator, device=image.device)
        else:
            seeds = (uniforms[:, 4].double() * 2**24).long().tolist()
            normal = torch.stack(
                [
                    torch.randn(
                        image.shape[1:],
                        generator=torch.Generator(image.device).manual_seed(seed),
                        device=image.device,
                    )
                    for seed in seeds
                ]
            )
        image = image + strength * normal
    image = image.clamp(0, 1)
    return image if saliency is None else (image, saliency)


def drop_modalities(image: torch.Tensor, probability: float, uniform: torch.Tensor) -> torch.Tensor:
    """Slices (B, C, H, W) or scans (B, S, C, H, W) of which some lack modalities: those channels are 0.

    So a network learns to work with whatever a patient has. Half of the samples that lack something keep the first
    modality alone, the one that most people have; the others any set of modalities, each set as often as the next.

    Args:
        probability (`float`): of a sample to lack something.
        uniform (`torch.Tensor` of shape `(B,)`): a number in [0, 1) for each sample, which decides.
    """
    channels = image.shape[-3]
    sets = torch.arange(1, 2**channels, device=image.device)  # bit c: channel c is there
    half = probability / 2
    drawn = sets[((uniform - half) / max(half, 1e-9) * len(sets)).clamp(0, len(sets) - 1).long()]
    kept = torch.where(uniform < half, 1, torch.where(uniform < probability, drawn, 2**channels - 1))
    there = kept[:, None] >> torch.arange(channels, device=image.device) & 1  # [B,C]
    return image * there.to(image.dtype).view(len(image), *(1,) * (image.ndim - 4), channels, 1, 1)


def augment_uniforms(channels: int) -> int:
    """How many numbers `augment` takes for a sample: flip, 2 shift, 2 noise (strength, seed), 2 for each channel,
    rotation and zoom."""
    return 7 + 2 * channels


def turned(image: torch.Tensor, angle: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Slices (B, C, H, W) or scans (B, S, C, H, W) turned and magnified about their centre, bilinearly, 0 outside.

    Args:
        angle (`torch.Tensor` of shape `(B,)`): radians, clockwise as images are shown (rows downwards).
        scale (`torch.Tensor` of shape `(B,)`): factor of size.
    """
    stack = image.flatten(1, -3)  # slices and channels of a sample move alike
    height, width = stack.shape[-2:]
    cosine, sine, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros_like(angle)
    to_source = torch.stack(  # of coordinates that run from -1 to 1 along each side, whatever its length
        [cosine, sine * height / width, zero, -sine * width / height, cosine, zero], dim=1
    )
    grid = F.affine_grid(to_source.view(-1, 2, 3), list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid.to(stack.dtype), align_corners=False).view(image.shape)


def mirrored(uniforms: torch.Tensor) -> torch.Tensor:
    """Which samples (B,) `augment(..., flip=True, uniforms=uniforms)` mirrors."""
    return uniforms[:, 0] < 0.5


def flip_labels(labels: torch.Tensor, flipped: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Labels (B,) after a flip: where `flipped` (B,) is true, the classes named "left" and "right" change places.

    Args:
        labels (`torch.Tensor` of shape `(B,)`): class indices.
        flipped (`torch.Tensor` of shape `(B,)`): which samples were mirrored, see `mirrored`.
        names (sequence of `str`): the classes by index; without "left" and "right" nothing changes.
    """
    names = list(names)
    if ("left" in names) != ("right" in names):
        raise ValueError(f"`names` has only one of the classes 'left' and 'right', got {names}; a flip needs both.")
    if "left" not in names:
        return labels
    other = torch.arange(len(names), device=labels.device)
    other[names.index("left")], other[names.index("right")] = names.index("right"), names.index("left")
    return torch.where(flipped, other[labels], labels)
