"""Facts about IterMask2: its frequencies, masks, loss and networks, and how its mask shrinks."""

import pytest
import torch

from difffuse_hf import DifFuseProcessor, IterMask2Pipeline, IterMaskNetwork
from difffuse_hf.errors import InputError
from difffuse_hf.models.modeling_itermask import high_frequencies, random_masks, squares_from
from difffuse_hf.training.losses import masked_reconstruction_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(channels=2):
    torch.manual_seed(0)
    network = IterMaskNetwork(channels, (8, 16), layers_per_block=1, attention_levels=1, norm_num_groups=4).eval()
    for unet in (network.first, network.refiner):
        torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
    return network


def quiet(network, **options):
    pipeline = IterMask2Pipeline(network, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def image():
    return 0.2 + 0.6 * torch.rand(3, 2, 16, 16, generator=seeded(3))


class Scripted(IterMaskNetwork):
    """A network whose reconstructions are the image plus errors that a test has written down."""

    def __init__(self, first, refined):
        super().__init__(2, (8, 16), layers_per_block=1, attention_levels=1, norm_num_groups=4)
        self.errors, self.shown = [first, *refined], []

    def from_frequencies(self, image):
        return image + self.errors[0].sqrt()

    def from_surroundings(self, image, mask, noise):
        self.shown.append((mask.clone(), noise))
        return image + self.errors[min(len(self.shown), len(self.errors) - 1)].sqrt()


def ramp(values=range(256)):
    """Errors of 0, 1, 2 … hundred-thousandths, pixel by pixel."""
    return torch.tensor(list(values)).view(1, 1, 16, 16) / 1e5


def test_the_published_networks_have_the_widths_dropout_and_attention_of_the_public_code():
    with torch.device("meta"):
        published = IterMaskNetwork()
    for unet, channels in ((published.first, 1), (published.refiner, 2)):
        assert (unet.config["in_channels"], unet.config["out_channels"]) == (channels, 1)
        assert unet.config["block_out_channels"] == (32, 32, 64, 96, 128) and unet.config["dropout"] == 0.1
        assert [kind.startswith("Attn") for kind in unet.config["down_block_types"]] == [
            False,
            False,
            True,
            True,
            True,
        ]


def test_high_frequencies_are_the_waves_from_the_radius_on():
    x = torch.arange(64) / 64 * 2 * torch.pi
    low, high = torch.cos(3 * x)[:, None] + torch.cos(6 * x + 1), torch.cos(8 * x)[:, None] + torch.sin(20 * x)
    found = high_frequencies((low + high)[None, None].double(), radius=8.0)
    torch.testing.assert_close(found, high[None, None].double(), rtol=0, atol=0.05)  # phases of amplitude 1 / 64²
    phases = torch.fft.fft2(found)
    original = torch.fft.fft2((low + high)[None, None].double())
    assert phases[0, 0, 3, 0].abs().item() == pytest.approx(1, abs=1e-5)
    assert phases[0, 0, 3, 0].angle().item() == pytest.approx(original[0, 0, 3, 0].angle().item(), abs=1e-5)


def test_a_square_begins_at_its_corner():
    corners = torch.zeros(1, 1, 5, 6)
    corners[0, 0, 1, 2] = 1
    expected = torch.zeros(5, 6)
    expected[1:4, 2:5] = 1
    assert torch.equal(squares_from(corners, 3)[0, 0], expected)


def test_random_masks_lie_in_the_brain_around_a_pixel_of_it_and_come_from_the_generator():
    brain = torch.zeros(200, 1, 120, 120)
    brain[..., 20:100, 30:90] = 1
    masks = random_masks(brain, seeded())
    assert set(masks.unique().tolist()) == {0, 1} and not masks[brain == 0].any()
    share = masks.sum((1, 2, 3)) / brain.sum((1, 2, 3))
    assert share.min() > 0.005 and share.max() < 0.7 and share.quantile(0.9) > 5 * share.quantile(0.1)
    assert torch.equal(masks, random_masks(brain, seeded())) and not torch.equal(masks, random_masks(brain, seeded(1)))
    reached = masks.mean(0)[0][brain[0, 0] == 1]
    assert reached.min() > 0  # every pixel is hidden at times
    rows = [mask[0].any(1).nonzero().flatten() for mask in masks]
    lengths = torch.tensor([row[-1] - row[0] for row in rows]).float()
    assert lengths.min() < 15 and lengths.max() > 60  # narrow ones and wide ones


def test_what_a_mask_hides_the_network_does_not_see_but_for_its_high_frequencies():
    one, image = network(), torch.rand(1, 2, 32, 32, generator=seeded(1))
    mask, noise = torch.zeros(1, 1, 32, 32), torch.randn(1, 2, 32, 32, generator=seeded(2))
    mask[..., 8:20, 8:20] = 1
    seen = []
    handle = one.refiner.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        one.from_surroundings(image, mask, noise)
    handle.remove()
    shown, guide = seen[0][:, :2], seen[0][:, 2:]
    hidden = mask.expand_as(image) == 1
    assert torch.equal(shown[hidden], noise[hidden])
    torch.testing.assert_close(shown[~hidden], 6 * image[~hidden] - 3)  # [-3, 3], as the public code
    torch.testing.assert_close(guide, high_frequencies(6 * image - 3, 15.0))


def test_the_loss_is_the_sum_of_both_networks_squared_errors_over_all_pixels():
    image = torch.rand(4, 2, 16, 16, generator=seeded(1))
    image[..., :4] = 0
    seen = {}

    def scripted(image, mask, noise):
        seen.update(mask=mask, noise=noise)
        return image + 0.1, image - 0.2

    loss = masked_reconstruction_loss(scripted, image, seeded(5))
    assert loss.item() == pytest.approx(0.1**2 + 0.2**2)
    assert not seen["mask"][..., :4].any() and seen["mask"].any()
    assert seen["noise"].std().item() == pytest.approx(1, abs=0.1) and seen["noise"].shape == image.shape


def test_the_first_mask_is_the_share_of_the_brain_with_the_largest_error(image):
    image[..., :4] = 0  # a quarter of the slice is background
    pipeline = quiet(Scripted(ramp(), []), mask_threshold=1e-9)
    mask = pipeline.first_masks(image, 0.6, 2)
    brain = image.sum(1, keepdim=True) > 0.01
    assert (mask.sum((1, 2, 3)) == int(0.6 * 192)).all() and not mask[~brain].any()
    errors = ramp().expand(3, 1, 16, 16)
    assert errors[mask == 1].min() > errors[(mask == 0) & brain].max()


def test_a_mask_shrinks_to_what_exceeds_the_threshold_until_it_loses_less_than_a_hundredth(image):
    # The error of pixel i is i; the second time that of the pixels from 200 on is left, then nothing more changes
    seen = range(64)  # were never hidden: their error does not bring them in
    second = ramp(255 if i in seen else i if i >= 128 else 0 for i in range(256))
    third = ramp(i if i >= 200 else 0 for i in range(256))
    scripted = Scripted(ramp(), [second, third, third])
    pipeline = quiet(scripted, mask_threshold=0.5 / 1e5, first_share=0.75)
    output = pipeline(image, generator=[seeded(i) for i in range(3)])
    assert [int(mask[0].sum()) for mask, _ in scripted.shown] == [192, 128, 56]
    assert torch.equal(output.masks, (ramp() >= 199.5 / 1e5).float().expand(3, 1, 16, 16))
    expected = third.expand(3, 1, 16, 16)
    torch.testing.assert_close(output.anomaly_maps, expected, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(output.counterfactuals, (image + third.sqrt()).clamp(0, 1))
    first, second = scripted.shown[0][1], scripted.shown[1][1]
    assert not torch.equal(first, second)  # fresh noise each time
    pipeline.register_to_config(own_mask=True)
    assert torch.equal(pipeline(image).anomaly_maps, output.masks)


def test_an_image_stops_when_it_is_ready_whatever_the_others_do(image):
    pipeline = quiet(network(), mask_threshold=0.02)
    together = pipeline(image, generator=[seeded(i) for i in range(3)], batch_size=2)
    for i in range(3):
        alone = pipeline(image[i : i + 1], generator=seeded(i))
        for name in ("counterfactuals", "anomaly_maps", "masks"):
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=0, atol=1e-5)


def test_a_network_that_knows_the_image_finds_nothing(image):
    nothing = torch.zeros(1, 1, 16, 16)
    output = quiet(Scripted(ramp(), [nothing]), mask_threshold=1e-6)(image, generator=seeded())
    assert torch.equal(output.counterfactuals, image)
    assert not output.anomaly_maps.any() and not output.masks.any()


def test_the_threshold_is_what_a_share_of_masked_healthy_pixels_exceeds(image):
    scripted, image = Scripted(ramp(), [ramp()]), image.repeat(30, 1, 1, 1)
    pipeline = quiet(scripted)
    threshold = pipeline.calibrate(image, healthy_share=0.25, generator=seeded(7), batch_size=90)
    masks = random_masks(torch.ones(90, 1, 16, 16), seeded(7))
    assert torch.equal(scripted.shown[0][0], masks)
    errors = ramp().expand(90, 1, 16, 16)[masks == 1]
    assert (errors > threshold * (1 + 1e-3)).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert pipeline.config["mask_threshold"] == threshold


def test_a_saved_pipeline_gives_identical_output(image, tmp_path):
    processor = DifFuseProcessor(modalities=("flair", "t1"), image_size=(16, 16))
    pipeline = quiet(network(), processor=processor, mask_threshold=0.02)
    pipeline.save_pretrained(tmp_path)
    before, after = (one(image, generator=seeded()) for one in (pipeline, IterMask2Pipeline.from_pretrained(tmp_path)))
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert torch.equal(before[name], after[name])


def test_what_it_needs_is_said(image):
    pipeline = quiet(network())
    with pytest.raises(InputError, match="IterMask2 has no `mask_threshold`"):
        pipeline(image)
    with pytest.raises(InputError, match=r"`image` has 1 channels but the IterMask2 network takes 2\.$"):
        pipeline(image[:, :1], mask_threshold=0.1)
    with pytest.raises(InputError, match="`healthy_share` must lie between 0 and 1, got 1"):
        pipeline.calibrate(image, healthy_share=1)
    with pytest.raises(InputError, match="The healthy slices are black"):
        pipeline.calibrate(torch.zeros_like(image))
