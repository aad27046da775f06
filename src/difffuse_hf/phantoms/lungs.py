"""What fills synthetic lungs: vessels and bronchi that branch at random, and the opacities of viral pneumonia.

Severity is the share of the lungs that opacities take, in the categories of MosMedData: CT-0 none, CT-1 below 25 %,
CT-2 25-50 %, CT-3 50-75 %, CT-4 above. Their looks and places (ground glass, crazy paving, consolidation; both lungs,
under the pleura, at the base and the back) are textbook ones; the figures are our choice.
"""

import numpy as np
from scipy import ndimage

from .fields import smooth_field

INVOLVEMENT = ((0.0, 0.0), (0.03, 0.23), (0.27, 0.48), (0.52, 0.73), (0.77, 0.92))  # share of the lungs, CT-0..CT-4
CONSOLIDATED = ((0.0, 0.0), (0.0, 0.1), (0.03, 0.2), (0.12, 0.32), (0.22, 0.45))  # share of the opacities
GROUND_GLASS_HU, CONSOLIDATION_HU = (-700.0, -400.0), (-50.0, 50.0)
PAVING_HU = 190.0  # thickened septa above the ground glass around them


def grow_tree(rng: np.random.Generator, targets: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A tree that supplies all targets: each joins the nearest node that is closer to the root.

    Radii follow Murray's law (the cubes of the branches add up), from 0.5 mm at the ends.

    Args:
        targets (N, 3), root (3,): points in mm.

    Returns:
        segments (M, 2, 3) in mm, parents first, and their radii (M,) in mm.
    """
    order = np.argsort(((targets - root) ** 2).sum(1))
    nodes = np.concatenate([root[None], targets[order]]).astype(np.float32)
    reach = np.sqrt(((nodes - root) ** 2).sum(1))
    parents = np.zeros(len(nodes), int)
    for i in range(1, len(nodes)):
        gap = np.sqrt(((nodes[:i] - nodes[i]) ** 2).sum(1))
        parents[i] = np.argmin(gap + 0.35 * (reach[:i] + gap - reach[i]))  # a detour costs
    flow = np.full(len(nodes), 0.5**3)
    for i in range(len(nodes) - 1, 0, -1):
        flow[parents[i]] += flow[i]
    middle = (nodes[1:] + nodes[parents[1:]]) / 2  # branches are not straight
    length = np.linalg.norm(nodes[1:] - nodes[parents[1:]], axis=1, keepdims=True)
    middle += (0.1 * length * rng.standard_normal(middle.shape)).astype(np.float32)
    halves = [np.stack([nodes[parents[1:]], middle], 1), np.stack([middle, nodes[1:]], 1)]
    return np.concatenate(halves), np.tile(np.cbrt(flow[1:]), 2)


def paint_tubes(image: np.ndarray, segments, radii, value: float, pixel_mm: float, inside: np.ndarray) -> None:
    """Draw tubes into a slice at height 0, in place, with soft edges and only where `inside` (H, W) is 1.

    Args:
        segments (M, 2, 3): x, y in pixels and z in mm.
        radii (M,): in mm.
    """
    rows, columns = image.shape
    margin = radii + 0.6
    near = (segments[..., 2].min(1) < margin) & (segments[..., 2].max(1) > -margin)
    segments, radii, margin = segments[near], radii[near], margin[near]
    start, step = segments[:, 0], segments[:, 1] - segments[:, 0]
    for (a, d), radius, reach in zip(zip(start, step), radii.tolist(), margin.tolist()):
        # the part of the axis that is near the slice
        rise = d[2] if abs(d[2]) > 1e-6 else 1e-6
        low, high = sorted(((-reach - a[2]) / rise, (reach - a[2]) / rise))
        low, high = max(low, 0.0), min(high, 1.0)
        if low >= high:
            continue
        p, q = a + low * d, a + high * d
        pad = reach / pixel_mm + 1
        left, right = int(max(min(p[0], q[0]) - pad, 0)), int(min(max(p[0], q[0]) + pad + 2, columns))
        top, bottom = int(max(min(p[1], q[1]) - pad, 0)), int(min(max(p[1], q[1]) + pad + 2, rows))
        if left >= right or top >= bottom:
            continue
        u = (np.arange(left, right, dtype=np.float32) - a[0])[None] * pixel_mm
        v = (np.arange(top, bottom, dtype=np.float32) - a[1])[:, None] * pixel_mm
        du, dv = d[0] * pixel_mm, d[1] * pixel_mm
        t = np.clip((u * du + v * dv - a[2] * d[2]) / (du * du + dv * dv + d[2] ** 2 + 1e-6), 0, 1)
        distance = np.sqrt((u - t * du) ** 2 + (v - t * dv) ** 2 + (a[2] + t * d[2]) ** 2)
        weight = np.clip((radius - distance) / pixel_mm + 0.5, 0, 1) * inside[top:bottom, left:right]
        image[top:bottom, left:right] += weight * (value - image[top:bottom, left:right])


class Opacities:
    """Which parts of the lungs are opaque, and how: drawn on a coarse lattice, painted on the pixels of the slices.

    Args:
        severity (`int`): 1-4.
        lung (`bool`, X, Y, Z): both lungs on the lattice, x to the left, y to the back, z up.
        lattice_mm: its steps.
    """

    def __init__(self, rng: np.random.Generator, severity: int, lung: np.ndarray, lattice_mm: tuple[float, ...]):
        self.rng = rng
        self.involvement = rng.uniform(*INVOLVEMENT[severity])
        self.consolidated = rng.uniform(*CONSOLIDATED[severity])
        self.ground_glass = rng.uniform(*GROUND_GLASS_HU)
        depth = np.asarray(ndimage.distance_transform_edt(lung, sampling=lattice_mm))
        x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in lung.shape)
        patches = smooth_field(rng, lung.shape, 5) + 0.7 * smooth_field(rng, lung.shape, 2.6)
        affinity = rng.uniform(0.8, 1.3) * patches
        affinity += rng.uniform(1.0, 2.2) * np.exp(-depth / 14)  # under the pleura
        affinity += rng.uniform(0.5, 1.5) * y[:, None] - rng.uniform(0.3, 1.1) * z  # at the back and the base
        affinity += rng.normal(0, 0.25) * np.sign(x)[:, None, None]  # one side more than the other
        self.affinity = affinity.astype(np.float32)
        self.density = self.affinity + smooth_field(rng, lung.shape, 4)  # consolidates where it is high
        self.paving = smooth_field(rng, lung.shape, 5)
        self.tone = 60 * smooth_field(rng, lung.shape, 4)

    def paint(
        self, hu: np.ndarray, lung: np.ndarray, lumen: np.ndarray, enlarge: np.ndarray, share: float = 1.0
    ) -> np.ndarray:
        """Paint them into `hu` (S, H, W), in place; returns their mask. Vessels stay, and so does air in bronchi.

        Args:
            lung, lumen (`bool`, S, H, W): the lungs, and the air in their bronchi.
            enlarge (H, lattice): from the lattice to the pixels of a slice.
            share (`float`): of the density that they add.
        """
        weights = {}

        def fine(field, k):
            return enlarge @ field[:, :, k].T @ enlarge.T

        def ripples(spacing):  # a smooth field of one slice
            knots = hu.shape[1] // spacing
            if spacing not in weights:
                weights[spacing] = ndimage.zoom(np.eye(knots, dtype=np.float32), (hu.shape[1] / knots, 1), order=3)
            return weights[spacing] @ self.rng.standard_normal((knots, knots), np.float32) @ weights[spacing].T

        affinity = [fine(self.affinity, k) + 0.16 * ripples(9) + 0.1 * ripples(22) for k in range(len(lung))]
        cut = np.quantile(np.concatenate([a[inside] for a, inside in zip(affinity, lung)]), 1 - self.involvement)
        mask = lung & ~lumen & np.stack([a > cut for a in affinity])
        density = [fine(self.density, k) + 0.25 * ripples(9) for k in range(len(lung))]
        dense = np.quantile(np.concatenate([d[inside] for d, inside in zip(density, mask)]), 1 - self.consolidated)
        solid = self.rng.uniform(*CONSOLIDATION_HU)
        for k in np.flatnonzero(mask.any(axis=(1, 2))):
            target = self.ground_glass + fine(self.tone, k) + 25 * ripples(5)
            net = np.clip(1.6 - np.abs(ripples(10)) * 9, 0, 1) * np.clip(fine(self.paving, k), 0, 1)
            target += PAVING_HU * net  # crazy paving
            strength = 0.35 + 0.65 * np.clip((affinity[k] - cut) / 0.45, 0, 1)
            firm = np.clip((density[k] - dense) / 0.8 + 0.5, 0, 1)
            lift = strength * np.maximum(target - hu[k], 0)
            lift += firm * np.maximum(solid + 0.5 * fine(self.tone, k) - hu[k] - lift, 0)
            hu[k] += np.where(mask[k], share * lift, 0)
        return mask
