"""f-AnoGAN (Schlegl 2019): the game of critic and generator, the encoder, and their training."""

import copy

import pytest
import torch
from tiny_trainings import history, load_script, same, train, weights
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from difffuse_hf import FAnoGAN
from difffuse_hf.training.losses import critic_loss, gradient_penalty, izi_f_losses

TINY = {"in_channels": 2, "sample_size": 16, "width": 2, "latent_size": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FAnoGAN(**TINY).eval()


def test_the_penalty_of_a_linear_critic_is_the_square_of_its_slope_less_one():
    weight = torch.randn(1, 12, dtype=torch.float64)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, dtype=torch.float64))
    critic[1].weight.data = weight
    real, fake = (torch.randn(5, 3, 2, 2, dtype=torch.float64) for _ in range(2))
    penalty = gradient_penalty(critic, real, fake, seeded())
    assert_close(penalty, (weight.norm() - 1) ** 2)
    penalty.backward()  # d/dw (|w| - 1)² = 2 (|w| - 1) w / |w|
    assert_close(critic[1].weight.grad, 2 * (weight.norm() - 1) * weight / weight.norm())
    loss = critic_loss(critic, real, fake, seeded(), penalty_weight=10)
    expected = (fake.mean(0) - real.mean(0)).flatten() @ weight[0] + 10 * (weight.norm() - 1) ** 2
    assert_close(loss, expected)


def test_the_penalty_of_a_quadratic_critic_is_taken_between_real_and_fake():
    real, fake = (torch.randn(4, 1, 2, 2, dtype=torch.float64) for _ in range(2))
    penalty = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, real, fake, seeded(7))  # slope = x̂
    share = torch.rand((4, 1, 1, 1), generator=seeded(7), dtype=torch.float64)
    between = (1 - share) * real + share * fake
    assert_close(penalty, (between.flatten(1).norm(dim=1) - 1).square().mean())


def test_the_loss_of_the_encoder_by_hand(model):
    class Critic(nn.Module):
        def features(self, sample):
            return sample.flatten(1)[:, :2] * 3

    model.encoder, model.critic = nn.Flatten(), Critic()
    model.generator = nn.Unflatten(1, (2, 1, 2))  # G(E(x)) = x, then off by
    model.generator.forward = lambda latent: latent.unflatten(1, (2, 1, 2)) + offset
    sample, offset = torch.randn(2, 2, 1, 2), torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]])
    image, features = (1 + 0 + 4 + 0) / 4, (9 * 1 + 0) / 2
    assert_close(izi_f_losses(model, sample, kappa=0.5), torch.full((2,), image + 0.5 * features))
    assert_close(izi_f_losses(model, sample), torch.full((2,), image + features))


def test_the_published_networks_are_64_pixels_wide_and_end_in_four_by_four_maps():
    with torch.device("meta"):
        model = FAnoGAN(in_channels=1)
        assert model.generator(torch.empty(2, 128)).shape == (2, 1, 64, 64)
        assert model.encoder(torch.empty(2, 1, 64, 64)).shape == (2, 128)
        assert model.critic(torch.empty(2, 1, 64, 64)).shape == (2, 1)
        assert model.critic.features(torch.empty(2, 1, 64, 64)).shape == (2, 4 * 4 * 8 * 64)
        four = FAnoGAN()
    networks = (four.generator, four.critic, four.encoder)
    assert [sum(p.numel() for p in net.parameters()) for net in networks] == [8_541_060, 7_492_417, 8_532_928]
    norms = [type(m) for m in model.critic.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert set(norms) == {nn.GroupNorm}  # the penalty is of single images


def test_the_generator_stays_in_range_and_the_critic_scores_an_image_by_itself(model):
    sample = model.generator(10 * torch.randn(8, 3))
    assert sample.abs().max() <= 1 and sample.std() > 0
    assert_close(model.train().critic(sample), torch.cat([model.critic(one[None]) for one in sample]))


@pytest.mark.parametrize("size", [(16, 16), (31, 20), (9, 40)])
def test_images_of_other_sizes_are_resized_on_the_way_in_and_out(model, size):
    image = torch.rand(2, 2, *size)
    reconstruction = model(image)
    assert reconstruction.shape == image.shape and 0 <= reconstruction.min() and reconstruction.max() <= 1
    small = image if size == (16, 16) else F.interpolate(image, (16, 16), mode="bilinear", antialias=True)
    assert_close(model.to_sample(image), 2 * small - 1)
    assert_close(model.to_sample(torch.full((1, 2, *size), 0.25)), torch.full((1, 2, 16, 16), -0.5))
    if size == (16, 16):
        assert_close(reconstruction, (model.generator(model.encoder(2 * image - 1)) + 1) / 2)


def test_a_size_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(ValueError, match="`sample_size` is a multiple of 16.* got 40"):
        FAnoGAN(sample_size=40)


def test_networks_without_trainable_parameters_keep_their_running_statistics(model):
    model.requires_grad_(False)
    model.encoder.requires_grad_(True)
    model.train()
    assert [network.training for network in (model.generator, model.critic, model.encoder)] == [False, False, True]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(4, 2, 16, 16))
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"encoder"}


def test_one_optimiser_over_both_players_does_what_one_for_each_would(model):
    together, apart = (load_script("train_fanogan").Game(copy.deepcopy(model), 10.0) for _ in range(2))
    for game in (together, apart):
        game.train()
        game.model.encoder.requires_grad_(False)
    options = {"lr": 1e-2, "betas": (0.0, 0.9)}
    joint = torch.optim.Adam([p for p in together.parameters() if p.requires_grad], **options)
    critic = torch.optim.Adam(apart.model.critic.parameters(), **options)
    generator = torch.optim.Adam(apart.model.generator.parameters(), **options)
    for step in range(9):
        image, turn_of_critic = torch.rand(3, 2, 16, 16), step % 3 < 2
        joint.zero_grad()
        together(image, turn_of_critic, seeded(step)).backward()
        joint.step()
        apart.zero_grad()
        players = apart.model
        latent = torch.randn(3, 3, generator=(draws := seeded(step)))
        if turn_of_critic:
            fake = players.generator(latent).detach()
            critic_loss(players.critic, 2 * image - 1, fake, draws).backward()
            critic.step()
        else:
            (-players.critic(players.generator(latent)).mean()).backward()
            generator.step()
    assert same(together.state_dict(), apart.state_dict())
    assert not same(together.state_dict(), {f"model.{name}": value for name, value in model.state_dict().items()})


def test_training_stopped_in_either_stage_goes_on_as_if_it_had_not_been(slices, tmp_path, monkeypatch):
    options = ["--max_steps", "3", "--encoder_steps", "4", "--checkpointing_steps", "2", "--log_every", "1"]
    options += ["--validation_steps", "3"]
    train("train_fanogan", slices, tmp_path / "whole", *options)
    assert [line["step"] for line in history(tmp_path / "whole" / "gan") if "loss" in line] == list(range(1, 10))
    whole = weights(tmp_path / "whole"), weights(tmp_path / "whole" / "gan")
    assert any(not torch.equal(whole[0][n], whole[1][n]) for n in whole[0] if n.startswith("encoder"))
    assert all(torch.equal(whole[0][n], whole[1][n]) for n in whole[0] if not n.startswith("encoder"))
    state = torch.load(tmp_path / "whole" / "gan" / "checkpoint-6" / "optimizer.bin", weights_only=True)["state"]
    names = [name for name, _ in FAnoGAN(**TINY).named_parameters() if not name.startswith("encoder")]
    steps = {name.split(".")[0]: int(state[i]["step"]) for i, name in enumerate(names)}
    assert steps == {"generator": 2, "critic": 4}  # two steps of the critic to one of the generator

    class Stopped(Exception):
        pass

    to_sample, cut = FAnoGAN.to_sample, tmp_path / "cut"
    for calls_left, stage in ((7, "gan"), (9, ".")):  # up to step 6 of the first stage, then to step 3 of the second

        def failing(self, image):
            nonlocal calls_left
            if calls_left == 0:
                raise Stopped
            calls_left -= 1
            return to_sample(self, image)

        monkeypatch.setattr(FAnoGAN, "to_sample", failing)
        with pytest.raises(Stopped):
            train("train_fanogan", slices, cut, *options, "--resume_from_checkpoint", "latest")
        assert not (cut / "config.json").exists() and list((cut / stage).glob("checkpoint-*"))
    monkeypatch.setattr(FAnoGAN, "to_sample", to_sample)
    train("train_fanogan", slices, cut, *options, "--resume_from_checkpoint", "latest")
    assert same(weights(cut), whole[0]) and same(weights(cut / "gan"), whole[1])
    assert history(cut) == history(tmp_path / "whole") and history(cut / "gan") == history(tmp_path / "whole" / "gan")
