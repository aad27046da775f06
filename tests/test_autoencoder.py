"""The autoencoder: shapes, range, gradients, and the round trip through a folder."""

import pytest
import torch

from difffuse_hf import ResNetAutoencoder


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return ResNetAutoencoder(in_channels=2, channels=(8, 16, 24), latent_channels=4).eval()


def test_three_blocks_on_each_side_have_three_by_three_filters_only():
    autoencoder = ResNetAutoencoder()
    assert len(autoencoder.encoder) == len(autoencoder.decoder) == 3
    kernels = {module.kernel_size for module in autoencoder.modules() if isinstance(module, torch.nn.Conv2d)}
    assert kernels == {(3, 3)}


def test_the_latent_is_a_map_and_the_reconstruction_is_an_image(autoencoder):
    image = torch.rand(3, 2, 32, 48)
    latent = autoencoder.encode(image)
    assert latent.shape == (3, 4, 4, 6)
    reconstruction = autoencoder.decode(latent)
    assert reconstruction.shape == image.shape
    assert 0 <= reconstruction.min() and reconstruction.max() <= 1
    assert torch.equal(reconstruction, autoencoder(image))


def test_strides_set_the_size_of_the_latent():
    autoencoder = ResNetAutoencoder(in_channels=1, channels=(8, 8, 8), strides=(1, 2, 3))
    assert autoencoder.encode(torch.rand(1, 1, 24, 24)).shape == (1, 8, 4, 4)
    assert autoencoder(torch.rand(1, 1, 24, 24)).shape == (1, 1, 24, 24)


def test_an_image_is_reconstructed_independently_of_its_batch(autoencoder):
    image = torch.rand(4, 2, 32, 32)
    one_by_one = torch.cat([autoencoder(slice[None]) for slice in image])
    torch.testing.assert_close(autoencoder(image), one_by_one)


def test_a_black_image_still_has_a_gradient_in_latent_space(autoencoder):
    latent = autoencoder.encode(torch.zeros(1, 2, 32, 32)).detach().requires_grad_()
    autoencoder.decode(latent).sum().backward()
    assert (latent.grad != 0).all()


def test_a_size_that_is_no_multiple_of_eight_is_filled_up_with_black_and_cut_again(autoencoder):
    image = torch.rand(1, 2, 30, 27)
    filled = torch.nn.functional.pad(image, (0, 5, 0, 2))
    assert torch.equal(autoencoder(image), autoencoder(filled)[..., :30, :27])
