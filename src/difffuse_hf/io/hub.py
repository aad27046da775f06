"""Model folders and the Hugging Face Hub: is a folder complete, its model card, and the way up.

A model card says what the model is, what it was trained on and what it scores; the scores come from the caller.
"""

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

from ..errors import InputError

HUB_ERRORS = (OSError, HTTPError)  # of its client, where the Hub cannot be reached or refuses
MODEL_FILES = ["*.json", "*.safetensors", "*.md"]  # no pickles

_CARD = """---
{metadata}
---

# {name}

{description}

**A research tool, not a medical device.** Do not use it for diagnosis or treatment.

## Use

```python
from difffuse_hf import DifFusePipeline

pipe = DifFusePipeline.from_pretrained("{repo_id}")
output = pipe(image)  # (B, C, H, W) in [0, 1]: counterfactuals, anomaly_maps, masks, saliency
```

or `difffuse detect SCAN --model {repo_id} --output out`.

## Training data

{training_data}

## Scores

{scores}

## Credits

{credits}
"""


def model_card(
    name: str,
    description: str,
    training_data: str,
    scores: Mapping[str, float | str],
    credits: Sequence[str] = (),
    repo_id: str = "user/name",
    license: str = "apache-2.0",
    tags: Sequence[str] = (),
) -> str:
    """The text of a model card in Markdown with the Hub's metadata on top.

    Args:
        name, description (`str`): title, and what the model does in a sentence or two.
        training_data (`str`): what it saw, real or synthetic, and how the data was split.
        scores (`Mapping[str, float | str]`): measure (with its data set) to value; numbers get three digits.
        credits (`Sequence[str]`): data, labels and methods the model rests on, besides the thesis.
        repo_id (`str`): name on the Hub, or the folder, shown in the example.
        license (`str`): the Hub's name of the licence of the weights.
        tags (`Sequence[str]`): further tags.
    """
    metadata = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["difffuse", "medical-imaging", "anomaly-detection", *tags],
    )
    rows = [f"| {key} | {value if isinstance(value, str) else f'{value:.3f}'} |" for key, value in scores.items()]
    thesis = (
        "The method is that of A. Fontanella, *Region-based Deep Learning Methods to Enhance Subtle Lesion Detection*"
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        name=name,
        description=description,
        repo_id=repo_id,
        training_data=training_data,
        scores="\n".join(["| measure | value |", "|---|---|", *rows]) if rows else "Not evaluated yet.",
        credits="\n".join(f"- {line}" for line in [f"{thesis} (Edinburgh, 2024).", *credits]),
    )


def write_model_card(folder: str | Path, card: str) -> Path:
    """Put a card into a saved pipeline's folder as its `README.md`."""
    check_model_folder(folder)
    path = Path(folder) / "README.md"
    path.write_text(card, encoding="utf-8")
    return path


def refuse_public(repo_id: str, *, repo_type: str = "model", token: str | None = None) -> None:
    """Raise an `InputError` if a repository exists and everybody may read it, or if no repository can have the name.

    `push_folder` asks this before it uploads; a long computation that ends in a push may ask it at its start. Where
    the Hub cannot be reached, one of `HUB_ERRORS` is left to the caller.
    """
    try:
        private = HfApi(token=token).repo_info(repo_id, repo_type=repo_type, timeout=10).private
    except RepositoryNotFoundError:
        return
    except HFValidationError as error:
        raise InputError(f"No repository on the Hub can be called {repo_id}: {error}") from None
    if not private:
        raise InputError(
            f"{repo_id} on the Hub is public, and what was learned from patients must not be; make it private "
            "there, or say that everybody may read it (`--public`, in Python `public=True`)."
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    public: bool = False,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    delete_patterns: Sequence[str] | str | None = None,
    commit_message: str = "Upload with difffuse_hf",
    token: str | None = None,
) -> str:
    """Upload a folder in one commit, the only way from this package to the Hub; returns the commit's address.

    What was learned from patients is not for everybody: a new repository is private, and an existing public one is
    refused, unless `public` is said.

    Args:
        folder (`str` or `Path`): what to upload.
        repo_id (`str`): `user/name`; made if there is none.
        repo_type (`str`): `"model"` or `"dataset"`.
        public (`bool`): the world may read it.
        allow_patterns, ignore_patterns, delete_patterns, commit_message: as in `HfApi.upload_folder`.
        token (`str`, *optional*): of the Hub; the one that is logged in by default.

    Raises:
        InputError: the repository is public and `public` was not said, or the Hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=not public, exist_ok=True).repo_id
        if not public:
            refuse_public(repo_id, repo_type=repo_type, token=token)
        return api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
            commit_message=commit_message,
        ).commit_url
    except (*HUB_ERRORS, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is complete, but the Hub did not take it as {repo_id}: {reason}") from error


def push(pipeline, repo_id: str, card: str, public: bool = False, token: str | None = None) -> str:
    """Upload a whole pipeline with its card in one commit (see `push_folder`); returns the commit's address."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        write_model_card(folder, card)
        return push_folder(folder, repo_id, public=public, token=token)


def private_by_default(cls: type) -> type:
    """Class decorator: `push_to_hub`, and `save_pretrained(push_to_hub=True)`, go through `push_folder`.

    Without it the methods that models, pipelines and processors inherit make public repositories. `private=False`,
    as those libraries spell it, says `public=True`.
    """
    save = cls.save_pretrained

    @wraps(save)  # diffusers looks at the signature
    def save_pretrained(
        self, save_directory, *args, push_to_hub=False, repo_id=None, public=False, private=None, token=None, **kwargs
    ):
        result = save(self, save_directory, *args, **kwargs)
        if push_to_hub:
            name = repo_id or Path(save_directory).name
            push_folder(save_directory, name, public=public or private is False, token=token)
        return result

    def push_to_hub(self, repo_id, *, public=False, private=None, commit_message=None, token=None, **kwargs):
        """Upload to the Hub: private unless `public`, see `difffuse_hf.io.hub.push_folder`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            message = commit_message or f"Upload {type(self).__name__}"
            return push_folder(folder, repo_id, public=public or private is False, commit_message=message, token=token)

    cls.save_pretrained, cls.push_to_hub = save_pretrained, push_to_hub
    return cls


def check_model_folder(name: str | Path, passed: Collection[str] = ()) -> None:
    """Raise an `InputError` if a local model folder cannot be loaded; names on the Hub pass.

    Args:
        name (`str` or `Path`): folder or Hub name.
        passed (`Collection[str]`): components that the caller brings, which the folder need not hold.
    """
    folder = Path(name)
    if not folder.is_dir():
        if len(folder.parts) == 2 and not folder.parent.exists():
            return  # user/name
        raise InputError(f"There is no model folder {folder}; train one, or give a name on the Hub such as user/name.")
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(f"{folder} is not a saved pipeline: it has no model_index.json.")
    components = json.loads(index.read_text(encoding="utf-8"))
    for component, value in components.items():
        if component.startswith("_") or component in passed or not _is_component(value):
            continue
        if not any((folder / component).glob("*.json")):
            raise InputError(f"{folder} is incomplete: {component}/ is missing or has no configuration.")
        is_network = (folder / component / "config.json").is_file()
        if is_network and not any((folder / component).glob("*.safetensors")):
            raise InputError(
                f"{folder} has no weights: {component}/ has no .safetensors file; copy or download it again."
            )


def _is_component(value):
    """Components stand in model_index.json as `[module, class]`, absent ones as `[null, null]`."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


@contextmanager
def explain_download_errors(name: str):
    """Turn what a failed download raises into one sentence."""
    try:
        yield
    except (OSError, HFValidationError) as error:  # every error of the Hub's client is an OSError
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"There is no folder {name}, and the Hub did not give a model of that name: {reason}"
        ) from error
