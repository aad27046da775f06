"""Random changes of slices and scans, and of the labels and saliency maps that change with them."""

import pytest
import torch
from torch.testing import assert_close

from difffuse_hf.training.augmentation import (
    augment,
    augment_uniforms,
    drop_modalities,
    flip_labels,
    mirrored,
    turned,
)
from difffuse_hf.training.sampler import sample_uniform


def test_random_changes_keep_the_range_and_the_black_background_and_repeat_with_the_seed():
    image = torch.rand(8, 2, 16, 16) * (torch.arange(16) > 7)

    def changed(seed, **options):
        return augment(image, torch.Generator().manual_seed(seed), **options)

    everything = {"intensity": 0.3, "noise": 0.1, "shift": 3, "rotation": 10, "zoom": 0.1}
    assert torch.equal(changed(0, **everything), changed(0, **everything))
    assert not torch.equal(changed(0, **everything), changed(1, **everything))
    assert 0 <= changed(0, **everything).min() and changed(0, **everything).max() <= 1
    assert torch.equal(changed(0, flip=False), image)
    assert (changed(0, flip=False, intensity=0.3)[..., :8] == 0).all()
    flipped = changed(0)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, image)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, image)]
    assert any(mirrored) and any(kept) and all(m or k for m, k in zip(mirrored, kept))


EVERYTHING = {"intensity": 0.3, "noise": 0.1, "shift": 2, "rotation": 10, "zoom": 0.1}

MOVES = {"shift": 2, "rotation": 10, "zoom": 0.1}


def numbers_for(batch, channels):
    return sample_uniform(0, torch.arange(batch), augment_uniforms(channels))


def test_changes_decided_by_uniforms_are_the_same_in_any_batch():
    image, uniforms = torch.rand(8, 2, 12, 12), numbers_for(8, 2)
    whole = augment(image, uniforms=uniforms, **EVERYTHING)
    parts = [augment(image[i : i + 2], uniforms=uniforms[i : i + 2], **EVERYTHING) for i in (0, 2, 4, 6)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, image) and 0 <= whole.min() and whole.max() <= 1
    flipped = augment(image, uniforms=uniforms)
    for i, mirror in enumerate(mirrored(uniforms)):
        assert torch.equal(flipped[i], image[i].flip(-1) if mirror else image[i])
    assert 0 < mirrored(uniforms).sum() < 8
    added = augment(torch.full((8, 1, 64, 64), 0.5), flip=False, noise=0.1, uniforms=uniforms) - 0.5
    assert_close(added.std((1, 2, 3)), 0.1 * uniforms[:, 3], rtol=0.05, atol=0)
    assert torch.corrcoef(added.flatten(1)).sub(torch.eye(8)).abs().max() < 5 / 64  # each slice its own noise
    with pytest.raises(ValueError, match=r"shape \(8, 11\), but 8 samples with 3 channels take \(8, 13\)"):
        augment(torch.rand(8, 3, 4, 4), uniforms=uniforms)


def test_a_scan_is_changed_as_a_whole_and_its_saliency_moves_with_it():
    scans = torch.rand(6, 1, 2, 12, 12).repeat(1, 3, 1, 1, 1)  # three slices alike
    saliency = scans[:, :, :1].clone()
    for uniforms in (numbers_for(6, 2), None):
        options = {"generator": torch.Generator().manual_seed(0), "uniforms": uniforms}
        image, moved = augment(scans, intensity=0.3, **MOVES, saliency=saliency, **options)
        assert image.shape == scans.shape and moved.shape == saliency.shape
        assert torch.equal(image[:, 0], image[:, 2]) and not torch.equal(image, scans)
        unchanged_intensity, moved_alone = augment(
            scans, **MOVES, saliency=saliency, generator=torch.Generator().manual_seed(0), uniforms=uniforms
        )
        assert torch.equal(unchanged_intensity[:, :, :1], moved) and torch.equal(moved_alone, moved)
    slices = augment(scans[:, 0], intensity=0.3, **MOVES, uniforms=numbers_for(6, 2))
    assert torch.equal(augment(scans, intensity=0.3, **MOVES, uniforms=numbers_for(6, 2))[:, 0], slices)


def test_a_quarter_turn_is_exact_on_a_square_and_magnification_keeps_straight_lines_straight():
    image = torch.rand(2, 3, 1, 8, 8)
    quarter = turned(image, torch.full((2,), torch.pi / 2), torch.ones(2))
    assert_close(quarter, image.rot90(-1, (-2, -1)), atol=1e-5, rtol=0)  # clockwise
    rows, columns = torch.meshgrid(torch.arange(12.0) - 5.5, torch.arange(20.0) - 9.5, indexing="ij")
    plane = (100 + rows + 3 * columns)[None, None]
    angle, scale = torch.tensor([0.3]), torch.tensor([1.5])
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    expected = 100 + (cosine * rows - sine * columns) + 3 * (cosine * columns + sine * rows)
    inside = (slice(None), slice(None), slice(3, 9), slice(4, 16))
    assert_close(turned(plane, angle, scale)[inside], expected[None, None][inside], atol=1e-3, rtol=0)


def test_left_and_right_change_places_where_a_scan_was_mirrored():
    names, labels = ["none", "left", "right", "both"], torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    flipped = torch.tensor([True] * 4 + [False] * 4)
    once = flip_labels(labels, flipped, names)
    assert once.tolist() == [0, 2, 1, 3, 0, 1, 2, 3]
    assert torch.equal(flip_labels(once, flipped, names), labels)
    assert torch.equal(flip_labels(labels % 2, flipped, ["healthy", "lesion"]), labels % 2)
    with pytest.raises(ValueError, match="only one of the classes 'left' and 'right'"):
        flip_labels(labels, flipped, ["none", "left"])


def test_samples_that_lack_modalities_keep_the_first_or_any_set_of_them():
    uniform = (torch.arange(3000) + 0.5) / 3000
    kept = drop_modalities(torch.ones(3000, 2, 1, 1), 0.6, uniform).flatten(1)
    patterns, counts = kept.unique(dim=0, return_counts=True)
    shares = {tuple(p.int().tolist()): n.item() / 3000 for p, n in zip(patterns, counts)}
    # 0.3 keep the first alone, 0.3 one of three sets, 0.4 lack nothing
    assert shares == pytest.approx({(1, 0): 0.4, (0, 1): 0.1, (1, 1): 0.5}, abs=1e-3)
    scans = torch.rand(4, 3, 2, 5, 5)
    assert torch.equal(drop_modalities(scans, 0.0, torch.zeros(4)), scans)
    assert not drop_modalities(scans, 1.0, torch.zeros(4))[:, :, 1].any()
