"""difffuse_hf: weakly supervised lesion detection in brain CT and MRI, from image-level labels.

A research tool, not a medical device. Public names are imported when first used, in the order of the data flow.
"""

import importlib
from typing import TYPE_CHECKING

from wrapt import register_post_import_hook

from .errors import explain_unmatched_torchvision

if TYPE_CHECKING:  # what editors and type checkers see; __getattr__ does the same at run time, from _PUBLIC
    from .data.brats2021 import BraTS2021
    from .data.ist3 import IST3
    from .data.mosmed import MosMed
    from .data.wmh import WMH
    from .detection.result import DetectionResult
    from .detection.volume import detect_volume
    from .evaluation.agreement import krippendorff_alpha
    from .evaluation.image_quality import kid
    from .evaluation.localisation import average_precision, pointing_game
    from .evaluation.segmentation import dice, iou
    from .io.case import Case, read_case
    from .models.auto import load_classifier
    from .models.configuration_acat import ACATConfig
    from .models.configuration_competitors import (
        HSMConfig,
        SalClassNetConfig,
        SeAttConfig,
        SMICConfig,
        SpAttConfig,
    )
    from .models.configuration_lesion_classifier import LesionClassifierConfig
    from .models.configuration_slice_classifier import SliceClassifierConfig
    from .models.modeling_acat import ACATClassifier
    from .models.modeling_autoencoder import ResNetAutoencoder
    from .models.modeling_denoising_ae import DenoisingAutoencoder
    from .models.modeling_fanogan import FAnoGAN
    from .models.modeling_hsm import HSMClassifier
    from .models.modeling_itermask import IterMaskNetwork
    from .models.modeling_lesion_classifier import LesionClassifier
    from .models.modeling_noisy_classifier import NoisyClassifier
    from .models.modeling_salclassnet import SalClassNetClassifier
    from .models.modeling_seatt import SeAttClassifier
    from .models.modeling_slice_classifier import SliceClassifier
    from .models.modeling_smic import SMICClassifier
    from .models.modeling_spatt import SpAttClassifier
    from .models.processing_acat import ACATProcessor
    from .models.processing_difffuse import DifFuseProcessor
    from .models.unet import PatchUNet2DModel, make_healthy_unet
    from .phantoms.brain_phantom import BrainPhantom
    from .pipelines.auto import load_pipeline
    from .pipelines.pipeline_anoddpm import AnoDDPMPipeline
    from .pipelines.pipeline_anofpdm import AnoFPDMPipeline
    from .pipelines.pipeline_autoddpm import AutoDDPMPipeline
    from .pipelines.pipeline_classifier_free_guidance import ClassifierFreeGuidancePipeline
    from .pipelines.pipeline_classifier_guidance import ClassifierGuidancePipeline
    from .pipelines.pipeline_difffuse import DifFusePipeline
    from .pipelines.pipeline_itermask2 import IterMask2Pipeline
    from .pipelines.pipeline_output import CounterfactualOutput
    from .pipelines.pipeline_reconstruction import ReconstructionPipeline
    from .pipelines.pipeline_repaint import RePaintPipeline
    from .pipelines.pipeline_thor import THORPipeline
    from .pipelines.pipeline_unmasked import UnmaskedPipeline
    from .preprocessing.ct import preprocess_ct
    from .saliency.counterfactual import class_agnostic_saliency, latent_counterfactual, negative_counterfactual
    from .saliency.grad_cam import grad_cam
    from .saliency.grad_cam_plus_plus import grad_cam_plus_plus
    from .saliency.gradient import gradient
    from .saliency.guided_backprop import guided_backprop
    from .saliency.integrated_gradients import integrated_gradients
    from .saliency.latent_shift import latent_shift
    from .saliency.mask import saliency_to_mask
    from .saliency.rise import rise
    from .saliency.score_cam import score_cam
    from .saliency.smooth_grad import smooth_grad
    from .schedulers.scheduling_difffuse import DifFuseScheduler

__version__ = "0.1.0"

_PUBLIC = {
    "io.case": ["Case", "read_case"],
    "preprocessing.ct": ["preprocess_ct"],
    "data.ist3": ["IST3"],
    "data.brats2021": ["BraTS2021"],
    "data.wmh": ["WMH"],
    "data.mosmed": ["MosMed"],
    "phantoms.brain_phantom": ["BrainPhantom"],
    "models.processing_difffuse": ["DifFuseProcessor"],
    "models.processing_acat": ["ACATProcessor"],
    "models.configuration_lesion_classifier": ["LesionClassifierConfig"],
    "models.modeling_lesion_classifier": ["LesionClassifier"],
    "models.configuration_slice_classifier": ["SliceClassifierConfig"],
    "models.modeling_slice_classifier": ["SliceClassifier"],
    "models.configuration_acat": ["ACATConfig"],
    "models.modeling_acat": ["ACATClassifier"],
    "models.configuration_competitors": ["SMICConfig", "SalClassNetConfig", "HSMConfig", "SpAttConfig", "SeAttConfig"],
    "models.modeling_smic": ["SMICClassifier"],
    "models.modeling_salclassnet": ["SalClassNetClassifier"],
    "models.modeling_hsm": ["HSMClassifier"],
    "models.modeling_spatt": ["SpAttClassifier"],
    "models.modeling_seatt": ["SeAttClassifier"],
    "models.auto": ["load_classifier"],
    "models.modeling_autoencoder": ["ResNetAutoencoder"],
    "models.modeling_denoising_ae": ["DenoisingAutoencoder"],
    "models.modeling_itermask": ["IterMaskNetwork"],
    "models.modeling_fanogan": ["FAnoGAN"],
    "models.modeling_noisy_classifier": ["NoisyClassifier"],
    "models.unet": ["PatchUNet2DModel", "make_healthy_unet"],
    "saliency.counterfactual": ["latent_counterfactual", "class_agnostic_saliency", "negative_counterfactual"],
    "saliency.latent_shift": ["latent_shift"],
    "saliency.gradient": ["gradient"],
    "saliency.smooth_grad": ["smooth_grad"],
    "saliency.guided_backprop": ["guided_backprop"],
    "saliency.integrated_gradients": ["integrated_gradients"],
    "saliency.grad_cam": ["grad_cam"],
    "saliency.grad_cam_plus_plus": ["grad_cam_plus_plus"],
    "saliency.score_cam": ["score_cam"],
    "saliency.rise": ["rise"],
    "saliency.mask": ["saliency_to_mask"],
    "schedulers.scheduling_difffuse": ["DifFuseScheduler"],
    "pipelines.pipeline_output": ["CounterfactualOutput"],
    "pipelines.pipeline_difffuse": ["DifFusePipeline"],
    "pipelines.pipeline_unmasked": ["UnmaskedPipeline"],
    "pipelines.pipeline_anoddpm": ["AnoDDPMPipeline"],
    "pipelines.pipeline_anofpdm": ["AnoFPDMPipeline"],
    "pipelines.pipeline_autoddpm": ["AutoDDPMPipeline"],
    "pipelines.pipeline_thor": ["THORPipeline"],
    "pipelines.pipeline_itermask2": ["IterMask2Pipeline"],
    "pipelines.pipeline_classifier_guidance": ["ClassifierGuidancePipeline"],
    "pipelines.pipeline_classifier_free_guidance": ["ClassifierFreeGuidancePipeline"],
    "pipelines.pipeline_repaint": ["RePaintPipeline"],
    "pipelines.pipeline_reconstruction": ["ReconstructionPipeline"],
    "pipelines.auto": ["load_pipeline"],
    "evaluation.segmentation": ["dice", "iou"],
    "evaluation.localisation": ["pointing_game", "average_precision"],
    "evaluation.image_quality": ["kid"],
    "evaluation.agreement": ["krippendorff_alpha"],
    "detection.result": ["DetectionResult"],
    "detection.volume": ["detect_volume"],
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "__version__",
    "Case",
    "read_case",
    "preprocess_ct",
    "IST3",
    "BraTS2021",
    "WMH",
    "MosMed",
    "BrainPhantom",
    "DifFuseProcessor",
    "ACATProcessor",
    "LesionClassifierConfig",
    "LesionClassifier",
    "SliceClassifierConfig",
    "SliceClassifier",
    "ACATConfig",
    "ACATClassifier",
    "SMICConfig",
    "SalClassNetConfig",
    "HSMConfig",
    "SpAttConfig",
    "SeAttConfig",
    "SMICClassifier",
    "SalClassNetClassifier",
    "HSMClassifier",
    "SpAttClassifier",
    "SeAttClassifier",
    "load_classifier",
    "ResNetAutoencoder",
    "DenoisingAutoencoder",
    "IterMaskNetwork",
    "FAnoGAN",
    "NoisyClassifier",
    "PatchUNet2DModel",
    "make_healthy_unet",
    "latent_counterfactual",
    "class_agnostic_saliency",
    "negative_counterfactual",
    "latent_shift",
    "gradient",
    "smooth_grad",
    "guided_backprop",
    "integrated_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "score_cam",
    "rise",
    "saliency_to_mask",
    "DifFuseScheduler",
    "CounterfactualOutput",
    "DifFusePipeline",
    "UnmaskedPipeline",
    "AnoDDPMPipeline",
    "AnoFPDMPipeline",
    "AutoDDPMPipeline",
    "THORPipeline",
    "IterMask2Pipeline",
    "ClassifierGuidancePipeline",
    "ClassifierFreeGuidancePipeline",
    "RePaintPipeline",
    "ReconstructionPipeline",
    "load_pipeline",
    "dice",
    "iou",
    "pointing_game",
    "average_precision",
    "kid",
    "krippendorff_alpha",
    "DetectionResult",
    "detect_volume",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'difffuse_hf' has no attribute '{name}'")
    with explain_unmatched_torchvision():
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


# transformers' Auto classes learn of ours when they are imported; the names keep torch out until then.
for _auto, _register in {
    "configuration_auto": "register_configurations",
    "modeling_auto": "register_classifiers",
    "image_processing_auto": "register_processors",
}.items():
    register_post_import_hook(f"{__name__}.models.registration:{_register}", f"transformers.models.auto.{_auto}")
