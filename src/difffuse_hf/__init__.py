"""difffuse_hf: weakly supervised lesion detection in brain CT and MRI, from image-level labels.

A research tool, not a medical device. Public names are imported when first used, in the order of the data flow.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
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
    "models.modeling_smic": ["SMICClassifier", "SMICConfig"],
    "models.modeling_salclassnet": ["SalClassNetClassifier", "SalClassNetConfig"],
    "models.modeling_hsm": ["HSMClassifier", "HSMConfig"],
    "models.modeling_spatt": ["SpAttClassifier", "SpAttConfig"],
    "models.modeling_seatt": ["SeAttClassifier", "SeAttConfig"],
    "models.auto": ["load_classifier"],
    "models.modeling_autoencoder": ["ResNetAutoencoder"],
    "models.modeling_denoising_ae": ["DenoisingAutoencoder"],
    "models.modeling_fanogan": ["FAnoGAN"],
    "models.modeling_noisy_classifier": ["NoisyClassifier"],
    "models.unet": ["make_healthy_unet"],
    "saliency.counterfactual": ["latent_counterfactual", "class_agnostic_saliency"],
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
    "pipelines.pipeline_autoddpm": ["AutoDDPMPipeline"],
    "pipelines.pipeline_classifier_guidance": ["ClassifierGuidancePipeline"],
    "pipelines.pipeline_classifier_free_guidance": ["ClassifierFreeGuidancePipeline"],
    "pipelines.pipeline_repaint": ["RePaintPipeline"],
    "pipelines.pipeline_reconstruction": ["ReconstructionPipeline"],
    "evaluation.segmentation": ["dice", "iou"],
    "evaluation.localisation": ["pointing_game", "average_precision"],
    "evaluation.image_quality": ["kid"],
    "evaluation.agreement": ["krippendorff_alpha"],
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'difffuse_hf' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
