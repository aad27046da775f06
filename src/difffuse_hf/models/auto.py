"""Any classifier of the package from a folder or the Hub."""

from pathlib import Path

from transformers import PreTrainedModel

from ..errors import InputError, require_choice
from ..io.hub import local_folder
from ..io.model_folder import read_json
from .registration import CLASSIFIERS as LAZY_CLASSIFIERS

CLASSIFIERS = tuple(classifier.load() for classifier in LAZY_CLASSIFIERS)  # the classes themselves


def load_classifier(name: str | Path) -> PreTrainedModel:
    """The classifier in a folder or Hub repository, whichever class it is, in eval mode.

    Raises:
        InputError: there is no classifier of this name.
    """
    kinds = {kind.config_class.model_type: kind for kind in CLASSIFIERS}
    try:
        folder = local_folder(name)
        kind = read_json(folder / "config.json").get("model_type")
        require_choice(f"model_type` in `{folder / 'config.json'}", kind, kinds)
        return kinds[kind].from_pretrained(folder).eval()
    except InputError as error:
        raise InputError(
            f"No classifier could be loaded from '{name}' ({str(error).rstrip('.')}); give a folder written by "
            "examples/train_classifier.py or train_acat.py, or a Hub name."
        ) from None
