"""Model cards, and the way to the Hub and back, against a stub on this machine."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from conftest import quiet
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import HfApi, ModelCard, constants
from test_structure import REPOSITORY
from tiny_models import tiny_classifier, tiny_noisy_classifier, tiny_unet
from transformers import AutoImageProcessor

import difffuse_hf
from difffuse_hf import (
    ACATProcessor,
    DifFusePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    NoisyClassifier,
    SliceClassifier,
    SliceClassifierConfig,
    load_classifier,
    load_pipeline,
)
from difffuse_hf.errors import InputError
from difffuse_hf.io.hub import (
    EMBEDDED,
    MODEL_FILES,
    embedded_folder,
    private_by_default,
    push,
    push_folder,
    refuse_public,
)
from difffuse_hf.io.model_card import card_line, card_section, classifier_card, model_card, usage, write_model_card
from difffuse_hf.models.auto import CLASSIFIERS

CARD = {
    "name": "Healthy brains",
    "description": "Repaints lesions of FLAIR and T1 slices as healthy tissue.",
    "training_data": "40 synthetic subjects; no patient.",
    "scores": {"Dice, held-out synthetic subjects": 0.61234, "healthy slices": "0.2 % changed"},
    "credits": ["Label maps: somebody, Apache-2.0."],
}


def test_a_pipeline_pushed_to_the_hub_comes_back_the_same(whole_pipeline, connected_hub):
    address = push(whole_pipeline, "tester/ours", "---\nlicense: apache-2.0\n---\n# ours\n")
    assert "/tester/ours/commit/" in address
    files = connected_hub.files("tester/ours")
    assert files["README.md"].decode().endswith("# ours\n")
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "classifier/model.safetensors"} <= set(
        files
    )
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pkl"))]

    image = torch.rand(1, 2, 16, 16)
    again = quiet(DifFusePipeline.from_pretrained("tester/ours"))
    first, second = (pipe(image, generator=torch.Generator().manual_seed(0)) for pipe in (whole_pipeline, again))
    assert torch.equal(first.counterfactuals, second.counterfactuals) and torch.equal(first.saliency, second.saliency)
    cached = DifFusePipeline.from_pretrained("tester/ours", local_files_only=True)
    assert cached.processor.modalities == whole_pipeline.processor.modalities
    with pytest.raises(InputError, match="There is no folder tester/absent, and the Hub") as caught:
        DifFusePipeline.from_pretrained("tester/absent")
    assert "\n" not in str(caught.value)


def test_without_a_network_what_was_downloaded_before_is_used_and_nothing_else(
    whole_pipeline, connected_hub, monkeypatch
):
    """HF_HUB_OFFLINE, as the client reads it; no request reaches the Hub."""
    push(whole_pipeline, "tester/ours", model_card(**CARD))
    push(whole_pipeline, "tester/other", model_card(**CARD))
    load_pipeline("tester/ours")
    connected_hub.server.shutdown()
    connected_hub.server.server_close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(load_pipeline("tester/ours").unet.conv_in.weight, whole_pipeline.unet.conv_in.weight)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set, and its cache does not hold one"):
        load_pipeline("tester/other")
    with pytest.raises(InputError, match="the Hub did not take it as tester/new"):
        push(whole_pipeline, "tester/new", model_card(**CARD))


@pytest.mark.parametrize("kind", [*CLASSIFIERS, NoisyClassifier])
def test_every_classifier_pushed_to_the_hub_comes_back_the_same(kind, connected_hub):
    if kind is NoisyClassifier:
        model, inputs, load = tiny_noisy_classifier(), (torch.rand(2, 1, 16, 16), 3), NoisyClassifier.from_pretrained
    else:
        model, load = tiny_classifier(kind), load_classifier
        inputs = torch.rand(2, 2, 1, 19, 17), torch.rand(2, 2, 1, 19, 17)  # scans and their saliency maps
    model.push_to_hub("tester/classifier")
    again = load("tester/classifier")
    assert type(again) is kind and connected_hub.private == {"tester/classifier"}
    with torch.no_grad():
        expected, found = model(*inputs).logits, again.eval()(*inputs).logits
    assert torch.equal(expected, found) and expected.std() > 0


def processed(processor):
    """What the processor makes of a scan."""
    draw = torch.Generator().manual_seed(0)
    if isinstance(processor, ACATProcessor):
        return processor(100 * torch.rand(2, 5, 1, 24, 20, generator=draw), saliency=torch.ones(2, 5, 1, 24, 20))
    scan = torch.zeros(2, 30, 28, 6)  # without its skull: 0 around the brain
    scan[:, 5:25, 5:25] = torch.rand(2, 20, 20, 6, generator=draw)
    return processor(scan.numpy(), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])).numpy())


PROCESSORS = {
    "scans": ACATProcessor(image_size=(12, 10), num_slices=3, window=(0, 80)),
    "slices": DifFuseProcessor(("t1", "flair"), image_size=(20, 16), pixel_spacing_mm=3.0, slice_margin=0),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_both_processors_pushed_to_the_hub_come_back_the_same(kind, connected_hub):
    processor = PROCESSORS[kind]
    processor.push_to_hub("tester/processor")
    assert connected_hub.private == {"tester/processor"}
    expected = processed(processor)
    assert expected["pixel_values"].std() > 0
    for loader in (type(processor), AutoImageProcessor):
        again = loader.from_pretrained("tester/processor")
        assert type(again) is type(processor)
        found = processed(again)
        assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_token_is_in_nothing_that_is_printed_said_or_written(
    whole_pipeline, connected_hub, folder, tmp_path, capfd, caplog
):
    caplog.set_level("DEBUG")
    token = "hf_stub"  # what `connected_hub` is logged in with
    assert os.environ["HF_TOKEN"] == token
    push(whole_pipeline, "tester/ours", model_card(**CARD))
    push_folder(folder, "tester/data", repo_type="dataset", token=token)
    quiet(DifFusePipeline.from_pretrained("tester/ours"))
    sentences = []
    connected_hub.repos["tester/open"] = [("0" * 40, {})]
    for refused in ("tester/open", "no/such/name"):
        with pytest.raises(InputError) as told:
            push_folder(folder, refused, token=token)
        sentences += [str(told.value), str(told.value.__cause__)]
    printed = capfd.readouterr()
    said = "\n".join([printed.out, printed.err, caplog.text, *sentences])
    assert "tester/ours" in said and token not in said  # the client's own log was listened to
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    pushed = [content for name in ("tester/ours", "tester/data") for content in connected_hub.files(name).values()]
    assert len(written) > 10 and len(pushed) > 10
    assert not [content for content in written + pushed if token.encode() in content]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_what_is_pushed_is_private_unless_it_is_said_to_be_public(connected_hub, folder):
    push_folder(folder, "tester/new")
    push_folder(folder, "tester/new", commit_message="again")  # what is private may be pushed to again
    push_folder(folder, "tester/open", public=True)
    assert connected_hub.private == {"tester/new"} and len(connected_hub.repos["tester/new"]) == 3
    with pytest.raises(InputError, match="tester/open on the Hub is public.*`--public`, in Python `public=True`"):
        push_folder(folder, "tester/open")
    push_folder(folder, "tester/open", public=True)
    push_folder(folder, "tester/new", public=True)  # does not open what is private
    assert connected_hub.private == {"tester/new"} and len(connected_hub.repos["tester/open"]) == 3


def test_what_is_public_is_refused_before_anything_is_uploaded(connected_hub, folder):
    refuse_public("tester/nobody")  # what does not exist will be private
    push_folder(folder, "tester/open", public=True)
    with pytest.raises(InputError, match="is public"):
        refuse_public("tester/open")
    (folder / "patients.json").write_text("{}")
    with pytest.raises(InputError, match="is public"):
        push_folder(folder, "tester/open")
    assert set(connected_hub.files("tester/open")) == {"config.json"}


def test_patterns_choose_what_is_uploaded(connected_hub, folder):
    (folder / "optimizer.pt").write_bytes(b"pickled")
    push_folder(folder, "tester/some", allow_patterns=MODEL_FILES)
    assert set(connected_hub.files("tester/some")) == {"config.json"}
    (folder / "more.json").write_text("{}")
    push_folder(folder, "tester/some", allow_patterns=["more.json"], delete_patterns=["config.json"])
    assert set(connected_hub.files("tester/some")) == {"more.json"}


def test_a_hub_that_cannot_be_reached_or_refuses_is_one_sentence(connected_hub, folder, monkeypatch):
    for name in ("no/such/name", "tester/name with spaces"):
        with pytest.raises(InputError, match="is complete, but the Hub did not take it as") as told:
            push_folder(folder, name)
        assert "\n" not in str(told.value)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(InputError, match="is complete, but the Hub did not take it as tester/new"):
        push_folder(folder, "tester/new")


@private_by_default
class Pipeline(DifFusePipeline):
    pass


@private_by_default
class Network(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 2):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)


@private_by_default
class Classifier(SliceClassifier):
    pass


@private_by_default
class Processor(DifFuseProcessor):
    pass


@private_by_default
class Scheduler(DifFuseScheduler):
    pass


TINY_BACKBONE = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
SAVED = {
    "network": Network,
    "classifier": lambda: Classifier(
        SliceClassifierConfig(backbone="resnet18", backbone_kwargs=TINY_BACKBONE, num_channels=2, num_labels=2)
    ),
    "processor": Processor,
    "scheduler": Scheduler,
    "pipeline": lambda: Pipeline(tiny_unet(), DifFuseScheduler()),
}


@pytest.mark.parametrize("kind", SAVED)
def test_all_that_can_be_saved_goes_to_the_hub_in_private(kind, connected_hub, folder, tmp_path):
    """diffusers and transformers make public repositories, and fill existing ones, unless told otherwise."""
    push_folder(folder, "tester/open", public=True)
    saved = SAVED[kind]()
    saved.push_to_hub("tester/new")
    saved.save_pretrained(tmp_path / "saved", push_to_hub=True)
    saved.save_pretrained(tmp_path / "other", push_to_hub=True, repo_id="tester/named")
    assert {"tester/new", "tester/saved", "tester/named"} == connected_hub.private
    assert set(connected_hub.files("tester/new")) == set(connected_hub.files("tester/saved")) != {}
    with pytest.raises(InputError, match="is public"):
        saved.push_to_hub("tester/open")
    with pytest.raises(InputError, match="is public"):
        saved.save_pretrained(tmp_path / "open", push_to_hub=True, repo_id="tester/open")
    assert set(connected_hub.files("tester/open")) == {"config.json"}
    saved.push_to_hub("tester/open", public=True)
    saved.push_to_hub("tester/world", private=False)
    assert len(connected_hub.files("tester/open")) > 0 and "tester/world" not in connected_hub.private


def test_what_is_saved_does_not_tell_where_its_networks_were_loaded_from(tmp_path):
    Pipeline(tiny_unet(), DifFuseScheduler()).save_pretrained(tmp_path / "secret")
    loaded = Pipeline.from_pretrained(tmp_path / "secret")
    assert str(tmp_path) in loaded.unet.config["_name_or_path"]  # as diffusers keeps it
    loaded.save_pretrained(tmp_path / "passed on")
    texts = [file.read_text() for file in (tmp_path / "passed on").rglob("*.json")]
    assert texts and not any("secret" in text for text in texts)
    again = Pipeline.from_pretrained(tmp_path / "passed on")
    assert {**again.unet.config, "_name_or_path": ""} == {**loaded.unet.config, "_name_or_path": ""}


def test_no_embedded_model_names_a_folder_of_its_maker():
    for file in Path(difffuse_hf.__file__).parent.joinpath("assets").rglob("*.json"):
        assert "_name_or_path" not in file.read_text(), file


def test_saving_by_position_and_saving_on_other_processes(connected_hub, tmp_path):
    Processor().save_pretrained(tmp_path / "processor", True)
    assert connected_hub.private == {"tester/processor"}
    Network().save_pretrained(tmp_path / "network", is_main_process=False, push_to_hub=True)
    Network().save_pretrained(tmp_path / "network")
    assert "tester/network" not in connected_hub.repos
    for arguments in ({"create_pr": True}, {"push_to_hub": True}, {"banana": 1}):
        with pytest.raises(TypeError, match=f"no `{next(iter(arguments))}`"):
            Network().push_to_hub("tester/network", **arguments)
    with pytest.raises(TypeError, match="no `create_pr`"):
        Network().save_pretrained(tmp_path / "network", push_to_hub=True, create_pr=True)
    assert "tester/network" not in connected_hub.repos


def test_a_name_that_the_hub_cannot_give_is_one_sentence():
    with pytest.raises(
        InputError, match="There is no folder tester/absent, and the Hub did not give a model"
    ) as caught:
        DifFusePipeline.from_pretrained("tester/absent")
    assert "\n" not in str(caught.value)


def test_a_model_card_states_data_scores_credits_and_what_it_is_not_for():
    card = model_card(**CARD, tags=["mri"])
    _, metadata, text = card.split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["license"] == "apache-2.0" and "mri" in metadata["tags"]
    (indexed,) = metadata["model-index"]
    assert [(one["type"], one["value"]) for one in indexed["results"][0]["metrics"]] == [("dice", 0.6123)]
    for line in (
        "# Healthy brains",
        "not a medical device",
        "40 synthetic subjects; no patient.",
        "| Dice, held-out synthetic subjects | 0.612 |",
        "| healthy slices | 0.2 % changed |",
        "- Label maps: somebody, Apache-2.0.",
    ):
        assert line in text


def test_the_card_says_what_a_stranger_with_diffusers_alone_needs(pipeline, tmp_path):
    """`DiffusionPipeline` knows no pipeline outside diffusers; its error is on the card, beside the way out."""
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(AttributeError) as refused:
        DiffusionPipeline.from_pretrained(tmp_path)
    card = model_card(**CARD)
    assert str(refused.value) in " ".join(card.split()) and "pip install difffuse_hf" in card
    assert "\nfrom difffuse_hf import load_pipeline\n" in card


def test_diffusers_answers_to_a_name_on_the_hub_what_card_and_questions_say(pipeline, connected_hub, monkeypatch):
    pipeline.push_to_hub("tester/brains")
    here = HfApi().model_info  # diffusers keeps the function of the Hub that was known at its import
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.model_info", lambda name, **_: here(name))
    with pytest.raises(ValueError) as refused:
        DiffusionPipeline.from_pretrained("tester/brains")
    file, said = str(refused.value).replace("tester/brains", "user/name").split(" ", 1)
    assert "/difffuse_hf." in file
    assert said in (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    ending = said[said.index("is not a module") :].rstrip(".")
    assert ending in " ".join(model_card(**CARD).split())


def test_a_pipeline_pushed_from_python_has_a_card_that_says_how_to_load_it_and_claims_nothing(pipeline, connected_hub):
    pipeline.push_to_hub("tester/brains")
    card = connected_hub.files("tester/brains")["README.md"].decode()
    assert usage("tester/brains") in card and "Not stated." in card and "Not evaluated yet." in card


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_is_used_as_its_card_says(name):
    assert card_section(embedded_folder(name), "Use") == usage(name)


def test_a_model_card_goes_into_a_saved_pipeline_only(pipeline, tmp_path):
    with pytest.raises(InputError, match="not a saved pipeline"):
        write_model_card(tmp_path, model_card(**CARD))
    pipeline.save_pretrained(tmp_path)
    path = write_model_card(tmp_path, model_card(**CARD))
    assert path.name == "README.md" and "Healthy brains" in path.read_text()
    assert card_line(tmp_path) == "Repaints lesions of FLAIR and T1 slices as healthy tissue."
    assert torch.equal(DifFusePipeline.from_pretrained(tmp_path).unet.conv_in.weight, pipeline.unet.conv_in.weight)


def test_a_classifiers_card_links_data_and_base_model_on_the_hub_and_names_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/slices").mkdir(parents=True)
    made = {
        "description": "d",
        "training_data": "t",
        "scores": {},
        "classes": ["a", "b"],
        "dataset": "x",
        "repo_id": "r",
    }
    card = ModelCard(classifier_card("n", **made, trained_on="clinic/stroke", base_model="clinic/baseline"))
    assert (card.data.datasets, card.data.base_model) == (["clinic/stroke"], "clinic/baseline")
    for trained_on, base_model in (("data/slices", "/data/out"), ("", "out/runs/baseline")):
        card = ModelCard(classifier_card("n", **made, trained_on=trained_on, base_model=base_model))
        assert card.data.datasets is None and card.data.base_model is None
