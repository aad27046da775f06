"""What a method needs of a user: networks to train, and labels to train them with; read from a pipeline's components.

A threshold, and the settings of a method, are chosen on top of that: with drawn lesions, or with image labels alone.
"""

from typing import Any

import torch

from ..models.modeling_fanogan import FAnoGAN
from ..models.modeling_itermask import IterMaskNetwork
from ..models.modeling_noisy_classifier import NoisyClassifier
from ..pipelines.pipeline_anoddpm import AnoDDPMPipeline
from ..pipelines.pipeline_base import CounterfactualPipeline
from ..saliency.counterfactual import class_agnostic_saliency
from ..saliency.methods import WITH_AUTOENCODER

HEALTHY_ONLY, IMAGE_LABELS = "healthy slices alone", "a label of each slice"
CONDITIONAL, SLICE_CLASSIFIER = "class-conditional U-Net", "classifier"


def networks_needed(pipeline: CounterfactualPipeline) -> list[str]:
    """The networks that have to be trained, in words; those that the pipeline holds but does not use are left out."""
    networks = {name: one for name, one in pipeline.components.items() if isinstance(one, torch.nn.Module)}
    options: dict[str, Any] = pipeline.config.get("saliency_options") or {}
    if options.get("method", class_agnostic_saliency.__name__) not in WITH_AUTOENCODER:
        networks.pop("autoencoder", None)
    return [_in_words(name, network, pipeline) for name, network in networks.items()]


def labels_needed(pipeline: CounterfactualPipeline) -> str:
    """The labels that those networks learn from: none but that slices are healthy, or healthy or lesion of each."""
    of_classes = any(CONDITIONAL == one or SLICE_CLASSIFIER in one for one in networks_needed(pipeline))
    return IMAGE_LABELS if of_classes else HEALTHY_ONLY


def painters(pipeline: CounterfactualPipeline) -> list[torch.nn.Module]:
    """The networks whose calls make the counterfactual; none where it is a search in an autoencoder's latent space."""
    found: list[torch.nn.Module] = []
    for name in ("unet", "network", "reconstructor"):
        network = pipeline.components.get(name)
        if isinstance(network, FAnoGAN):
            found.append(network.generator)
        elif isinstance(network, IterMaskNetwork):
            found += [network.first, network.refiner]
        elif network is not None:
            found.append(network)
    return found


def _in_words(name: str, network: torch.nn.Module, pipeline: CounterfactualPipeline) -> str:
    if name == "unet":
        if pipeline.unet.config["num_class_embeds"]:
            return CONDITIONAL
        return "U-Net of simplex noise" if isinstance(pipeline, AnoDDPMPipeline) else "U-Net"
    if isinstance(network, NoisyClassifier):
        return f"noisy {SLICE_CLASSIFIER}"
    if isinstance(network, IterMaskNetwork):
        return "two U-Nets that fill masks"
    if isinstance(network, FAnoGAN):
        return "f-AnoGAN"
    return {"classifier": SLICE_CLASSIFIER, "reconstructor": "denoising autoencoder"}.get(name, name)
