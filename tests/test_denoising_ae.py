"""The denoising autoencoder (Kascenas 2022): its size, its noise, its loss and its score."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from difffuse_hf import DenoisingAutoencoder
from difffuse_hf.models.modeling_denoising_ae import StandardisedConv2d, coarse_noise
from difffuse_hf.pipelines.anomaly_map import foreground, residual_map
from difffuse_hf.training.arguments import LoopArguments, learning_rate_factor
from difffuse_hf.training.losses import denoising_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return DenoisingAutoencoder(in_channels=2, channels=(4, 8, 8)).eval()


def test_the_published_network_has_7_703_748_parameters():
    with torch.device("meta"):
        autoencoder = DenoisingAutoencoder()
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 7_703_748
    groups = [module.num_groups for module in autoencoder.down.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert groups == [8, 8, 16, 16, 16, 16, 32, 32]


def test_kernels_are_standardised_and_borders_reflected():
    torch.manual_seed(0)
    conv = StandardisedConv2d(2, 3).double()
    image = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    kernels = conv.weight.detach()
    kernels = torch.stack([(kernel - kernel.mean()) / (kernel.std() + 1e-5) for kernel in kernels])
    assert_close(conv(image), F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernels, conv.bias))
    scaled = StandardisedConv2d(2, 3).double()
    scaled.weight.data, scaled.bias = 1e3 * conv.weight.data + 5, conv.bias
    assert_close(scaled(image), conv(image), rtol=0, atol=5e-3)  # but for the 1e-5 beside the deviation


@pytest.mark.parametrize("size", [(16, 16), (15, 22), (5, 9)])
def test_images_of_any_size_come_back_at_their_size(autoencoder, size):
    image = torch.rand(2, 2, *size)
    below, right = (max(8 - side, -side % 4) for side in size)
    filled = autoencoder(F.pad(image, (0, right, 0, below)))
    assert torch.equal(autoencoder(image), filled[..., : size[0], : size[1]])


def test_an_image_is_reconstructed_independently_of_its_batch_and_after_saving(autoencoder, tmp_path):
    image = torch.rand(3, 2, 16, 16)
    assert_close(autoencoder(image), torch.cat([autoencoder(slice[None]) for slice in image]))
    autoencoder.save_pretrained(tmp_path)
    assert torch.equal(DenoisingAutoencoder.from_pretrained(tmp_path)(image), autoencoder(image))
    low = torch.nn.Module.to(autoencoder, torch.bfloat16)(image.bfloat16())
    assert low.dtype == torch.bfloat16 and low.isfinite().all()
    with pytest.raises(ValueError, match="3 channels but the autoencoder takes 2"):
        autoencoder(torch.rand(1, 3, 16, 16))


def test_coarse_noise_has_its_standard_deviation_on_the_grid_and_less_in_between():
    on_grid = coarse_noise((64, 4, 16, 16), generator=seeded())
    count = on_grid.numel()
    assert on_grid.std().item() == pytest.approx(0.2, abs=4 * 0.2 / (2 * count) ** 0.5)
    assert abs(on_grid.mean().item()) < 4 * 0.2 / count**0.5
    fine = coarse_noise((400, 4, 31, 31), generator=seeded())
    along_a_side = (16 * 1 + 15 * 1 / 2) / 31  # 16 points of the grid, and the mean of two of them 15 times
    assert fine.square().mean().item() == pytest.approx(0.2**2 * along_a_side**2, rel=0.02)


def test_coarse_noise_is_a_roll_of_bilinear_noise_by_every_distance_alike():
    generator = seeded(3)
    noise = coarse_noise((200, 2, 8, 6), std=1.0, resolution=3, generator=generator)
    plain = F.interpolate(torch.randn(200, 2, 3, 3, generator=seeded(3)), (8, 6), mode="bilinear", align_corners=True)
    shifts = []
    for rolled, still in zip(noise, plain):
        matches = [
            (y, x) for y in range(8) for x in range(6) if torch.equal(torch.roll(still, (-y, -x), (1, 2)), rolled)
        ]
        assert len(matches) == 1
        shifts += matches
    rows, columns = np.bincount([y for y, _ in shifts]), np.bincount([x for _, x in shifts])
    assert len(rows) == 8 and len(columns) == 6 and rows.min() > 8 and columns.min() > 12  # 25 and 33 expected
    assert torch.equal(noise, coarse_noise((200, 2, 8, 6), 1.0, 3, seeded(3)))


def test_the_loss_is_the_squared_error_in_the_foreground_of_noise_in_the_foreground():
    image = torch.rand(2, 2, 8, 8)
    image[..., :3] = 0
    seen = []

    def doubled(noisy):
        seen.append(noisy)
        return 2 * noisy

    loss = denoising_loss(doubled, image, seeded(1), noise_std=0.5, noise_resolution=4)
    noise = coarse_noise(image.shape, 0.5, 4, seeded(1))
    noise[..., :3] = 0  # black stays black
    assert_close(seen[0], image + noise)
    inside = (image - 2 * (image + noise))[..., 3:]
    assert_close(loss, inside.square().sum() / image.numel())
    assert denoising_loss(lambda noisy: image, image, seeded()) == 0


def test_the_foreground_is_where_the_channels_add_up_to_more_than_a_hundredth():
    image = torch.tensor([[[[0.004, 0.006, 0.0]], [[0.005, 0.006, 0.02]]]])
    assert foreground(image).tolist() == [[[[False, True, True]]]]


def test_the_score_is_the_median_of_the_mean_difference_inside_the_eroded_brain():
    image, reconstruction = torch.rand(1, 2, 12, 12) + 0.1, torch.rand(1, 2, 12, 12)
    image[..., :2] = 0
    image[:, :, 7, 8] = 0  # a single black pixel erodes nothing: 24 of 25 are more than 0.95
    score = residual_map(image, reconstruction)
    difference = (image - reconstruction).abs().mean(1)[0]
    inside = torch.zeros(12, 12, dtype=torch.bool)
    for y in range(12):
        for x in range(12):
            square = [
                0 <= row < 12 and 0 <= column < 12 and bool(image[0, :, row, column].any())
                for row in range(y - 2, y + 3)
                for column in range(x - 2, x + 3)
            ]
            inside[y, x] = sum(square) / 25 > 0.95
    assert not inside[2:10, 3].any() and inside[5:10, 6:10].all()
    difference = torch.where(inside, difference, torch.zeros(()))
    padded = np.pad(difference.numpy(), 2, mode="reflect")
    for y in range(12):
        for x in range(12):
            assert score[0, 0, y, x].item() == np.median(padded[y : y + 5, x : x + 5])


def test_a_speck_leaves_no_score_and_a_plain_difference_is_had_with_squares_of_one():
    image = torch.full((1, 1, 15, 15), 0.5)
    reconstruction = image.clone()
    reconstruction[..., 7, 6:9] = 0  # 3 of 25 pixels
    assert residual_map(image, reconstruction).sum() == 0
    assert_close(residual_map(image, reconstruction, 1, 1), (image - reconstruction).abs())
    with pytest.raises(ValueError, match="must be odd, got 4 and 5"):
        residual_map(image, reconstruction, erosion_size=4)


def test_the_learning_rate_falls_and_rises_like_the_published_scheduler():
    args = LoopArguments(dataset="", output_dir="", lr_scheduler="cosine", cosine_steps=3200, max_steps=67_200)
    stock_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stock = torch.optim.lr_scheduler.CosineAnnealingLR(stock_optimizer, T_max=100)
    for round_number in range(250):  # of 32 iterations
        expected = stock_optimizer.param_groups[0]["lr"]
        assert learning_rate_factor(32 * round_number, args) == pytest.approx(expected, abs=1e-6)
        stock_optimizer.step()
        stock.step()
    assert learning_rate_factor(67_199, args) < 1e-6
