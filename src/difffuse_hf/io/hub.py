"""The Hugging Face Hub: the one way up, and the one way down."""

import inspect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.errors import HTTPError as HubHTTPError  # pyright: ignore[reportPrivateImportUsage]

from ..errors import InputError, first_line
from .model_card import model_card, write_model_card
from .model_folder import check_model_folder, forget_origin

HUB_ERRORS = (OSError, HubHTTPError)  # of its client, where the Hub cannot be reached or refuses
EMBEDDED = ("demo", "flair", "ct")  # the checkpoints in the package: MR of four modalities, FLAIR alone, head CT
MODEL_FILES = ["*.json", "*.safetensors", "*.md"]  # no pickles

Saved = TypeVar("Saved")


def refuse_public(repo_id: str, *, repo_type: str = "model", token: str | bool | None = None) -> None:
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
    allow_patterns: Iterable[str] | None = None,
    ignore_patterns: Iterable[str] | None = None,
    delete_patterns: Iterable[str] | None = None,
    commit_message: str = "Upload with difffuse_hf",
    token: str | bool | None = None,
) -> str:
    """Upload a folder in one commit, the only way from this package to the Hub; returns the commit's address.

    What was learned from patients is not for everybody: a new repository is private, and an existing public one is
    refused, unless `public` is said. An existing private one stays private all the same.

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
    given = {"allow": allow_patterns, "ignore": ignore_patterns, "delete": delete_patterns}
    patterns: dict[str, Any] = {f"{kind}_patterns": list(some) for kind, some in given.items() if some is not None}
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=not public, exist_ok=True).repo_id
        if not public:
            refuse_public(repo_id, repo_type=repo_type, token=token)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            commit_message=commit_message,
            **patterns,
        )
        return str(commit.commit_url)
    except (*HUB_ERRORS, HFValidationError) as error:
        raise InputError(
            f"{folder} is complete, but the Hub did not take it as {repo_id}: {first_line(error)}"
        ) from error


def push(pipeline: Any, repo_id: str, card: str, public: bool = False, token: str | None = None) -> str:
    """Upload a whole pipeline with its card in one commit (see `push_folder`); returns the commit's address."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        return push_folder(folder, repo_id, public=public, token=token)


def private_by_default(cls: type[Saved]) -> type[Saved]:
    """Class decorator: `push_to_hub`, and `save_pretrained(push_to_hub=True)`, go through `push_folder`.

    Without it the methods that models, pipelines and processors inherit make public repositories and fill existing
    ones. `private=False`, as those libraries spell it, says `public=True`.
    """
    decorated: Any = cls
    save = decorated.save_pretrained
    signature = inspect.signature(save)

    @wraps(save)  # diffusers looks at the signature
    def save_pretrained(self, save_directory, *args, push_to_hub=False, **kwargs):
        options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        given = signature.bind(self, save_directory, *args, **kwargs)
        pushed = given.arguments.pop("push_to_hub", push_to_hub)  # it may come by position
        _refuse_arguments(self, _NOT_DONE & set(kwargs) if pushed else ())
        result = save(*given.args, **given.kwargs)
        if given.arguments.get("is_main_process", True):
            forget_origin(save_directory)
        if pushed and given.arguments.get("is_main_process", True):
            name = options.pop("repo_id", None) or Path(save_directory).absolute().name
            _push(self, save_directory, name, allow_patterns=MODEL_FILES, **options)
        return result

    def push_to_hub(self, repo_id, *, commit_message=None, public=False, private=None, token=None, **kwargs):
        """Upload to the Hub: private unless `public`, see `difffuse_hf.io.hub.push_folder`.

        Further arguments are those that `save_pretrained` names, such as `max_shard_size`.
        """
        _refuse_arguments(self, set(kwargs) - set(signature.parameters) | {"push_to_hub"} & set(kwargs))
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            return _push(self, folder, repo_id, commit_message, public, private, token)

    decorated.save_pretrained, decorated.push_to_hub = save_pretrained, push_to_hub
    return cls


_PUSH_OPTIONS = ("repo_id", "commit_message", "public", "private", "token")
_NOT_DONE = {"create_pr", "revision", "subfolder", "commit_description", "tags"}  # by the libraries, not here


def _push(saved, folder, repo_id, commit_message=None, public=False, private=None, token=None, **options):
    message = commit_message or f"Upload {type(saved).__name__}"
    public = public or private is False
    if Path(folder, "model_index.json").is_file() and not Path(folder, "README.md").exists():
        kind = f"A `{type(saved).__name__}` of difffuse_hf."  # how it is loaded is known, if nothing else
        write_model_card(folder, model_card(repo_id, kind, "Not stated.", {}, repo_id=repo_id))
    return push_folder(folder, repo_id, public=public, commit_message=message, token=token, **options)


def _refuse_arguments(saved, names):
    """What is asked for and not done must not pass in silence."""
    if names:
        raise TypeError(f"Pushing a {type(saved).__name__} to the Hub takes no `{min(names)}`.")


@contextmanager
def explain_download_errors(name: str) -> Iterator[None]:
    """Turn what a failed download raises into one sentence."""
    try:
        yield
    except (*HUB_ERRORS, HFValidationError) as error:
        reason = first_line(error)
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            reason = "HF_HUB_OFFLINE is set, and its cache does not hold one; unset it, or download the model first."
        raise InputError(
            f"There is no folder {name}, and the Hub did not give a model of that name: {reason}"
        ) from error


def embedded_folder(name: str | Path) -> Path | None:
    """The folder of a checkpoint in the package (`EMBEDDED`); None for another name."""
    return Path(str(files(__name__.partition(".")[0]))) / "assets" / name if name in EMBEDDED else None


def model_folder(name: str | Path) -> Path:
    """The folder of a saved pipeline: itself, downloaded for a name on the Hub (`user/name`), or of `EMBEDDED`.

    Raises:
        InputError: there is no such model, or its folder is incomplete.
    """
    folder = embedded_folder(name) or Path(name)
    check_model_folder(folder)
    if not folder.is_dir():
        folder = local_folder(name)
        check_model_folder(folder)
    return folder


def local_folder(name: str | Path, patterns: Sequence[str] = MODEL_FILES, **options: Any) -> Path:
    """A model's folder: itself, or downloaded for a name on the Hub (`user/name`), without anything that can run.

    Args:
        patterns: of the files that are downloaded.
        options: of `snapshot_download` (`revision`, `cache_dir`, `token`, ...); those that are `None` are left out.

    Raises:
        InputError: there is no such folder, and the Hub does not give one of the name.
    """
    if Path(name).is_dir():
        return Path(name)
    given = {option: value for option, value in options.items() if value is not None}
    with explain_download_errors(str(name)):
        return Path(snapshot_download(str(name), allow_patterns=list(patterns), **given))
