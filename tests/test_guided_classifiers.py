"""ACAT and its competitors: one base network, changed maps; what each of them adds, and what all of them survive."""

import re

import pytest
import torch
from transformers import AutoModelForImageClassification

from difffuse_hf import (
    ACATClassifier,
    HSMClassifier,
    LesionClassifier,
    LesionClassifierConfig,
    SalClassNetClassifier,
    SeAttClassifier,
    SliceClassifier,
    SliceClassifierConfig,
    SMICClassifier,
    SpAttClassifier,
)
from difffuse_hf.models.backbone import FeatureModifier

METHODS = [ACATClassifier, SMICClassifier, SalClassNetClassifier, HSMClassifier, SpAttClassifier, SeAttClassifier]
NEED_SALIENCY = [ACATClassifier, SMICClassifier, SalClassNetClassifier]


def half_brain():
    return LesionClassifier(LesionClassifierConfig(hidden_sizes=[4, 4, 6, 6, 8], num_pools=2))


def resnet(channels=2):
    config = SliceClassifierConfig(
        backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 16, 16]}, num_channels=channels, num_labels=2
    )
    return SliceClassifier(config)


BASES = {"half-brain": half_brain, "resnet": resnet}


@pytest.fixture(params=BASES)
def baseline(request):
    torch.manual_seed(0)
    return BASES[request.param]().eval()


# every method on the half-brain CNN; on the ResNet those that change most and the first layer
CASES = [(method, "half-brain") for method in METHODS]
CASES += [(ACATClassifier, "resnet"), (SalClassNetClassifier, "resnet")]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def model(request):
    method, base = request.param
    torch.manual_seed(0)
    return perturb(method.from_baseline(BASES[base]()))


class Record(FeatureModifier):
    """Keeps the maps that leave each stage."""

    def __init__(self):
        self.maps = {}

    def features(self, stage, maps):
        self.maps[stage] = maps
        return maps


def batch(model, count=2, slices=3, height=19, width=17):
    """A scan with an odd size, its map and its labels."""
    torch.manual_seed(1)
    channels = model.config.num_channels
    scan = torch.rand(count, slices, channels, height, width)
    saliency = torch.rand(count, slices, 1, height, width)
    return scan, saliency, torch.arange(count) % model.config.num_labels


def perturb(model):
    """Move everything that starts at zero, so that a test cannot pass by accident."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def test_a_saved_model_loads_with_the_same_logits_and_classes(model, tmp_path):
    scan, saliency, _ = batch(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    same = {"rtol": 1e-6, "atol": 1e-6}  # where a weight lies in memory may decide how it is added up
    torch.testing.assert_close(loaded(scan, saliency=saliency).logits, model(scan, saliency=saliency).logits, **same)
    assert loaded.config.id2label == model.base.config.id2label


@pytest.mark.parametrize("method", METHODS)
def test_a_model_starts_with_the_logits_of_its_baseline_and_can_start_from_nothing(method, baseline, tmp_path):
    """Masks and gates are one half everywhere at first, which the layers that read the maps make up for."""
    baseline.save_pretrained(tmp_path)
    scan, saliency, _ = batch(baseline)
    for options in [{}, {"num_slices": 3}, {"residual": False}] if method is ACATClassifier else [{}]:
        model = method.from_baseline(tmp_path, **options).eval()
        torch.testing.assert_close(model(scan, saliency=saliency).logits, baseline(scan).logits)
    scratch = method.from_baseline(baseline, from_scratch=True).eval()
    assert not torch.allclose(scratch(scan, saliency=saliency).logits, baseline(scan).logits)


def test_batches_of_one_and_single_slices_give_the_same_as_in_company(model):
    scan, saliency, _ = batch(model, count=3)
    together = model(scan, saliency=saliency).logits
    alone = torch.cat([model(scan[i : i + 1], saliency=saliency[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    single = model(scan[:, 0], saliency=saliency[:, 0]).logits
    torch.testing.assert_close(single, model(scan[:, :1], saliency=saliency[:, :1]).logits)


def test_every_parameter_learns_with_and_without_gradient_checkpointing(model):
    scan, saliency, labels = batch(model, height=67, width=65)  # so that no stage's maps are one pixel
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(scan, saliency=saliency, labels=labels).loss.backward()
        learnt = {name: parameter.grad for name, parameter in model.named_parameters()}
        gradients.append({name: gradient.clone() for name, gradient in learnt.items() if gradient is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    silent = {name for name, gradient in gradients[0].items() if not gradient.abs().any()}
    assert not {name for name in silent if "side_head" not in name}  # labels 0 and 1: a side is learnt from one scan
    last = max(getattr(model.config, "attention_stages", None) or [9])
    unread = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(int(re.findall(r"\d", name)[0]) + ("stages" in name) > last for name in unread), unread


def test_bfloat16_autocast_stays_near_single_precision(model):
    scan, saliency, labels = batch(model)
    exact = model(scan, saliency=saliency, labels=labels)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = model(scan, saliency=saliency, labels=labels)
    assert lowered.loss.dtype == torch.float32
    torch.testing.assert_close(lowered.logits.float(), exact.logits, rtol=0.1, atol=0.15)


@pytest.mark.parametrize("method", NEED_SALIENCY)
def test_saliency_changes_the_answer_and_its_absence_is_one_sentence(method, baseline):
    model = perturb(method.from_baseline(baseline))
    scan, saliency, _ = batch(model)
    assert not torch.allclose(model(scan, saliency=saliency).logits, model(scan, saliency=1 - saliency).logits)
    with pytest.raises(ValueError, match=f"{method.__name__} needs `saliency` maps of shape"):
        model(scan)
    with pytest.raises(ValueError, match="`saliency` has the shape"):
        model(scan, saliency=saliency[:, :1])


@pytest.mark.parametrize("method", [HSMClassifier, SpAttClassifier, SeAttClassifier])
def test_the_others_need_no_saliency_and_ignore_it(method, baseline):
    model = perturb(method.from_baseline(baseline))
    scan, saliency, _ = batch(model)
    assert torch.equal(model(scan).logits, model(scan, saliency=saliency).logits)


def test_acat_has_the_parameters_of_the_thesis_and_its_branch_those_of_the_baseline():
    """Sec. 5.6.2: the saliency branch is the baseline without classification layers."""
    baseline = LesionClassifier(LesionClassifierConfig())
    model = ACATClassifier.from_baseline(baseline)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert parts == {
        "base": 163_285,
        "branch": 157_520,
        "spatial_attention": 30,
        "fusion": 4,
        "slice_attention": 64 * 64 + 64 + 64 + 1,
    }
    assert model.num_parameters() == 325_064
    assert ACATClassifier.from_baseline(baseline, num_slices=11).num_parameters() == 325_064 + 640 * 64 + 10 * 65
    assert SpAttClassifier.from_baseline(baseline).num_parameters() == 163_285 + 30 + 4_225  # one branch, no fusion


def test_the_branch_shows_each_mask_the_maps_of_its_own_stage():
    """S^i is what the baseline's first layers make of the saliency map, of the size of F after the same stage."""
    torch.manual_seed(0)
    model = perturb(ACATClassifier.from_baseline(half_brain()))
    scan, saliency, _ = batch(model)
    maps, masks = model.to_images(saliency), []
    for stage in range(1, 6):
        maps = model.branch.step(stage, maps)
        if stage in (1, 3, 5):
            masks.append(model.spatial_attention[stage // 2](maps))
    for ours, expected in zip(model(scan, saliency=saliency).spatial_attention, masks, strict=True):
        torch.testing.assert_close(ours, expected)


def test_hsm_multiplies_after_four_stages_and_smic_after_one():
    torch.manual_seed(0)
    for method, stages in ((HSMClassifier, (1, 2, 3, 4)), (SMICClassifier, (1,))):
        model = perturb(method.from_baseline(half_brain()))
        scan, saliency, _ = batch(model)
        output, keep = model(scan, saliency=saliency), Record()
        model(scan, saliency=saliency, feature_modifier=keep)
        seen = keep.maps
        for stage, gate in zip(stages, output.spatial_attention, strict=True):
            before = model.to_images(scan) if stage == 1 else seen[stage - 1]
            torch.testing.assert_close(seen[stage], model.base.backbone.step(stage, before) * gate)
    depth = [len(model.branch) for model in (HSMClassifier.from_baseline(half_brain()),)]
    convolutions = [m for m in SMICClassifier.from_baseline(half_brain()).branch if isinstance(m, torch.nn.Conv2d)]
    assert depth == [4] and len(convolutions) == 2


def test_acat_attends_after_an_early_a_middle_and_a_late_stage():
    assert ACATClassifier.from_baseline(half_brain()).config.attention_stages == [1, 3, 5]
    assert ACATClassifier.from_baseline(resnet()).config.attention_stages == [1, 2, 3]
    assert SeAttClassifier.from_baseline(half_brain()).config.attention_stages == [3, 5]
    assert SeAttClassifier.from_baseline(resnet()).config.attention_stages == [3, 4]


def test_acat_multiplies_the_maps_by_one_plus_its_masks(baseline):
    """Eqs. 5.1-5.2 through the whole network: the maps that leave a stage, against those that the stage made."""
    model = perturb(ACATClassifier.from_baseline(baseline, slice_attention=False))
    scan, saliency, _ = batch(model)

    plain, steered = Record(), Record()
    baseline.load_state_dict(model.base.state_dict())
    baseline(scan, feature_modifier=plain)
    output = model(scan, saliency=saliency, feature_modifier=steered)
    first = model.config.attention_stages[0]
    mask = output.spatial_attention[0]
    assert len(output.spatial_attention) == 3 and 0 <= mask.min() <= mask.max() <= 1
    torch.testing.assert_close(steered.maps[first], plain.maps[first] * (1 + mask))
    assert output.fused_attention.shape[-2:] == steered.maps[model.num_stages].shape[-2:]


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"attention_stages": [2]}, ["spatial_attention.1.conv.weight"]),
        ({"fusion": False}, ["fusion.conv.weight"]),
        ({"slice_attention": False}, ["slice_attention.out.weight"]),
        ({"num_slices": 3}, []),
        ({"attention": "image"}, ["branch"]),
        ({"attention": "dropout"}, ["branch", "spatial_attention.0.conv.weight"]),
        ({"residual": False}, []),
        ({"attention_batch_norm": True}, []),
    ],
)
def test_every_ablation_is_a_configuration(options, gone, baseline, tmp_path):
    model = perturb(ACATClassifier.from_baseline(baseline, **options))
    full = ACATClassifier.from_baseline(baseline).state_dict()
    for name in gone:
        assert any(key.startswith(name) for key in full)
        assert not any(key.startswith(name) for key in model.state_dict())
    scan, saliency, _ = batch(model)
    model.save_pretrained(tmp_path)
    loaded = ACATClassifier.from_pretrained(tmp_path).eval()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    torch.testing.assert_close(
        loaded(scan, saliency=saliency).logits, model(scan, saliency=saliency).logits, rtol=1e-6, atol=1e-6
    )
    if options.get("attention", "saliency") != "saliency":
        assert model(scan).logits.isfinite().all()


def test_dropout_in_place_of_attention_is_active_in_training_alone(baseline):
    model = ACATClassifier.from_baseline(baseline, attention="dropout", slice_attention=False).eval()
    scan, _, _ = batch(model)
    torch.testing.assert_close(model(scan).logits, baseline(scan).logits)
    model.train()
    assert not torch.allclose(model(scan).logits, model(scan).logits)


def test_slice_attention_starts_near_the_mean_and_can_hide_a_slice(baseline):
    model = ACATClassifier.from_baseline(baseline, fusion=False, attention="dropout").eval()
    torch.nn.init.zeros_(model.slice_attention.out.weight)
    scan, _, _ = batch(model)
    torch.testing.assert_close(model(scan).logits, baseline(scan).logits)
    assert model(scan).slice_attention.shape == (len(model.to_images(scan)),)


def test_a_hidden_layer_dies_for_no_method_when_the_saliency_is_black(baseline):
    model = perturb(ACATClassifier.from_baseline(baseline))
    scan, saliency, _ = batch(model)
    assert model(scan, saliency=torch.zeros_like(saliency)).logits.isfinite().all()


def test_networks_without_stages_cannot_be_steered():
    swin = SliceClassifierConfig(
        backbone="swin_tiny_patch4_window7_224",
        backbone_kwargs={"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
    )
    with pytest.raises(ValueError, match="acts after the stages .* has 1; the half-brain CNN has 7"):
        ACATClassifier(ACATClassifier.config_class(base=swin))
    with pytest.raises(ValueError, match="half-brain or a slice classifier"):
        ACATClassifier.config_class(base={"model_type": "resnet"})
    with pytest.raises(Exception, match="`attention` must be one of"):
        ACATClassifier.config_class(attention="none")


@pytest.mark.slow
def test_a_compiled_acat_gives_the_same_logits():
    torch.manual_seed(0)
    small = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4, 4], num_pools=1))
    model = perturb(ACATClassifier.from_baseline(small, attention_stages=[1, 2]))
    scan, saliency, _ = batch(model)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(scan, saliency=saliency).logits, model(scan, saliency=saliency).logits)
