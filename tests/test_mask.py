import pytest
import torch

from difffuse_hf import saliency_to_mask
from difffuse_hf.saliency.mask import gaussian_blur, smooth_through_slices


@pytest.fixture
def saliency():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_thesis_mask_holds_the_share_above_the_percentile(saliency):
    mask = saliency_to_mask(saliency, percentile=90)
    assert mask.shape == saliency.shape and set(mask.unique().tolist()) == {0, 1}
    assert mask.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.1] * 3, abs=1e-3)


def test_the_thesis_mask_is_cut_from_the_blurred_map():
    point = torch.zeros(1, 1, 20, 20)
    point[..., 10, 12] = 1
    expected = torch.zeros_like(point)
    expected[..., 9:12, 11:14] = 1  # the nine pixels next to it; unblurred, the point alone
    assert torch.equal(saliency_to_mask(point, percentile=100 * (1 - 9 / 400)), expected)


def test_the_reference_codes_mask_is_wider_by_two_pixels():
    saliency = torch.zeros(1, 1, 32, 32)
    saliency[..., 10:13, 20:22] = 1
    mask = saliency_to_mask(saliency, percentile=99, variant="reference_code")
    expected = torch.zeros_like(saliency)
    expected[..., 8:15, 18:24] = 1
    assert torch.equal(mask, expected)


def test_the_reference_codes_percentile_is_taken_over_all_channels_together():
    saliency = torch.zeros(1, 2, 16, 16)
    saliency[:, 0], saliency[:, 1] = 0.1, 0.9
    mask = saliency_to_mask(saliency, percentile=40, variant="reference_code")
    assert mask[:, 0].sum() == 0 and mask[:, 1].all()


@pytest.mark.parametrize("variant", ["thesis", "reference_code"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_saliency_gives_an_empty_mask(variant, value):
    assert saliency_to_mask(torch.full((2, 1, 16, 16), value), variant=variant).sum() == 0


@pytest.mark.parametrize("variant", ["thesis", "reference_code"])
def test_an_images_mask_does_not_depend_on_its_batch(saliency, variant):
    alone = torch.cat([saliency_to_mask(one[None], variant=variant) for one in saliency])
    assert torch.equal(saliency_to_mask(saliency, variant=variant), alone)


@pytest.mark.parametrize("variant", ["thesis", "reference_code"])
def test_with_a_foreground_the_percentile_and_the_mask_are_its_own(saliency, variant):
    foreground = torch.zeros_like(saliency)
    foreground[..., 8:24, 8:24] = 1
    mask = saliency_to_mask(saliency, percentile=75, variant=variant, foreground=foreground)
    assert (mask <= foreground).all()
    if variant == "thesis":
        assert mask.sum(dim=(1, 2, 3)).tolist() == pytest.approx([64] * 3, abs=1)
    assert saliency_to_mask(saliency, variant=variant, foreground=torch.zeros_like(saliency)).sum() == 0


def test_the_blur_keeps_the_mass_and_has_the_spread_of_its_sigma():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    blurred = gaussian_blur(point, 5)
    assert blurred.sum().item() == pytest.approx(1)
    ratio = blurred[0, 0, 10, 11] / blurred[0, 0, 10, 10]
    assert ratio.item() == pytest.approx(torch.tensor(-1 / (2 * 1.1**2)).exp().item())


@pytest.mark.parametrize("arguments", [{"percentile": 101}, {"variant": "code"}])
def test_unknown_settings_are_refused(saliency, arguments):
    with pytest.raises(ValueError, match="must"):
        saliency_to_mask(saliency, **arguments)


def test_smoothing_through_slices_is_a_gaussian_along_the_slices():
    scan = torch.zeros(9, 1, 4, 4)
    scan[4, :, 1, 2] = 1
    smoothed = smooth_through_slices(scan, sigma=1.0)
    assert smoothed.sum().item() == pytest.approx(1)
    assert smoothed[:, :, 0].sum() == 0  # nothing moves within a slice
    ratio = smoothed[5, 0, 1, 2] / smoothed[4, 0, 1, 2]
    assert ratio.item() == pytest.approx(torch.tensor(-0.5).exp().item())


def test_smoothing_through_slices_keeps_constants_and_the_order_of_the_slices(saliency):
    constant = torch.full((5, 1, 3, 3), 0.7)
    torch.testing.assert_close(smooth_through_slices(constant, sigma=2.0), constant)
    assert torch.equal(smooth_through_slices(saliency, sigma=0.0), saliency)
    torch.testing.assert_close(smooth_through_slices(saliency.flip(0)), smooth_through_slices(saliency).flip(0))
    assert smooth_through_slices(saliency).diff(dim=0).abs().mean() < saliency.diff(dim=0).abs().mean() / 2
    with pytest.raises(ValueError, match="`sigma` must be 0 or more"):
        smooth_through_slices(saliency, sigma=-1.0)
