"""Volumes to model slices and back (thesis Secs. 3.5 and 6.5): one recipe for data sets, models and detection.

There are three kinds of scan: skull-stripped MR in arbitrary units, head CT in Hounsfield units with its skull, and
lung CT in Hounsfield units. A volume arrives on its own voxel grid with its affine. Model slices are axial, from the
feet to the head, seen in radiological convention (row 0 anterior, column 0 the patient's right), resampled in the
plane to `pixel_spacing_mm` and padded or cropped to `image_size`. Nothing is interpolated between slices. The geometry
that comes back with the slices undoes all of it. `DifFuseProcessor` saves the recipe beside a model's weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from nibabel import affines, orientations

from ..errors import InputError
from ..io.case import check_hounsfield, check_intensities
from ..preprocessing.chest import CHEST_SHARE, TISSUE_HU, body_of, lung_share
from ..preprocessing.intracranial import inside_skull
from ..preprocessing.skull import skull_in
from ..preprocessing.volume import crop_to_head
from .slice_settings import CHEST, LESION_PROBABILITY, SliceSettings

BRATS_SLICES = 155  # axial slices of a BraTS volume, the length that `slice_margin` refers to
MAX_BORDER_SHARE = 0.5  # brain on the sides of the axial slices: skull-stripped scans have hardly any
MAX_BRAIN_OUTSIDE = 0.02  # share of the brain that may fall outside the model's field of view
ROUNDING = 3  # digits of a voxel; an affine in single precision, or an oblique one, is not more exact than that
STRIP_IT = "remove everything but the brain first, for example with HD-BET or SynthStrip"
AS_IT_IS = np.array([[0, 1], [1, 1], [2, 1]])  # the orientation transform that turns nothing


@dataclass(frozen=True)
class SliceGeometry:
    """How the slices of one volume lie on its voxel grid; made by `SliceRecipe.cut`.

    `rows` and `columns` are (start, step): row i of a model slice is centred on the native coordinate
    start + step * i along the anterior-posterior axis, columns likewise from right to left, in voxels.
    """

    shape: tuple[int, ...]  # native (X, Y, Z)
    to_lps: np.ndarray  # nibabel orientation transform from the native axes to left, posterior, superior
    from_lps: np.ndarray
    rows: tuple[float, float]
    columns: tuple[float, float]
    image_size: tuple[int, ...]  # (H, W)
    intensity_scale: np.ndarray  # (K,), model intensity = native intensity * scale + offset, from 0 to 1
    intensity_offset: np.ndarray  # (K,)
    tissue: np.ndarray  # native (X, Y, Z) bool, where a lesion can be: the brain, all inside the skull, or the body

    @property
    def lps_shape(self) -> tuple[int, int, int]:
        left, posterior, superior = (self.shape[int(axis)] for axis in np.argsort(self.to_lps[:, 0]))
        return left, posterior, superior

    def step_mm(self, affine: np.ndarray) -> float:
        """Distance of neighbouring slices in a volume of this affine."""
        axis = int(np.argsort(self.to_lps[:, 0])[2])
        return float(np.linalg.norm(affine[:3, axis]))

    def to_slices(self, volumes: np.ndarray) -> torch.Tensor:
        """Native volumes (K, X, Y, Z) to slices (S, K, H, W): area average when shrinking, linear when enlarging."""
        columns, rows, _ = self.lps_shape
        rows = _resampling_matrix(self.image_size[0], rows, *self.rows)
        columns = _resampling_matrix(self.image_size[1], columns, *self.columns)
        return rows @ _orient(volumes, self.to_lps) @ columns.T

    def to_volume(self, slices: torch.Tensor) -> np.ndarray:
        """Slices (S, K, H, W) to native volumes (K, X, Y, Z), 0 outside the model's field of view."""
        columns, rows, _ = self.lps_shape
        rows = _resampling_matrix(rows, self.image_size[0], -self.rows[0] / self.rows[1], 1 / self.rows[1])
        columns = _resampling_matrix(
            columns, self.image_size[1], -self.columns[0] / self.columns[1], 1 / self.columns[1]
        )
        planes = rows @ slices.float().cpu() @ columns.T  # (S, K, Y', X')
        planes = planes.permute(3, 2, 0, 1).numpy()
        volumes = orientations.apply_orientation(planes, self.from_lps)
        return np.ascontiguousarray(np.moveaxis(volumes, -1, 0))


@dataclass(frozen=True)
class SliceRecipe(SliceSettings):
    """How volumes become model slices, by the settings of `SliceSettings`."""

    def cut(
        self, volumes: np.ndarray, affine: np.ndarray, given: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, SliceGeometry]:
        """All axial slices of a scan, and the way back.

        Args:
            volumes (`np.ndarray` of shape `(K, X, Y, Z)`): one volume per modality on the native grid: skull-stripped,
                0 outside the brain; or in Hounsfield units.
            given (`Sequence[str]`, *optional*): the modality of each volume; all C of the model by default.
            affine (`np.ndarray` of shape `(4, 4)`): voxel to RAS+ millimetres. Oblique grids are read by their nearest
                axes.

        Returns:
            `torch.Tensor` of shape `(S, C, H, W)`: float32 in [0, 1], background exactly 0, S from the feet up.
            `SliceGeometry`: for `cut_labels`, and its `to_volume` is the way back; its intensities are those of the K
                volumes.

        Raises:
            InputError: a modality is missing that must not be, or the volumes are not skull-stripped, non-negative,
                finite scans, or not in Hounsfield units.
        """
        volumes, channels = np.asarray(volumes, dtype=np.float32), self.channels_of(given)
        if volumes.ndim != 4 or len(volumes) != len(channels):
            raise InputError(
                f"The model takes {len(channels)} three-dimensional volumes "
                f"({', '.join(self.modalities[channel] for channel in channels)}), got an array of shape "
                f"{volumes.shape}."
            )
        names = [self.modalities[channel] for channel in channels]
        geometry = self._place_ct(volumes[0], affine) if self.window_hu else self._place_mr(volumes, affine, names)
        shown = geometry.tissue if self.body_part == CHEST else 1
        slices = torch.zeros(geometry.lps_shape[2], len(self.modalities), *self.image_size)
        for channel, volume, scale, offset in zip(
            channels, volumes, geometry.intensity_scale, geometry.intensity_offset
        ):
            cut = geometry.to_slices((volume[None] * scale + offset).clip(0, 1) * shown)
            slices[:, channel] = cut[:, 0].clamp_(0, 1)
        return slices, geometry

    def cut_like(self, volumes: np.ndarray, geometry: SliceGeometry) -> torch.Tensor:
        """Slices (S, K, H, W) of other MR volumes (K, X, Y, Z) where a scan was cut, at its intensities."""
        scale = geometry.intensity_scale[:, None, None, None]
        return geometry.to_slices((np.asarray(volumes, np.float32) * scale).clip(0, 1)).clamp_(0, 1)

    def channels_of(self, given: Sequence[str] | None = None) -> list[int]:
        """Channels of the modalities of a scan; of all by default.

        Raises:
            InputError: one is missing that must not be, or is unknown.
        """
        given = self.modalities if given is None else given
        missing = [one for one in self.modalities if one not in (*given, *self.optional_modalities)]
        unknown = [one for one in given if one not in self.modalities]
        if missing or unknown or not given:
            wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown) or 'none of them'}"
            raise InputError(f"The model takes {', '.join(self.modalities)}, and the scan {wrong}.")
        return [self.modalities.index(one) for one in given]

    def usable(self, slices: torch.Tensor) -> torch.Tensor:
        """Indices of the slices (S, C, H, W) that the model is meant for: inside the margin and with enough brain."""
        foreground = (slices > 0).any(dim=1).float().mean(dim=(1, 2))  # (S,)
        margin = slices_in_margin(self.slice_margin, len(slices))
        index = torch.arange(len(slices))
        inside = (index >= margin) & (index < len(slices) - margin)
        return index[inside & (foreground >= self.min_foreground) & (foreground > 0)]

    def check_usable(self, slices: torch.Tensor, affine: np.ndarray) -> None:
        """`InputError` if no slice (S, C, H, W) of a scan is usable: nothing looked at is not nothing found."""
        if len(self.usable(slices)):
            return
        area = (slices > 0).any(dim=1).float().mean(dim=(1, 2))
        margin = slices_in_margin(self.slice_margin, len(slices))
        size = " x ".join(f"{mm:.3g}" for mm in affines.voxel_sizes(affine))
        raise InputError(
            f"None of the {len(slices)} axial slices can be looked at: at most {area.max():.1%} of one is "
            f"{self.shows} and the model needs {self.min_foreground:.1%}, {margin} slices from either end; check the "
            f"voxel size in the header ({size} mm) and that the scan shows the whole {self.shows}."
        )

    def processor_config(self) -> dict[str, Any]:
        """What `DifFuseProcessor.save_pretrained` writes into `preprocessor_config.json`, before any calibration."""
        return {
            "image_processor_type": "DifFuseProcessor",
            **{name: value for name, value in asdict(self).items() if value is not None},
            "false_positive_thresholds": {},
            "calibrations": {},
            "lesion_probability_threshold": LESION_PROBABILITY,
        }

    def _place_mr(self, volumes: np.ndarray, affine: np.ndarray, names: Sequence[str]) -> SliceGeometry:
        """Where the slices of skull-stripped volumes (K, X, Y, Z) lie, and how bright they are."""
        for modality, volume in zip(names, volumes):
            check_intensities(volume, f"Modality {modality}")
        scale = [self.reference_intensity / np.median(volume[volume > 0]) for volume in volumes]
        brain = (volumes > 0).any(axis=0)
        to_lps, spacing_mm = _axes(affine)
        turned = orientations.apply_orientation(brain, to_lps)
        if np.concatenate([turned[[0, -1]].ravel(), turned[:, [0, -1]].ravel()]).mean() > MAX_BORDER_SHARE:
            raise InputError(f"The scan is not skull-stripped: its slices are not surrounded by zeros; {STRIP_IT}.")
        for modality, volume in zip(names, volumes):
            if (why := skull_in(np.maximum(volume, 0), affine)) is not None:
                raise InputError(f"The scan is not skull-stripped: on {modality}, {why}; {STRIP_IT}.")
        return self._geometry(brain, turned, to_lps, spacing_mm, scale, np.zeros(len(scale)))

    def _place_ct(self, hounsfield: np.ndarray, affine: np.ndarray) -> SliceGeometry:
        """Where the slices of CT (X, Y, Z) lie: around the box of a head's bone and skin, or of the lungs."""
        assert self.window_hu is not None
        check_hounsfield(hounsfield, "The scan")
        to_lps, spacing_mm = _axes(affine)
        turned = orientations.apply_orientation(hounsfield, to_lps)  # (columns, rows, slices)
        planes = turned.transpose(2, 1, 0)
        body = body_of(planes, (spacing_mm[1], spacing_mm[0]))
        self._check_body_part(lung_share(planes, body))
        shown = np.zeros(turned.shape, bool)
        if self.body_part == CHEST:
            shown = (body & (planes < TISSUE_HU)).transpose(2, 1, 0)
        else:
            rows, columns = crop_to_head(planes, (spacing_mm[2], spacing_mm[1], spacing_mm[0]))
            shown[columns, rows] = True
        low, high = self.window_hu
        from_lps = orientations.ornt_transform(AS_IT_IS, to_lps)
        tissue = orientations.apply_orientation(body.transpose(2, 1, 0), from_lps)
        geometry = self._geometry(tissue, shown, to_lps, spacing_mm, [1 / (high - low)], [-low / (high - low)])
        if self.body_part == CHEST:
            return geometry
        inside = inside_skull(geometry.to_slices(hounsfield[None])[:, 0].numpy(), self.pixel_spacing_mm)
        tissue = geometry.to_volume(torch.from_numpy(inside)[:, None].float())[0] >= 0.5
        return replace(geometry, tissue=tissue)

    def _check_body_part(self, dark: float) -> None:
        """`InputError` if a body of which so much is as dark as lung or air is of the other kind of CT."""
        if (dark >= CHEST_SHARE) == (self.body_part == CHEST):
            return
        looks_like = "chest" if dark >= CHEST_SHARE else "head, or another part without lungs"
        raise InputError(
            f"The model takes {self.kind}, and this looks like CT of a {looks_like}: {dark:.1%} of the body is lung "
            f"or air, and of a chest at least {CHEST_SHARE:.0%} are; choose a model of that kind."
        )

    def _geometry(self, tissue, turned, to_lps, spacing_mm, intensity_scale, intensity_offset) -> SliceGeometry:
        """Place the model's field of view on what it has to show: `turned` (columns, rows, slices), bool."""
        brain, height, width = turned, *self.image_size
        what = "lungs do" if self.body_part == CHEST else f"{self.shows} does"
        columns = self._field_of_view(brain.any(axis=(1, 2)), width, spacing_mm[0])
        rows = self._field_of_view(brain.any(axis=(0, 2)), height, spacing_mm[1])
        seen = brain[_inside(columns, width, brain.shape[0])][:, _inside(rows, height, brain.shape[1])]
        if seen.sum() < (1 - MAX_BRAIN_OUTSIDE) * brain.sum():
            raise InputError(
                f"The {what} not fit into the model's field of view of {height * self.pixel_spacing_mm:g} x "
                f"{width * self.pixel_spacing_mm:g} mm; check the voxel size in the header "
                f"({spacing_mm[0]:g} x {spacing_mm[1]:g} mm in the plane)."
            )
        return SliceGeometry(
            shape=tissue.shape,
            to_lps=to_lps,
            from_lps=orientations.ornt_transform(AS_IT_IS, to_lps),
            rows=rows,
            columns=columns,
            image_size=self.image_size,
            intensity_scale=np.array(intensity_scale, np.float32),
            intensity_offset=np.array(intensity_offset, np.float32),
            tissue=tissue,
        )

    def _field_of_view(self, occupied, num_pixels, spacing_mm):
        """(start, step) along one axis, in voxels; `occupied` says which voxels of the axis hold brain."""
        step = self.pixel_spacing_mm / spacing_mm
        centre = (len(occupied) - 1) / 2
        if self.window_hu is not None or ceil(round(len(occupied) / step, ROUNDING)) > num_pixels:
            centre = np.flatnonzero(occupied)[[0, -1]].mean()
        edge = centre - step * num_pixels / 2 + 0.5
        edge = round(round(edge, ROUNDING)) - 0.5  # pixel edges on voxel edges: same sharpness for all
        return float(edge + step / 2), float(step)


def slices_in_margin(slice_margin: int, num_slices: int) -> int:
    """How many slices at either end of a scan its `slice_margin` leaves out."""
    return round(slice_margin * num_slices / BRATS_SLICES)


def cut_labels(labels: np.ndarray, geometry: SliceGeometry) -> torch.Tensor:
    """A label volume (X, Y, Z), lesion > 0, as slices (S, H, W) of uint8: 1 where lesion fills half the pixel."""
    lesion = geometry.to_slices((np.asarray(labels) > 0)[None].astype(np.float32))
    return (lesion[:, 0] >= 0.5).to(torch.uint8)


def _axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the native axes turn to left, posterior, superior, and the voxel's size along these (mm).

    Raises:
        InputError: the affine is singular.
    """
    native = orientations.io_orientation(affine)
    spacing_mm = affines.voxel_sizes(affine)
    if np.isnan(native).any() or not np.isfinite(spacing_mm).all() or spacing_mm.min() <= 0:
        raise InputError("The affine of the scan is singular: its header does not say how large a voxel is.")
    to_lps = orientations.ornt_transform(native, orientations.axcodes2ornt("LPS"))
    return to_lps, spacing_mm[np.argsort(to_lps[:, 0])]


def _orient(volumes, transform):
    """(K, X, Y, Z) on the native axes to (S, K, H, W) seen in radiological convention."""
    oriented = orientations.apply_orientation(np.moveaxis(volumes, 0, -1), transform)
    return torch.from_numpy(np.ascontiguousarray(oriented.transpose(2, 3, 1, 0), dtype=np.float32))


def _inside(field_of_view, num_pixels, num_voxels):
    """Which voxels of an axis lie inside the field of view."""
    start, step = field_of_view
    position = (np.arange(num_voxels) - start) / step
    return (position > -0.5) & (position < num_pixels - 0.5)


def _resampling_matrix(num_outputs: int, num_inputs: int, start: float, step: float) -> torch.Tensor:
    """Weights (num_outputs, num_inputs) that read a line of samples at start, start + step, ...

    An output of width step averages the inputs it covers (step > 1), or interpolates linearly (step <= 1): both are
    the overlap of a unit box with one of width max(step, 1). The line is 0 beyond its ends.
    """
    width = max(step, 1.0)
    centres = start + step * torch.arange(num_outputs, dtype=torch.float64)
    distance = (centres[:, None] - torch.arange(num_inputs, dtype=torch.float64)).abs()
    return (((width + 1) / 2 - distance).clamp(0, 1) / width).float()
