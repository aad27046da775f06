"""The model card of a saved pipeline: what the model is, what it was trained on and what it scores."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..errors import InputError
from .files import write_whole
from .model_folder import check_inside, check_model_folder

MOST_CHARACTERS = 1_000_000  # of a card that are looked at

_CLASSIFIER = """---
{metadata}
---

# {name}

{description}

**A research tool, not a medical device.** Do not use it for diagnosis or treatment.

## Use

```python
from difffuse_hf import load_classifier
from transformers import AutoImageProcessor

classifier = load_classifier("{repo_id}").eval()
processor = AutoImageProcessor.from_pretrained("{repo_id}")
logits = classifier(**processor(image)).logits  # of {classes}
```

This needs the package: `pip install difffuse_hf`. Transformers knows the model once `difffuse_hf` is imported.

## Training data

{training_data}

## Scores

{scores}
"""

_CARD = """---
{metadata}
---

# {name}

{description}

**A research tool, not a medical device.** Do not use it for diagnosis or treatment.

## Use

{usage}

## Training data

{training_data}

## Scores

{scores}

## Credits

{credits}
"""


_USAGE = """```python
from difffuse_hf import load_pipeline

pipe = load_pipeline("{repo_id}")
output = pipe(image)  # (B, C, H, W) in [0, 1]: counterfactuals, anomaly_maps, masks, saliency
```

or `difffuse detect SCAN --model {repo_id} --output out`. Both need the package: `pip install difffuse_hf`. Diffusers
alone does not know the pipeline and ends with "module diffusers has no attribute DifFusePipeline", or for a name on
the Hub with "... is not a module in 'diffusers/pipelines'"; import it as above."""


def usage(repo_id: str) -> str:
    """How a saved pipeline is used, the section `Use` of its card: a folder, a name on the Hub, or of `EMBEDDED`."""
    return _USAGE.format(repo_id=repo_id)


def model_card(
    name: str,
    description: str,
    training_data: str,
    scores: Mapping[str, float | str],
    credits: Sequence[str] = (),
    repo_id: str = "user/name",
    license: str = "apache-2.0",
    tags: Sequence[str] = (),
    dataset: str = "not stated",
) -> str:
    """The text of a model card in Markdown with the Hub's metadata on top; the scores come from the caller.

    Args:
        name, description (`str`): title, and what the model does in a sentence or two.
        training_data (`str`): what it saw, real or synthetic, and how the data was split.
        scores (`Mapping[str, float | str]`): measure (with its data set) to value; numbers get three digits.
        credits (`Sequence[str]`): data, labels and methods the model rests on, besides the thesis.
        repo_id (`str`): name on the Hub, or the folder, shown in the example.
        license (`str`): the Hub's name of the licence of the weights.
        tags (`Sequence[str]`): further tags.
        dataset (`str`): name of the data that the scores are of, for the Hub's `model-index`.
    """
    metadata = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["difffuse", "medical-imaging", "anomaly-detection", *tags],
        **_model_index(name, "image-to-image", dataset, scores),
    )
    thesis = (
        "The method is that of A. Fontanella, *Region-based Deep Learning Methods to Enhance Subtle Lesion Detection*"
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        name=name,
        description=description,
        usage=usage(repo_id),
        training_data=training_data,
        scores=_table(scores),
        credits="\n".join(f"- {line}" for line in [f"{thesis} (Edinburgh, 2024).", *credits]),
    )


def classifier_card(
    name: str,
    description: str,
    training_data: str,
    scores: Mapping[str, float | str],
    classes: Sequence[str],
    dataset: str,
    repo_id: str,
    license: str = "apache-2.0",
    trained_on: str = "",
    base_model: str = "",
) -> str:
    """The text of a classifier's card, see `model_card`; `classes` are the names of its logits, in order.

    `trained_on` and `base_model`, a data set and the model that training started from, are linked where they are names
    on the Hub; paths of a machine are left out.
    """
    data, base = hub_name(trained_on), hub_name(base_model)
    metadata = ModelCardData(
        license=license,
        datasets=None if data is None else [data],
        base_model=base,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["difffuse", "medical-imaging"],
        **_model_index(name, "image-classification", dataset, scores),
    )
    return _CLASSIFIER.format(
        metadata=metadata.to_yaml(),
        name=name,
        description=description,
        repo_id=repo_id,
        classes=", ".join(classes),
        training_data=training_data,
        scores=_table(scores),
    )


def hub_name(name: str) -> str | None:
    """The name `user/name` of a repository on the Hub; None for what is a folder, or could be none."""
    return name if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists() else None


def _table(scores: Mapping[str, float | str]) -> str:
    rows = [f"| {key} | {value if isinstance(value, str) else f'{value:.3f}'} |" for key, value in scores.items()]
    return "\n".join(["| measure | value |", "|---|---|", *rows]) if rows else "Not evaluated yet."


def _model_index(name: str, task: str, dataset: str, scores: Mapping[str, float | str]) -> dict[str, Any]:
    """The scores that are numbers as the Hub's `model-index`, which its pages and searches read."""
    results = [
        EvalResult(
            task_type=task,
            dataset_type="medical-imaging",
            dataset_name=dataset,
            metric_type=re.split(r"\W", key)[0].lower(),
            metric_name=key,
            metric_value=round(value, 4),
        )
        for key, value in scores.items()
        if not isinstance(value, str) and math.isfinite(value)
    ]
    return {"model_name": name, "eval_results": results} if results else {}


def write_model_card(folder: str | Path, card: str) -> Path:
    """Put a card into a saved pipeline's folder as its `README.md`."""
    check_model_folder(folder)
    path = Path(folder) / "README.md"
    write_whole(path, lambda file: file.write_text(card, encoding="utf-8"))
    return path


def read_card(folder: str | Path, name: str | None = None) -> str:
    """The text of the README.md in the folder of a model or a data set, called `name`, with its metadata.

    Raises:
        InputError: there is none, or it is a link to elsewhere.
    """
    card = Path(folder) / "README.md"
    if not card.is_file():
        raise InputError(f"{name or folder} has no card: there is no README.md in it.")
    check_inside(card, Path(folder))
    with card.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_CHARACTERS)


def _text_of_card(folder: str | Path) -> str:
    """A card without its metadata; empty where there is no card."""
    text = read_card(folder) if (Path(folder) / "README.md").is_file() else ""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def card_line(folder: str | Path) -> str:
    """The first sentence of running text in a model's README.md, or an empty string."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", _text_of_card(folder))]
    prose = [part for part in paragraphs if part and not part.startswith(("#", "|", "<", "!", "```", "-", ">"))]
    return re.split(r"(?<=[.!?])\s", prose[0])[0].replace("**", "") if prose else ""


def card_section(folder: str | Path, heading: str) -> str:
    """What stands below `## heading` in a model's README.md, up to the next such heading, or an empty string."""
    parts = re.split(r"^## +(.*?) *$", _text_of_card(folder), flags=re.MULTILINE)  # text, heading, text, ...
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]))).get(heading, "")
