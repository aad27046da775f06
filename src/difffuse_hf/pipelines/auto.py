"""A saved pipeline of this package, whichever it is."""

from pathlib import Path

import torch

from ..errors import require_choice
from ..io.hub import model_folder
from ..io.model_folder import read_json
from .pipeline_anoddpm import AnoDDPMPipeline
from .pipeline_anofpdm import AnoFPDMPipeline
from .pipeline_autoddpm import AutoDDPMPipeline
from .pipeline_base import CounterfactualPipeline
from .pipeline_classifier_free_guidance import ClassifierFreeGuidancePipeline
from .pipeline_classifier_guidance import ClassifierGuidancePipeline
from .pipeline_difffuse import DifFusePipeline
from .pipeline_itermask2 import IterMask2Pipeline
from .pipeline_reconstruction import ReconstructionPipeline
from .pipeline_repaint import RePaintPipeline
from .pipeline_thor import THORPipeline
from .pipeline_unmasked import UnmaskedPipeline

PIPELINES: tuple[type[CounterfactualPipeline], ...] = (
    DifFusePipeline,
    UnmaskedPipeline,
    AnoDDPMPipeline,
    AutoDDPMPipeline,
    THORPipeline,
    ClassifierGuidancePipeline,
    ClassifierFreeGuidancePipeline,
    AnoFPDMPipeline,
    RePaintPipeline,
    ReconstructionPipeline,
    IterMask2Pipeline,
)


def load_pipeline(name: str | Path, device: str | torch.device = "cpu") -> CounterfactualPipeline:
    """A saved pipeline, of the class that its model_index.json names, in eval mode and float32.

        pipe = load_pipeline("demo")
        output = pipe(image, generator=torch.Generator().manual_seed(0))  # (B, C, H, W) in [0, 1]

    Args:
        name (`str` or `Path`): a folder, a name on the Hub (`user/name`), or embedded: `"demo"`, `"flair"`, `"ct"`.
        device (`str` or `torch.device`): where its networks go.

    Raises:
        InputError: there is no such model, it is incomplete, or it is no pipeline of this package.
    """
    folder = model_folder(name)
    kinds = {kind.__name__: kind for kind in PIPELINES}
    saved = read_json(folder / "model_index.json").get("_class_name", "")
    require_choice(f"_class_name` in `{folder / 'model_index.json'}", saved, kinds)
    return kinds[saved].from_pretrained(folder).to(device)
