"""Any classifier of the package from a folder or the Hub."""

from pathlib import Path

from transformers import AutoModelForImageClassification, PreTrainedModel

from ..errors import InputError
from .registration import CLASSIFIERS as LAZY_CLASSIFIERS

CLASSIFIERS = tuple(classifier.load() for classifier in LAZY_CLASSIFIERS)  # the classes themselves


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
