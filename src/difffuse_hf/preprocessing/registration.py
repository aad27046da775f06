"""Registration of a brain template to a head CT (thesis Sec. 3.4.4): only the transform is kept.

    scan -> brain mask at 2 mm -> coarse search over poses at 8 mm -> similarity, then affine fit at 4 mm

The template is a skull-stripped T1 image, so the CT is stripped first: without that step no optimiser finds the head.
Coordinates of a scan are millimetres along its own axes (column to the patient's left, row to the back, slice up) from
the centre of its first voxel, so that a tilted gantry does not count as a tilted head. Template coordinates are LPS.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..errors import InputError
from .assemble import CTVolume
from .shapes import depth, label_pieces

TEMPLATE_BORDER_YEARS = 72  # 65-70 year template up to here, 75-80 year template above (thesis Sec. 3.4.4)
BRAIN_HU = (0, 80)  # brain, blood and fluid, the window in which CT and T1 are compared
BONE_HU, SOFT_HU = 150, (0, 90)
COARSE_ANGLES = (-30, -15, 0, 15, 30)  # degrees about x, y, z; at most two of them differ from 0
TURN_MARGIN = 1.08  # a head turned by 180 degrees must score this much better than an upright one
NMI_BINS, COARSE_BINS = 24, 16


@dataclass(frozen=True)
class Template:
    """A skull-stripped template at 4 mm: `image`, `mask` in [0, 1] (both float32), `centre` of its brain in mm."""

    name: str
    image: sitk.Image
    mask: sitk.Image
    centre: np.ndarray
    brain_ml: float


@dataclass(frozen=True)
class Registration:
    """Affine map of template to scan, y = `matrix` x + `translation` (mm), and how well it fits.

    `nmi` (H(a) + H(b)) / H(a, b) and `dice` compare the scan's brain with the warped template at 4 mm; `centre` is the
    centre of the scan's brain, `brain_ml` its volume.
    """

    matrix: np.ndarray
    translation: np.ndarray
    centre: np.ndarray
    brain_ml: float
    nmi: float
    dice: float

    @property
    def determinant(self) -> float:
        return float(np.linalg.det(self.matrix))

    @property
    def singular_values(self) -> np.ndarray:
        """How far the template is stretched along its principal axes, largest first."""
        return np.linalg.svd(self.matrix, compute_uv=False)

    @property
    def rotation_deg(self) -> float:
        """Angle between head and scan axes: the rotation of the polar decomposition, 0 to 180."""
        return rotation_angle(self.matrix)


def rotation_angle(matrix: np.ndarray) -> float:
    """Angle in degrees of the rotation nearest to `matrix` (3, 3): R = U V^T of its singular value decomposition."""
    u, _, vt = np.linalg.svd(matrix)
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


def choose_template(age_years: float | None, young, old, border: float = TEMPLATE_BORDER_YEARS) -> str | Path | None:
    """The path of the template for a patient's age; the younger one where the age is unknown."""
    return old if age_years is not None and age_years > border else young


@lru_cache(maxsize=4)
def load_template(path: str | Path | None = None) -> Template:
    """Read a skull-stripped T1 template (any NIfTI); by default ICBM152 2009a (Fonov et al. 2011), shipped by nilearn.

    The plane x = 0 of the template's coordinates has to be its midline, as in MNI space.
    """
    name = "icbm152" if path is None else Path(path).name.removesuffix(".gz").removesuffix(".nii")
    if path is None:
        nilearn = find_spec("nilearn")  # found, not imported: that takes 1 s and 200 MB
        if nilearn is None or nilearn.origin is None:
            raise InputError("The ICBM152 template is missing; install it: pip install 'difffuse_hf[preprocess]'.")
        folder = Path(nilearn.origin).parent / "datasets" / "data"
        path = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    try:
        image = _shrink(sitk.ReadImage(str(path), sitk.sitkFloat32), 2.0)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as a template; give a skull-stripped NIfTI volume.") from error
    mask = image > 0.1 * float(np.percentile(sitk.GetArrayViewFromImage(image), 99))
    image, mask = _shrink(image, 4.0), _shrink(sitk.Cast(mask, sitk.sitkFloat32), 4.0)
    inside = sitk.GetArrayViewFromImage(mask) > 0.5
    return Template(name, image, mask, _centre(mask, inside), _volume_ml(mask, inside))


def brain_mask(scan: sitk.Image) -> np.ndarray:
    """Brain of a head CT in HU at 2 mm: soft tissue shut in by bone; bool of shape (Z, Y, X)."""
    hounsfield = sitk.GetArrayViewFromImage(scan)
    bone = hounsfield > BONE_HU
    sides = np.zeros(bone.shape, np.uint8)  # in how many of the six directions there is bone
    for axis in range(3):
        sides += np.logical_or.accumulate(bone, axis)
        sides += np.flip(np.logical_or.accumulate(np.flip(bone, axis), axis), axis)
    soft = (hounsfield > SOFT_HU[0]) & (hounsfield < SOFT_HU[1]) & (sides >= 4)
    box = _bounding_box(soft, margin=0)
    if box is None:
        return soft
    mask = np.zeros_like(soft)
    soft = soft[box]
    pieces, count = label_pieces(depth(soft, 2.0) > 6)  # neck and orbits hang on the brain by thin bridges
    if count == 0:
        return mask
    core = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    brain = soft & (depth(~core, 2.0) <= 8)
    closed = depth(depth(~np.pad(brain, 3), 2.0) <= 4, 2.0)[3:-3, 3:-3, 3:-3] > 4
    mask[box] = ndimage.binary_fill_holes(closed | brain)
    return mask


def register(volume: CTVolume, template: Template) -> Registration | None:
    """Fit `template` to the brain in `volume`; None where no soft tissue is enclosed by bone.

    A second thread gains nothing at 4 mm, and fits repeat exactly only where SimpleITK is told to use one.
    """
    scan = volume.to_sitk()
    scan.SetOrigin((0, 0, 0))
    scan.SetDirection(np.eye(3).ravel())
    scan = _resample(_shrink(scan, 2.0), 2.0)
    mask = brain_mask(scan)
    box = _bounding_box(mask, margin=6)
    if box is None:
        return None
    brain_ml = _volume_ml(scan, mask)
    centre = _centre(scan, mask)
    window = np.where(mask, np.clip(sitk.GetArrayViewFromImage(scan), *BRAIN_HU), 0).astype(np.float32)
    brain, mask = (sitk.BinShrink(_crop(scan, part.astype(np.float32), box), (2, 2, 2)) for part in (window, mask))

    to_template = _coarse_search(brain, centre, brain_ml, template)
    to_template = _fit_similarity(brain, template.image, to_template, centre)
    to_template = _fit_affine(brain, template.image, to_template, centre)
    nmi, dice = _agreement(brain, mask, template, to_template)
    matrix = np.linalg.inv(np.reshape(to_template.GetMatrix(), (3, 3)))
    translation = -matrix @ to_template.TransformPoint((0.0, 0.0, 0.0))
    return Registration(matrix, translation, centre, brain_ml, nmi, dice)


def midline_plane(registration: Registration, volume: CTVolume) -> tuple[float, float, float]:
    """(a, b, c) of the template's plane x = 0 in voxels of the scan: column = a + b slice + c row.

    A column alone misses the turn of the head about the vertical axis, which is most of what a midline is needed for.
    """
    normal = np.linalg.inv(registration.matrix)[0]  # gradient of the template's x over the scan
    slice_mm, row_mm, column_mm = volume.spacing_mm
    scale = normal[0] * column_mm
    return normal @ registration.translation / scale, -normal[2] * slice_mm / scale, -normal[1] * row_mm / scale


def _coarse_search(brain: sitk.Image, centre: np.ndarray, brain_ml: float, template: Template) -> sitk.AffineTransform:
    """The best of 61 tilts of an upright head and of heads turned by 180 degrees about x, y or z, at 8 mm.

    Centres of mass are aligned and volumes made equal; the score is the mutual information of nearest neighbours.
    """
    scale = np.clip((template.brain_ml / brain_ml) ** (1 / 3), 1 / 1.2, 1 / 0.85)
    fixed, moving = (sitk.BinShrink(image, (2, 2, 2)) for image in (brain, template.image))
    values = _quantise(sitk.GetArrayViewFromImage(fixed), COARSE_BINS).ravel() * COARSE_BINS
    indices = np.indices(fixed.GetSize()[::-1]).reshape(3, -1)[::-1].astype(np.float32)
    points = indices * np.float32(fixed.GetSpacing()[0]) + (np.array(fixed.GetOrigin()) - centre)[:, None]
    lookup = np.pad(_quantise(sitk.GetArrayViewFromImage(moving), COARSE_BINS), 1)  # zeros all round
    size = np.array(lookup.shape)[::-1, None]
    to_index = np.linalg.inv(np.reshape(moving.GetDirection(), (3, 3)) * moving.GetSpacing())
    offset = to_index @ (template.centre - moving.GetOrigin()) + 1.5  # 1 for the padding, 0.5 to round

    def score(rotation):
        voxel = (to_index @ rotation * scale).astype(np.float32) @ points + offset[:, None].astype(np.float32)
        x, y, z = np.clip(voxel.astype(np.int32), 0, size - 1)
        joint = np.bincount(values + lookup[z, y, x], minlength=COARSE_BINS**2).reshape(COARSE_BINS, -1)
        joint = joint / joint.sum()
        return _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint)

    angles = [a for a in product(COARSE_ANGLES, repeat=3) if np.count_nonzero(a) <= 2]
    tilts = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    turns = [np.diag(axis) for axis in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    scores = np.array([[score(turn @ tilt) for tilt in tilts] for turn in turns])
    scores[0] *= TURN_MARGIN
    turn, tilt = np.unravel_index(scores.argmax(), scores.shape)
    start = sitk.AffineTransform(3)
    start.SetMatrix((turns[turn] @ tilts[tilt] * scale).ravel())
    start.SetCenter(centre)
    start.SetTranslation(template.centre - centre)
    return start


def _fit_similarity(
    brain: sitk.Image, template: sitk.Image, start: sitk.AffineTransform, centre: np.ndarray
) -> sitk.AffineTransform:
    method = _metric()
    method.SetOptimizerAsGradientDescent(1.0, 60, 1e-5, 10, sitk.ImageRegistrationMethod.EachIteration)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([4.0])
    method.SetMovingInitialTransform(start)  # so that the versor starts at 0 also for a head turned by 180 degrees
    change = sitk.Similarity3DTransform()
    change.SetCenter(centre)
    method.SetInitialTransform(change)
    method.Execute(brain, template)
    return _chain(start, change, centre)


def _fit_affine(
    brain: sitk.Image, template: sitk.Image, start: sitk.AffineTransform, centre: np.ndarray
) -> sitk.AffineTransform:
    method = _metric()
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-2, 60, 0.5, 1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start)
    method.Execute(brain, template)
    return start


def _metric() -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _chain(outer: sitk.AffineTransform, inner: sitk.Similarity3DTransform, centre: np.ndarray) -> sitk.AffineTransform:
    """x -> outer(inner(x)) as one affine transform about `centre`."""
    chained = sitk.AffineTransform(3)
    chained.SetMatrix((np.reshape(outer.GetMatrix(), (3, 3)) @ np.reshape(inner.GetMatrix(), (3, 3))).ravel())
    chained.SetCenter(centre)
    chained.SetTranslation(np.subtract(outer.TransformPoint(inner.TransformPoint(centre)), centre))
    return chained


def _agreement(brain, mask, template: Template, to_template) -> tuple[float, float]:
    """Normalised mutual information and Dice of the scan's brain and the warped template, in the box of the brain."""
    warped, warped_mask = (
        sitk.GetArrayFromImage(sitk.Resample(image, brain, to_template, sitk.sitkLinear, 0.0))
        for image in (template.image, template.mask)
    )
    mask, warped_mask = sitk.GetArrayViewFromImage(mask) > 0.5, warped_mask > 0.5
    pairs = _quantise(sitk.GetArrayViewFromImage(brain), NMI_BINS) * NMI_BINS + _quantise(warped, NMI_BINS)
    joint = np.bincount(pairs.ravel(), minlength=NMI_BINS**2).reshape(NMI_BINS, -1) / pairs.size
    nmi = (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / _entropy(joint)
    return float(nmi), float(2 * (mask & warped_mask).sum() / (mask.sum() + warped_mask.sum()))


def _quantise(image: np.ndarray, bins: int) -> np.ndarray:
    return (image * ((bins - 1e-3) / max(float(image.max()), 1e-6))).astype(np.int32)


def _entropy(probability: np.ndarray) -> float:
    probability = probability[probability > 0]
    return float(-(probability * np.log(probability)).sum())


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    box = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    return box and tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box)


def _crop(scan: sitk.Image, values: np.ndarray, box: tuple[slice, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(values[box])
    image.SetSpacing(scan.GetSpacing())
    image.SetOrigin(scan.TransformIndexToPhysicalPoint([part.start for part in reversed(box)]))
    return image


def _shrink(image: sitk.Image, size_mm: float) -> sitk.Image:
    """Average whole blocks of voxels, up to about `size_mm`."""
    return sitk.BinShrink(image, [max(1, round(size_mm / spacing)) for spacing in image.GetSpacing()])


def _resample(image: sitk.Image, size_mm: float) -> sitk.Image:
    """Linear interpolation to cubic voxels, -1024 HU outside."""
    size = [int(np.ceil(n * spacing / size_mm)) for n, spacing in zip(image.GetSize(), image.GetSpacing())]
    corner, spacing = image.GetOrigin(), (size_mm,) * 3
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, corner, spacing, image.GetDirection(), -1024.0
    )


def _centre(image: sitk.Image, inside: np.ndarray) -> np.ndarray:
    """Centre of mass of a mask (Z, Y, X) on the grid of `image`, in its coordinates."""
    index = np.mean(np.nonzero(inside), axis=1)[::-1]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _volume_ml(image: sitk.Image, inside: np.ndarray) -> float:
    return float(inside.sum() * np.prod(image.GetSpacing()) / 1000)
