"""Facts about simplex noise: its moments over the random numbers, and how far it is correlated."""

import pytest
import torch

from difffuse_hf.schedulers.simplex import simplex_noise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def correlation(a, b):
    return ((a * b).mean() / (a.std() * b.std())).item()


@pytest.mark.parametrize("octaves", [1, 6])
def test_every_pixel_has_zero_mean_and_unit_variance(octaves):
    noise = simplex_noise((3000, 1, 4, 4), 17, seeded(), octaves=octaves)
    assert noise.mean(0).abs().max() < 4 / 3000**0.5
    assert (noise.var(0) - 1).abs().max() < 0.12  # four standard errors
    assert noise.var().item() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("axis", ["across", "down", "through t"])
def test_one_octave_is_smooth_within_its_wavelength_and_unrelated_beyond(axis):
    noise = simplex_noise((200, 1, 48, 48), 0, seeded(), octaves=1, wavelength=16)
    if axis == "through t":
        later = {lag: simplex_noise((200, 1, 48, 48), lag, seeded(), octaves=1, wavelength=16) for lag in (1, 40)}
        near, far = correlation(noise, later[1]), correlation(noise, later[40])
    else:
        noise = noise if axis == "across" else noise.mT
        near, far = correlation(noise[..., 1:], noise[..., :-1]), correlation(noise[..., 40:], noise[..., :-40])
    assert near > 0.95
    assert abs(far) < 0.1


def test_a_shorter_wavelength_decays_faster():
    def at_two_pixels(wavelength):
        noise = simplex_noise((50, 1, 32, 32), 0, seeded(), octaves=1, wavelength=wavelength)
        return correlation(noise[..., 2:], noise[..., :-2])

    assert at_two_pixels(64) > at_two_pixels(16) > at_two_pixels(8) > at_two_pixels(4)


def test_octaves_add_detail_by_their_share_of_the_power():
    rough = simplex_noise((400, 1, 16, 16), 0, seeded(), octaves=8, wavelength=256, persistence=0.5)
    finest = sum(0.25**k for k in (6, 7)) / sum(0.25**k for k in range(8))  # wavelengths of 4 and 2 pixels
    smooth = simplex_noise((400, 1, 16, 16), 0, seeded(), octaves=1, wavelength=256)
    assert correlation(rough[..., 8:], rough[..., :-8]) < 1 - finest
    assert correlation(smooth[..., 8:], smooth[..., :-8]) > 0.99


def test_the_noise_has_no_jumps():
    # Ten times finer steps along one line of the lattice make ten times smaller differences.
    coarse = simplex_noise((50, 1, 1, 200), 3, seeded(), octaves=1, wavelength=20).diff(dim=-1).abs().max()
    fine = simplex_noise((50, 1, 1, 2000), 30, seeded(), octaves=1, wavelength=200).diff(dim=-1).abs().max()
    assert fine < 0.15 * coarse


def test_the_same_seed_gives_the_same_noise():
    first, second, other = (simplex_noise((2, 3, 8, 8), 5, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_images_and_channels_are_unrelated():
    noise = simplex_noise((2, 2, 64, 64), 5, seeded(), wavelength=8).flatten(0, 1).flatten(1)
    assert (noise.corrcoef() - torch.eye(4)).abs().max() < 0.15


def test_with_a_generator_and_a_timestep_each_an_image_does_not_depend_on_its_batch():
    timesteps = torch.tensor([3, 70, 250])
    together = simplex_noise((3, 2, 8, 8), timesteps, [seeded(i) for i in range(3)])
    for i in range(3):
        alone = simplex_noise((1, 2, 8, 8), int(timesteps[i]), seeded(i))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


def test_without_a_generator_pytorchs_own_seed_decides():
    torch.manual_seed(4)
    first = simplex_noise((1, 1, 8, 8), 0)
    torch.manual_seed(4)
    assert torch.equal(simplex_noise((1, 1, 8, 8), 0), first)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"octaves": 0}, "`octaves` must be at least 1"),
        ({"wavelength": 0.0}, "`persistence` and `wavelength` positive"),
        ({"generator": [seeded()]}, "holds 1 generators for 2 images"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        simplex_noise((2, 1, 4, 4), 0, **arguments)
