"""Makes transformers' Auto classes know the classifiers and processors of the package.

A registration needs transformers, which imports torch, and a plain `import difffuse_hf` must not. So the package's
`__init__` asks for each function here to be called once the transformers module with the Auto class is imported, or at
once where it is already. That is often in the middle of another import, of transformers or of a modeling module of
ours: `register_configurations` and `register_classifiers` therefore import configurations only, and the processors
import nothing but a processor's own base classes, which are complete by then.
"""

import importlib
from types import ModuleType
from typing import Any

from .configuration_acat import ACATConfig
from .configuration_competitors import HSMConfig, SalClassNetConfig, SeAttConfig, SMICConfig, SpAttConfig
from .configuration_guided import GuidedConfig
from .configuration_lesion_classifier import LesionClassifierConfig
from .configuration_slice_classifier import SliceClassifierConfig


class LazyClassifier:
    """Stands for a model class in transformers' mapping until one of its attributes is asked for.

    Args:
        config_class: the configuration, whose `model_type` a folder names.
        module: file of the model class, beside this one.
        name: of the model class.
    """

    def __init__(self, config_class: type[Any], module: str, name: str):
        self.config_class = config_class
        self.__module__ = f"{__package__}.{module}"
        self.__name__ = self.__qualname__ = name

    def load(self) -> type[Any]:
        """The model class itself."""
        return getattr(importlib.import_module(self.__module__), self.__name__)

    def __getattr__(self, attribute: str) -> Any:  # `from_pretrained`, `_from_config`, ...
        if attribute.startswith("__"):  # what copy and pickle look for belongs to the object, not to the model class
            raise AttributeError(attribute)
        return getattr(self.load(), attribute)

    def __call__(self, *args, **kwargs):
        return self.load()(*args, **kwargs)


CLASSIFIERS = (
    LazyClassifier(LesionClassifierConfig, "modeling_lesion_classifier", "LesionClassifier"),
    LazyClassifier(SliceClassifierConfig, "modeling_slice_classifier", "SliceClassifier"),
    LazyClassifier(ACATConfig, "modeling_acat", "ACATClassifier"),
    LazyClassifier(SMICConfig, "modeling_smic", "SMICClassifier"),
    LazyClassifier(SalClassNetConfig, "modeling_salclassnet", "SalClassNetClassifier"),
    LazyClassifier(HSMConfig, "modeling_hsm", "HSMClassifier"),
    LazyClassifier(SpAttConfig, "modeling_spatt", "SpAttClassifier"),
    LazyClassifier(SeAttConfig, "modeling_seatt", "SeAttClassifier"),
)


def register_configurations(configuration_auto: ModuleType) -> None:
    """Tell `AutoConfig`, of the module given, about the configurations."""
    for classifier in CLASSIFIERS:
        config = classifier.config_class
        configuration_auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def register_classifiers(modeling_auto: ModuleType) -> None:
    """Tell `AutoModelForImageClassification`, of the module given, about the classifiers."""
    for classifier in CLASSIFIERS:
        modeling_auto.AutoModelForImageClassification.register(classifier.config_class, classifier, exist_ok=True)


def register_processors(image_processing_auto: ModuleType) -> None:
    """Tell `AutoImageProcessor`, of the module given, about the processors; it wants the classes themselves."""
    from .processing_acat import ACATProcessor
    from .processing_difffuse import DifFuseProcessor

    processors: dict[type[Any], type[Any]] = {classifier.config_class: ACATProcessor for classifier in CLASSIFIERS}
    processors[GuidedConfig] = DifFuseProcessor  # a pipeline's: found by the name in its folder, whatever the key is
    for config, processor in processors.items():
        backends = {"torchvision": processor, "pil": processor}  # neither is used: the processors work on tensors
        image_processing_auto.AutoImageProcessor.register(config, image_processor_classes=backends, exist_ok=True)
