"""The glioma phantom computes in boxes what matters there; computed in whole volumes, the bits are the same."""

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from difffuse_hf.errors import InputError
from difffuse_hf.phantoms.anatomy import Anatomy, Tissue, load_anatomy
from difffuse_hf.phantoms.brats2021 import CONTRAST
from difffuse_hf.phantoms.common import deform, draw_tissue, thick_slices, ventricle_caps
from difffuse_hf.phantoms.fields import smooth_field
from difffuse_hf.phantoms.glioma import BRIGHTNESS, ENHANCING, NECROTIC, OEDEMA, GliomaPlan, grow_glioma, paint_glioma
from difffuse_hf.phantoms.regions import blurred, box_around, gaussian_inside, grown
from difffuse_hf.preprocessing.shapes import depth, largest_piece

SHAPE = (52, 60, 47)
NUCLEI = {(10, 49): (11, -19, 7), (11, 50): (13, 10, 10), (12, 51): (25, 1, 0)}  # MNI mm, of the right one's x


def brain(shape=SHAPE):
    """White matter with a ventricle, in cortex, in fluid."""
    middle = (np.array(shape) - 1) / 2
    radius = np.sqrt((((np.indices(shape).T - middle) / middle) ** 2).sum(-1)).T
    tissue = np.select(
        [radius < 0.2, radius < 0.6, radius < 0.8, radius < 0.9],
        [Tissue.VENTRICLE, Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.SULCAL_CSF],
        Tissue.OUTSIDE,
    )
    return tissue.astype(np.uint8)


@pytest.fixture
def blobs():
    return ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((40, 33, 37)), 3) > 0.05


@pytest.fixture
def plan():
    return GliomaPlan(
        centre=np.array([33, 36, 25], np.float32),
        radius_mm=9.0,
        core_fraction=0.6,
        push_mm=1.5,
        severity=0.8,
        enhances=True,
        midline=np.float64(25.5),
    )


@pytest.mark.parametrize("squared_radius", [1, 6, 15, 16, 25, 36])
def test_a_mask_grown_by_a_ball_is_where_the_distance_to_it_is_at_most_the_radius(blobs, squared_radius):
    squares = np.rint(depth(~blobs) ** 2)
    assert np.array_equal(grown(blobs, squared_radius), squares <= squared_radius)


def test_gaussian_filters_of_a_box_are_those_of_the_whole_volume(blobs):
    image = np.random.default_rng(2).random(blobs.shape, np.float32)
    box = (slice(0, 9), slice(12, 30), slice(20, 37))
    assert np.array_equal(gaussian_inside(image, 1.5, box), ndimage.gaussian_filter(image, 1.5)[box])
    blobs[:, :12] = blobs[:, 20:] = blobs[15:] = False
    assert blobs.any()
    assert np.array_equal(blurred(blobs, 0.8), ndimage.gaussian_filter(blobs.astype(np.float32), 0.8))
    assert not blurred(np.zeros_like(blobs), 0.8).any()


def test_a_field_in_a_box_is_a_part_of_the_field():
    box = (slice(3, 20), slice(0, 11), slice(30, 47))
    part, whole = (smooth_field(np.random.default_rng(3), SHAPE, 7, *where) for where in ([box], []))
    assert np.array_equal(part, whole[box])


def test_an_anatomy_is_read_through_its_deformation_as_all_voxels_at_once_would_be(plan):
    anatomy = Anatomy("ball", brain((48, 52, 46))[6:-6, 6:-6, 6:-6], np.array([20.0, 21.0, 19.0]), np.eye(3))
    box = tuple(slice(first, first + n) for first, n in zip((5, 0, 2), SHAPE))
    deformation = deform(np.random.default_rng(4), anatomy, (31.0, 30.0, 25.0), box)
    mesh = np.ix_(*deformation.axes)
    points = np.stack(np.broadcast_arrays(*mesh)) + deformation.warp - plan.displacement(mesh)
    points -= deformation.origin[:, None, None, None].astype(np.float32)
    flat = deformation.to_anatomy @ points.reshape(3, -1) + anatomy.origin[:, None].astype(np.float32)
    x, y, z = flat = np.rint(flat).astype(int)
    inside = np.all((flat >= 0) & (flat < np.array(anatomy.tissue.shape)[:, None]), axis=0)
    expected = np.where(inside, anatomy.tissue[x * inside, y * inside, z * inside], 0).reshape(SHAPE)
    found = deformation.read(plan.displacement)
    assert 0 < (found > 0).mean() < 1 and not inside.all()
    assert np.array_equal(found, expected)
    assert np.array_equal(deformation.read(step=2), deformation.read()[::2, ::2, ::2])


def test_a_tumour_grows_in_its_box_as_it_would_in_the_whole_volume(plan):
    tissue, axes = brain(), tuple(np.arange(n, dtype=np.float32) for n in SHAPE)
    found = grow_glioma(np.random.default_rng(5), plan, tissue, axes)

    rng = np.random.default_rng(5)
    squeeze = rng.uniform(0.75, 1.3, 3)
    squeeze = squeeze / np.cbrt(squeeze.prod())
    offset = np.stack(np.meshgrid(*axes, indexing="ij")) - plan.centre[:, None, None, None]
    distance = np.sqrt(((offset * squeeze[:, None, None, None]) ** 2).sum(0)) / plan.radius_mm
    outline = distance + 0.20 * smooth_field(rng, SHAPE, 14) + 0.07 * smooth_field(rng, SHAPE, 7)
    outline += 0.4 * (axes[0] < plan.midline)[:, None, None]  # the tumour is on the other side
    cortical = 0.5 + 0.35 * rng.random()
    reach = np.where(tissue > 0, np.float32(cortical), np.float32(0))
    reach[tissue == Tissue.WHITE_MATTER], reach[tissue == Tissue.VENTRICLE] = 1, 0
    room = (tissue > 0) & (tissue != Tissue.VENTRICLE)
    inside = (outline < ndimage.gaussian_filter(reach, 1.5)).astype(np.float32)
    expected = OEDEMA * largest_piece((ndimage.gaussian_filter(inside, 1.2) > 0.5) & room)
    core = largest_piece((distance / plan.core_fraction + 0.25 * smooth_field(rng, SHAPE, 9) < 1) & room)
    thickness = rng.uniform(1.5, 5) * (1 + 0.5 * smooth_field(rng, SHAPE, 7))
    expected[core] = np.where(depth(core) <= thickness, ENHANCING, NECROTIC)[core]
    assert {OEDEMA, ENHANCING} <= set(np.unique(expected))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("modality", ["flair", "t1ce"])
def test_a_tumour_is_painted_in_its_box_as_it_would_be_in_the_whole_volume(plan, modality):
    tissue, axes = brain(), tuple(np.arange(n, dtype=np.float32) for n in SHAPE)
    segmentation = grow_glioma(np.random.default_rng(6), plan, tissue, axes)
    image = 100 * np.random.default_rng(7).random(SHAPE, np.float32)
    found = paint_glioma(np.random.default_rng(8), plan, segmentation, image, modality, 100.0)

    rng, inside = np.random.default_rng(8), segmentation > 0
    target = np.zeros(SHAPE, np.float32)
    for part, bounds in BRIGHTNESS[modality].items():
        target[segmentation == part] = 100.0 * (1 + plan.severity * (rng.uniform(*bounds) - 1))
    target = ndimage.gaussian_filter(target, 0.8) / np.maximum(ndimage.gaussian_filter(inside * 1.0, 0.8), 1e-3)
    target *= 1 + 0.07 * smooth_field(rng, SHAPE, 5) + 0.05 * smooth_field(rng, SHAPE, 12)
    target += 0.25 * 100.0 * np.clip(image / 100.0 - 1, -0.5, 0.5)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), 1.6)
    painted = image + np.clip((weight - 0.35) / 0.45, 0.12, 1) * (target - image)
    assert inside.any() and np.array_equal(found, np.where(inside, painted, image).astype(np.float32))


def test_tissue_is_drawn_in_its_box_as_it_would_be_in_the_whole_volume():
    tissue = np.pad(brain(), ((5, 8), (0, 9), (11, 6)))
    everywhere = tuple(slice(0, n) for n in tissue.shape)
    images = [
        draw_tissue(np.random.default_rng(9), tissue, CONTRAST["flair"], box, ventricle_caps(tissue, box))[0]
        for box in (box_around(tissue > 0, 4), everywhere)
    ]
    assert np.array_equal(*images) and np.array_equal(images[0] > 0, tissue > 0)


@pytest.mark.parametrize("thickness", [2, 3, 5])
def test_thick_slices_are_means_and_straight_lines_between_them(thickness):
    image = np.random.default_rng(10).random((7, 6, 31), np.float32)
    count = 31 // thickness
    means = image[:, :, : count * thickness].reshape(7, 6, count, thickness).mean(3)
    middles = np.arange(count) * thickness + (thickness - 1) / 2
    expected = np.apply_along_axis(lambda line: np.interp(np.arange(31), middles, line), 2, means)
    assert np.allclose(thick_slices(image, thickness), expected, atol=1e-6)


def label_map(path):
    """A head at half size in FreeSurfer numbers: brain with nuclei in their places, fluid and skull around it."""
    shape = np.array((76, 86, 80))
    x, y, z = mni = np.indices(shape) - shape[:, None, None, None] / 2
    radius = np.sqrt(((mni / np.array([28, 34, 30])[:, None, None, None]) ** 2).sum(0))
    labels = np.select([radius < 0.75, radius < 1, radius < 1.3, radius < 1.4], [2, 3, 24, 515], 0).astype(np.int32)
    for (left, right), (a, b, c) in NUCLEI.items():
        for number, side in ((left, -1), (right, 1)):
            labels[(x - side * a / 2) ** 2 + (y - b / 2) ** 2 + (z - c / 2) ** 2 < 9] = number
    labels[:, 30:33, 50:] = 24  # a cleft, too narrow to be outside
    image = nibabel.Nifti1Image(labels, np.eye(4))
    nibabel.save(image.as_reoriented(np.array([[0, -1], [2, 1], [1, 1]])), path)
    return labels[::-1, ::-1]


def test_a_label_map_is_stripped_as_by_distances_of_the_whole_head_and_aligned_by_its_nuclei(tmp_path):
    labels = label_map(tmp_path / "head.nii.gz")
    anatomy = load_anatomy(tmp_path / "head.nii.gz")

    tissue = np.select([labels == n for n in (2, 3, 24)], [Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.SULCAL_CSF], 0)
    for kind, pair in zip((Tissue.THALAMUS, Tissue.CAUDATE, Tissue.PUTAMEN), NUCLEI):
        tissue[np.isin(labels, pair)] = kind
    solid = (tissue > 0) & (tissue != Tissue.SULCAL_CSF)
    outline = depth(depth(~largest_piece(solid)) <= 6) > 5
    expected = np.where(depth(~(depth(outline) > 4)) < 4, tissue, 0)
    box = box_around(solid, 12)
    assert (expected[box] != tissue[box]).any()  # some fluid is dropped
    assert np.array_equal(anatomy.tissue, expected[box])
    assert np.allclose(anatomy.pose, np.eye(3), atol=1e-6)
    centres = np.array([np.argwhere(labels == n).mean(0) for pair in NUCLEI for n in pair])
    target = np.mean([(0, -y, z) for _, y, z in NUCLEI.values()], axis=0)  # left and right cancel out
    assert np.allclose(anatomy.origin + [part.start for part in box], centres.mean(0) - target, atol=1e-6)


def test_a_label_map_that_cannot_be_read_is_named(tmp_path):
    label_map(tmp_path / "head.nii.gz")
    whole = (tmp_path / "head.nii.gz").read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.nii\.gz cannot be read as a NIfTI label map"):
        load_anatomy(tmp_path / "half.nii.gz")
