"""The classifiers of the package behind transformers' Auto classes, and any of them from a folder or the Hub.

transformers finds a class that is not its own only after it was registered: importing `difffuse_hf.models`, or any
public name of the package that lives in it, does that. A plain `import difffuse_hf` does not, for a registration needs
transformers' configurations, and those import torch.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from ..errors import InputError
from .configuration_guided import GuidedConfig
from .modeling_acat import ACATClassifier
from .modeling_hsm import HSMClassifier
from .modeling_lesion_classifier import LesionClassifier
from .modeling_salclassnet import SalClassNetClassifier
from .modeling_seatt import SeAttClassifier
from .modeling_slice_classifier import SliceClassifier
from .modeling_smic import SMICClassifier
from .modeling_spatt import SpAttClassifier
from .processing_acat import ACATProcessor
from .processing_difffuse import DifFuseProcessor

CLASSIFIERS = (
    *(LesionClassifier, SliceClassifier, ACATClassifier, SMICClassifier),
    *(SalClassNetClassifier, HSMClassifier, SpAttClassifier, SeAttClassifier),
)


def _register(config, processor):
    backends = {"torchvision": processor, "pil": processor}  # neither is used: the processors work on tensors
    AutoImageProcessor.register(config, image_processor_classes=backends, exist_ok=True)


for _classifier in CLASSIFIERS:
    _config: Any = _classifier.config_class
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _classifier, exist_ok=True)
    _register(_config, ACATProcessor)
_register(GuidedConfig, DifFuseProcessor)  # a pipeline's: found by the name in its folder, whatever it stands under


def load_classifier(name: str | Path) -> PreTrainedModel:
    """The classifier in a folder or Hub repository, whichever class it is, in eval mode.

    Raises:
        InputError: there is no classifier of this name.
    """
    try:
        return AutoModelForImageClassification.from_pretrained(str(name)).eval()
    except (OSError, ValueError) as error:
        raise InputError(
            f"No classifier could be loaded from '{name}' ({str(error).splitlines()[0]}); give a folder written by "
            "examples/train_classifier.py or train_acat.py, or a Hub name."
        ) from None
