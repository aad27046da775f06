"""Facts about the scores of anomaly maps and counterfactuals, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra `train`")

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.evaluation import anomaly  # noqa: E402
from difffuse_hf.evaluation.anomaly import Slices, Threshold  # noqa: E402


def slices(split="validation", count=4):
    """Slices of a brain of 4 x 4 pixels in a black 6 x 6 image; every second has a lesion, of growing size."""
    images, masks = torch.zeros(count, 2, 6, 6), torch.zeros(count, 1, 6, 6)
    images[:, :, 1:5, 1:5] = 0.5
    for i in range(1, count, 2):
        masks[i, 0, 1 : 2 + i // 2, 1:3] = 1
    labels = masks.flatten(1).amax(1).long()
    return Slices(images, masks, labels, [f"subject {i // 2}" for i in range(count)], split)


class Brighten:
    """A pipeline whose counterfactual is a given change brighter, with a little noise of the generator's."""

    device = torch.device("cpu")

    def set_progress_bar_config(self, **options):
        pass

    def __call__(self, image, generator, change=0.1):
        noise = torch.stack([torch.rand(image.shape[1:], generator=one) for one in generator])
        made = (image + change + 0.01 * noise).clamp(0, 1)
        return SimpleNamespace(anomaly_maps=(made - image).mean(1, keepdim=True), counterfactuals=made)


def test_a_slice_draws_the_same_noise_in_any_batch_and_another_with_another_seed():
    images = slices().images
    maps, made = anomaly.run_method(Brighten(), images, seed=1, batch_size=4)
    one_by_one, _ = anomaly.run_method(Brighten(), images, seed=1, batch_size=1)
    assert torch.equal(maps, one_by_one) and made.shape == images.shape
    assert not torch.equal(maps, anomaly.run_method(Brighten(), images, seed=2)[0])
    assert anomaly.run_method(Brighten(), images, change=0.3)[0].mean() > maps.mean() + 0.15


def test_no_threshold_is_chosen_on_the_test_split():
    sick = slices("test").select(torch.tensor([1, 3]))
    for choose in (anomaly.choose_threshold, lambda maps, of: anomaly.false_positive_threshold(maps, of, 0.1)):
        with pytest.raises(ValueError, match="never chosen on the split 'test'"):
            choose(sick.masks, sick)


def test_the_chosen_threshold_parts_a_perfect_map_and_says_where_it_was_chosen():
    sick = slices().select(torch.tensor([1, 3]))
    maps = 0.2 + 0.6 * sick.masks
    threshold = anomaly.choose_threshold(maps, sick)
    assert threshold.dice == 1 and 0.2 < threshold.value <= 0.8 + 1e-6 and threshold.split == "validation"


def test_a_false_positive_threshold_flags_at_most_its_share_of_the_healthy_brain():
    healthy = slices(count=8).select(torch.tensor([0, 2, 4, 6]))
    maps = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.05, 0.5):
        threshold = anomaly.false_positive_threshold(maps, healthy, share)
        flagged = (maps >= threshold.value)[healthy.brain].float().mean()
        assert share - 2 / 64 < flagged <= share


def test_overlaps_are_means_over_slices_by_size_and_over_whole_subjects():
    known = slices(count=6)
    sick = known.select(known.labels == 1)  # lesions of 2, 4 and 6 pixels, one in each subject
    areas = sick.masks.flatten(1).sum(1)
    assert areas.tolist() == [2, 4, 6]
    maps = sick.masks.clone()
    maps[2, 0, 1, 1:3] = 0  # two of six pixels are missed: Dice 2·4 / (4 + 6) = 0.8
    found = anomaly.score_maps(maps, sick, Threshold(0.5, 1.0, "validation"), edges=[3, 5])
    assert found["dice"] == pytest.approx((1 + 1 + 0.8) / 3) and found["iou"] == pytest.approx((1 + 1 + 4 / 6) / 3)
    assert [found[f"dice_{size}"] for size in anomaly.SIZES] == pytest.approx([1, 1, 0.8])
    assert found["lesion_sensitivity"] == 1
    sick.masks[0, 0, 4, 4] = 1  # a second lesion in a slice, of four in all
    assert anomaly.score_maps(maps, sick, Threshold(0.5, 1.0, "validation"), [3, 5])["lesion_sensitivity"] == 0.75
    sick.masks[0, 0, 4, 4] = 0
    both = Slices(sick.images, sick.masks, sick.labels, ["a", "a", "b"], "test")
    assert anomaly.score_maps(maps, both, Threshold(0.5, 1.0, "validation"), [3, 5])["volume_dice"] == pytest.approx(
        0.9
    )
    edges = anomaly.size_edges(known)
    assert edges == pytest.approx([2 + 4 / 3, 4 + 2 / 3], abs=1e-4)


def two_classes(sick_values, healthy_values, lesion, split="validation"):
    """Maps and slices of one row of pixels each: values with the first `lesion` of them lesion, and healthy ones."""
    found = []
    for values, label in ((sick_values, 1), (healthy_values, 0)):
        maps = torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)
        masks = torch.zeros_like(maps)
        masks[..., : lesion * label] = 1
        found += [maps, Slices(torch.ones_like(maps), masks, torch.tensor([label]), ["a"], split)]
    return found


def test_labels_give_the_best_dice_and_its_threshold_where_all_of_the_lesion_stands_out():
    # 20 lesion pixels of 100, 16 of them above all else; half of healthy brain is at 0.2, a tenth of it at 0.5
    healthy = [0.5] * 8 + [0.2] * 32 + [0.1] * 40
    sick = [0.9] * 16 + [0.5] * 4 + healthy
    maps, ill, others, well = two_classes(sick, healthy * 2, 20)
    chosen = anomaly.label_threshold(maps, ill, others, well)
    best = anomaly.choose_threshold(maps, ill)
    assert chosen.value == pytest.approx(0.9) and chosen.dice == pytest.approx(2 * 16 / 36)
    assert (chosen.value, chosen.dice) == pytest.approx((best.value, best.dice), abs=0.4)
    assert best.dice == pytest.approx(chosen.dice) and chosen.split == "validation"
    blind = replace(ill, masks=torch.zeros_like(ill.masks))
    assert anomaly.label_threshold(maps, blind, others, well) == chosen  # no drawn lesion is looked at


def test_the_dice_that_labels_give_is_exact_where_what_is_flagged_falsely_is_as_in_healthy_brain():
    healthy = [0.9] * 4 + [0.1] * 76  # 5 % is flagged falsely, beside the lesion as elsewhere
    maps, ill, others, well = two_classes([0.9] * 20 + healthy, healthy, 20)
    chosen = anomaly.label_threshold(maps, ill, others, well)
    assert chosen.value == pytest.approx(0.9) and chosen.dice == pytest.approx(2 * 20 / (24 + 20))


def test_the_threshold_of_labels_is_nearly_as_good_as_that_of_masks_on_noisy_maps():
    generator = torch.Generator().manual_seed(0)
    for contrast in (2.0, 3.0, 5.0):
        noise = torch.randn(2, 30, 1, 32, 32, generator=generator)
        masks = torch.zeros(30, 1, 32, 32)
        masks[..., 8:16, 8:14] = 1
        maps, others = (noise[0] + contrast * masks).exp(), noise[1].exp()
        sick = Slices(torch.ones_like(maps), masks, torch.ones(30).long(), ["a"] * 30, "validation")
        well = Slices(torch.ones_like(maps), 0 * masks, torch.zeros(30).long(), ["b"] * 30, "validation")
        chosen, best = anomaly.label_threshold(maps, sick, others, well), anomaly.choose_threshold(maps, sick)
        reached = anomaly.dice(maps >= chosen.value, masks).mean()
        assert reached > 0.95 * best.dice and chosen.dice == pytest.approx(float(reached), abs=0.1)


def test_labels_choose_nothing_where_nothing_stands_out_and_maps_that_have_decided_stay():
    maps, ill, others, well = two_classes([0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.5], 1)
    assert anomaly.label_threshold(maps, ill, others, well).value == float("inf")
    assert anomaly.label_threshold(0 * maps, ill, 0 * others, well).value == float("inf")
    maps, ill, others, well = two_classes([1, 1, 0, 0], [1, 0, 0, 0], 1)
    assert anomaly.label_threshold(maps, ill, others, well).value == 1
    maps, ill, others, well = two_classes([1, 1, 0, 0], [1, 0, 0, 0], 1, "test")
    with pytest.raises(ValueError, match="never chosen on the split 'test'"):
        anomaly.label_threshold(maps, ill, others, well)


def test_change_is_counted_in_the_brain_outside_the_lesion_only():
    sick = slices().select(torch.tensor([1]))
    made = sick.images + 0.3 * sick.masks  # only the lesion changes
    made[:, :, 0, 0] = 1  # and the background, which is no brain
    assert anomaly.score_counterfactuals(made, sick)["change_outside"] == 0
    made = sick.images + 0.25 * (sick.masks == 0)
    assert anomaly.score_counterfactuals(made, sick)["change_outside"] == pytest.approx(0.25)


def test_the_error_against_the_twin_is_the_mean_inside_the_lesion_slice_by_slice_and_beside_doing_nothing():
    known = slices()
    twins = known.images.clone()
    twins[known.labels == 0] = torch.nan
    known = replace(known, images=known.images + 0.4 * known.masks, healthy=twins)
    made = twins.nan_to_num() + 1.0  # far off wherever nothing is counted
    inside = known.masks[1, 0] > 0
    made[1, :, inside] = 0.5 + torch.tensor([0.1, -0.3])[:, None]  # two channels
    made[3, :, known.masks[3, 0] > 0] = 0.5
    error = anomaly.twin_errors(made, known)
    assert error[[0, 2]].isnan().all() and error[[1, 3]].tolist() == pytest.approx([0.2, 0])
    assert anomaly.twin_errors(known.images, known)[[1, 3]].tolist() == pytest.approx([0.4, 0.4])
    scores = anomaly.score_counterfactuals(made, known)
    assert (scores["twin_error"], scores["twin_error_left"]) == pytest.approx((0.1, 0.25))
    part = known.select(torch.tensor([3]))
    assert anomaly.score_counterfactuals(made[3:], part)["twin_error"] == pytest.approx(0, abs=1e-7)
    assert "twin_error" not in anomaly.score_counterfactuals(made, replace(known, healthy=None))


def test_the_flip_rate_is_of_slices_that_were_taken_for_diseased():
    class Bright(torch.nn.Linear):
        """Takes a slice for diseased whose mean is above 0.2."""

        def forward(self, images):
            score = 100 * (images.mean((1, 2, 3)) - 0.2)
            return SimpleNamespace(logits=torch.stack([torch.zeros_like(score), score], 1))

    known = slices()  # mean 0.5 · 16 / 36 = 0.22: all taken for diseased
    made = known.images.clone()
    made[:3] = 0.1
    made = made.clamp(0, 1)
    assert anomaly.score_counterfactuals(made, known, Bright(1, 1))["flip_rate"] == pytest.approx(0.75)
    dark = Slices(known.images * 0, known.masks, known.labels, known.subjects, "test")
    rate = anomaly.score_counterfactuals(dark.images, dark, Bright(1, 1))["flip_rate"]
    assert rate != rate  # none was taken for diseased: undefined


def test_healthy_slices_that_come_back_unchanged_lose_nothing():
    healthy = slices().select(torch.tensor([0, 2]))
    threshold = Threshold(0.1, 1.0, "validation")
    same = anomaly.score_healthy(torch.zeros(2, 1, 6, 6), healthy.images, healthy, threshold)
    assert same == {"healthy_change": 0, "false_positives": 0, "false_slices": 0}
    maps = torch.zeros(2, 1, 6, 6)
    maps[0, 0, 1, 1] = maps[0, 0, 0, 0] = 0.5  # one pixel of 32 in the brain, one outside
    changed = anomaly.score_healthy(maps, healthy.images + 0.1, healthy, threshold)
    assert changed["false_slices"] == 0.5
    assert changed["false_positives"] == pytest.approx(1 / 32) and changed["healthy_change"] == pytest.approx(0.1)


def test_maps_that_are_black_find_nothing():
    sick = slices().with_lesion()
    threshold = anomaly.choose_threshold(0 * sick.masks, sick)
    assert threshold.dice == 0 and threshold.value == float("inf")
    found = anomaly.score_maps(0 * sick.masks, sick, threshold, edges=[3, 5])
    assert found["dice"] == found["volume_dice"] == 0


def test_a_split_without_lesions_is_named():
    with pytest.raises(InputError, match="The split 'validation' has no slice with a lesion"):
        slices().select(torch.tensor([0, 2])).with_lesion()


def test_slices_of_which_only_some_channels_were_acquired():
    images = torch.rand(5, 3, 4, 4) + 0.1
    slices = Slices(images, torch.zeros(5, 1, 4, 4), torch.zeros(5, dtype=torch.long), list("abcde"), "validation")
    some = slices.given([0, 2])
    assert torch.equal(some.images[:, [0, 2]], images[:, [0, 2]]) and not some.images[:, 1].any()
    every_other = slices.given([0], every=2).images
    assert not every_other[::2, 1:].any() and torch.equal(every_other[1::2], images[1::2])
    assert slices.given(None) is slices and slices.images.all()
    with pytest.raises(InputError, match="have 3 channels, and none that is number 3"):
        slices.given([0, 3])


def test_slices_of_known_infarct_sizes_are_scored_by_size():
    sick = replace(slices(count=8).with_lesion(), infarct_sizes=torch.tensor([1, 1, 3, 4]))
    maps = sick.masks.clone()
    maps[1] = 0  # one of the two small ones is missed
    scores = anomaly.score_maps(maps, sick, Threshold(0.5, 1.0, "validation"), [1, 2])
    assert [scores[f"dice_infarct_{size}"] for size in (1, 3, 4)] == [0.5, 1.0, 1.0]
    assert np.isnan(scores["dice_infarct_2"]) and scores["auprc_infarct_1"] < scores["auprc_infarct_3"] == 1
    assert torch.equal(sick.select(torch.tensor([3, 0])).infarct_sizes, torch.tensor([4, 1]))
