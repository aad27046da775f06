"""What all pipelines that make a healthy counterfactual share: loading, input, noise, the way up and the way back.

Notation (<name> -> <name in the thesis>)
    image -> x_0 in [0, 1]; sample -> x_t, which starts from 2 x_0 − 1; noise_pred -> ε_θ(x_t, t); noise_level -> K
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from ..errors import InputError, require_choice
from ..io.hub import local_folder, private_by_default
from ..io.model_folder import check_model_folder, components_of, read_json
from ..models.loading import check_finite, check_network
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler, Predictor
from .anomaly_map import anomaly_map
from .pipeline_output import CounterfactualOutput
from .sampling import Draw, Generators, Images, OnStep, Sampling, SamplingOptions, images_a_call, leave


def declared(init: Callable) -> Callable:
    """Decorator of a pipeline's `__init__`: each argument is a component or a setting, and is registered as such.

    Diffusers reads the signature to know what a saved folder holds: arguments without a default and those named in
    `_optional_components` are components, each with a folder of its own; all others are settings, the defaults of the
    call, and go into `model_index.json`. The body of `__init__` runs afterwards and need only check.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def registered(self, *args, **kwargs):
        arguments = signature.bind(self, *args, **kwargs)
        arguments.apply_defaults()
        given = {name: value for name, value in arguments.arguments.items() if name != "self"}
        components = {
            name: value
            for name, value in given.items()
            if signature.parameters[name].default is inspect.Parameter.empty or name in self._optional_components
        }
        self.register_modules(**components)
        self.register_to_config(**{name: value for name, value in given.items() if name not in components})
        init(self, *args, **kwargs)

    return registered


@private_by_default
class CounterfactualPipeline(DiffusionPipeline):
    """Base of `pipe(image, ...) -> CounterfactualOutput`.

    A subclass declares its components and settings in an `__init__` under `@declared`; of the components, `unet`,
    `scheduler` and `processor` are used here. Pipelines with an anomaly map of `map_of` have the settings
    `anomaly_channels` and `morphology_size`.
    """

    unet: UNet2DModel
    scheduler: DifFuseScheduler
    processor: DifFuseProcessor | None
    model_cpu_offload_seq = "unet"
    _optional_components = ["processor"]
    _callback_tensor_inputs = ["sample", "noise_pred"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs) -> Any:
        """Load a pipeline from a folder or the Hub, in float32 unless `dtype` says otherwise.

        Args:
            dtype (`torch.dtype` or `dict`, *optional*): of the U-Net; networks that find and judge a lesion stay in
                float32, because their masks would change; a `dict` of component and dtype is taken as it is.

        Raises:
            InputError: it is not complete, or its folder holds what is not opened (see `check_components`).
        """
        check_model_folder(pretrained_model_name_or_path, passed=kwargs)
        check_components(pretrained_model_name_or_path, passed=kwargs)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or torch.float32
        kwargs["dtype"] = dtype if isinstance(dtype, dict) else {"unet": dtype, "default": torch.float32}
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **{**kwargs, "use_safetensors": True})
        for name, network in pipeline.components.items():
            if isinstance(network, torch.nn.Module) and name not in kwargs:
                check_finite(network, Path(pretrained_model_name_or_path, name))
        return pipeline

    def to(self, *args, **kwargs):
        """As in diffusers, to a device and a dtype; only the U-Net changes its dtype, see `from_pretrained`."""
        dtype = kwargs.pop("dtype", None) or next((one for one in args if isinstance(one, torch.dtype)), None)
        super().to(*(one for one in args if not isinstance(one, torch.dtype)), **kwargs)
        if dtype is not None and "unet" in self.components:
            torch.nn.Module.to(self.unet, dtype=dtype)
        return self

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """Fetch a whole repository: diffusers' own `download` looks for our classes as code files in it."""
        names = ("cache_dir", "force_download", "token", "revision", "local_files_only")
        given: dict[str, Any] = {name: kwargs.get(name) for name in names}
        folder = local_folder(pretrained_model_name, **given)
        check_model_folder(folder, passed=kwargs)
        check_components(folder, passed=kwargs)
        return str(folder)

    def setting(self, name: str, value: Any) -> Any:
        """An argument of the call, or the model's own value of it where the call leaves it at None."""
        return self.config[name] if value is None else value

    def what_images_must_fit(self) -> tuple[str, int, int]:
        """Name of the network that sees the image, its channels, and what height and width are multiples of."""
        config = self.unet.config
        return "U-Net", config["in_channels"], 2 ** (len(config["block_out_channels"]) - 1)

    def check_image(self, image: Images) -> torch.Tensor:
        """The slices as float32, or an `InputError` that says what is wrong with them."""
        image = as_tensor("image", image)
        network, channels, multiple = self.what_images_must_fit()
        if image.ndim != 4 or 0 in image.shape:
            raise InputError(f"`image` must have the shape (B, C, H, W), got {tuple(image.shape)}.")
        if image.shape[1] != channels:
            modalities = getattr(self.processor, "modalities", None)
            remedy = f"; stack {', '.join(modalities)} on dim 1." if modalities else "."
            raise InputError(f"`image` has {image.shape[1]} channels but the {network} takes {channels}{remedy}")
        if image.shape[2] % multiple or image.shape[3] % multiple:
            raise InputError(
                f"`image` is {image.shape[2]} x {image.shape[3]} pixels but the {network} takes multiples of "
                f"{multiple}; pad it with zeros."
            )
        image = image.float()
        if not image.isfinite().all():
            raise InputError("`image` has voxels that are NaN or infinite; replace them before the slices are scaled.")
        if image.min() < 0 or image.max() > 1:
            raise InputError(
                f"`image` must lie in [0, 1], got {image.min():.3g} to {image.max():.3g}; "
                "scale it as the model's training slices were (see `DifFuseProcessor`)."
            )
        return image

    @staticmethod
    def check_generators(generator, batch_size: int):
        """One generator per image where there can be one, so that a batch of one is like any other batch."""
        if isinstance(generator, torch.Generator) and batch_size == 1:
            return [generator]
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"`generator` holds {len(generator)} generators for {batch_size} images; give one each.")
        return generator

    def begin(self, image: Images, options: SamplingOptions) -> Sampling:
        """The checked input of one call, and how noise is predicted and drawn in it."""
        if not isinstance(self.scheduler, DifFuseScheduler):
            raise InputError(
                f"The scheduler must be a DifFuseScheduler, got {type(self.scheduler).__name__}; make one of it with "
                "`DifFuseScheduler.from_config(pipe.scheduler.config)`."
            )
        for name in options.callback_on_step_end_tensor_inputs:
            require_choice("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        image = self.check_image(image).to(self._execution_device)
        generators = self.check_generators(options.generator, len(image))
        return Sampling(
            image,
            options,
            generators,
            predict=partial(self.predict_noise, batch_size=options.unet_batch_size),
            source=self.draw_noise,
            on_step=leave if options.callback_on_step_end is None else partial(self._call_back, options),
        )

    def _call_back(self, options, step, level, tensors):
        """The tensors of a chain after the user's callback, which sees those it asked for."""
        shown = {name: tensors[name] for name in options.callback_on_step_end_tensor_inputs}
        return {**tensors, **options.callback_on_step_end(self, step, self.scheduler.timestep_of(level), shown)}

    def levels_of(self, options: SamplingOptions) -> list[int]:
        """K … 0 as the call asks for them; the scheduler's own grid stays as it is."""
        noise_level = self.setting("noise_level", options.noise_level)
        return self.scheduler.levels_from(noise_level, options.num_inference_steps)

    def map_of(self, image: torch.Tensor, counterfactual: torch.Tensor) -> torch.Tensor:
        """The anomaly map of the model's channels and square, `(B, 1, H, W)`, of images in [0, 1]."""
        return anomaly_map(image, counterfactual, self.config["anomaly_channels"], self.config["morphology_size"])

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        """Whether the anomaly map is `map_of` the image and the counterfactual, and of nothing else.

        Then the maps of other `anomaly_channels` need no new counterfactual.
        """
        return True

    def predict_noise(
        self,
        sample: torch.Tensor,
        level: int,
        batch_size: int | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """ε_θ(x_t, t) in the sample's own precision, and the fraction v of a learned variance or None.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t.
            level (`int`): its noise level.
            batch_size (`int`, *optional*): most images in one network call, see `SamplingOptions`.
            class_labels (`torch.Tensor` of shape `(B,)`, *optional*): of a class-conditional U-Net.
        """
        timestep = torch.full((1,), self.scheduler.timestep_of(level), device=sample.device)
        size = batch_size or images_a_call(sample)
        while True:
            parts = sample.to(self.unet.dtype).split(size)
            labels = [{}] * len(parts)
            if class_labels is not None:
                labels = [{"class_labels": some} for some in class_labels.split(size)]
            try:
                outputs = [self.unet(part, timestep, **more).sample for part, more in zip(parts, labels)]
                break
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size = min(size, len(sample)) // 2 or 1
        return self.scheduler.read_prediction(torch.cat(outputs).to(sample.dtype), level, sample)

    def draw_noise(self, sample: torch.Tensor, level: int, generators: Generators, shared_by: int = 1) -> torch.Tensor:
        """Gaussian noise z like `sample`, at any level; with `shared_by` B, the B images have the first one's."""
        shape = (len(sample) // shared_by, *sample.shape[1:])
        generators = generators[: shape[0]] if isinstance(generators, list) else generators
        return randn_tensor(shape, generators, sample.device, sample.dtype).repeat(shared_by, 1, 1, 1)

    def invert(self, sample: torch.Tensor, levels: Sequence[int], predict: Predictor, bar) -> torch.Tensor:
        """Up along `levels` by DDIM inversion (Eq. 6.9), to the last of them."""
        for _, reached in self.scheduler.inversion(sample, levels, predict):
            sample = reached
            bar.update()
        return sample

    def denoise(
        self,
        sample: torch.Tensor,
        levels: Sequence[int],
        predict: Predictor,
        bar,
        draw: Draw | None = None,
        on_step: OnStep = leave,
    ) -> torch.Tensor:
        """Down along `levels`: by DDPM (Eq. 6.7) with noise from `draw(sample, level)`, else by DDIM (Eq. 6.8)."""
        eta = 0.0 if draw is None else 1.0
        for step, (level, target) in enumerate(pairwise(levels)):
            noise_pred, variance_fraction = predict(sample, level)
            noise = None if draw is None else draw(sample, level)
            sample = self.scheduler.reverse_step(noise_pred, level, target, sample, eta, noise, variance_fraction)
            sample = on_step(step, level, {"sample": sample, "noise_pred": noise_pred})["sample"]
            bar.update()
        return sample

    def inpaint(
        self,
        sample: torch.Tensor,
        image: torch.Tensor,
        mask: torch.Tensor,
        levels: Sequence[int],
        run: Sampling,
        bar,
    ) -> torch.Tensor:
        """Along `levels`: they fall by DDPM steps inside the mask and rise by fresh noise (Lugmayr 2022, Alg. 1).

        Outside the mask x_t is drawn from q(x_t | x_0) at every step, with the noise of the step inside: no pixel of a
        binary mask sees both.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t at the first level.
            image (`torch.Tensor` of shape `(B, C, H, W)`): 2 x_0 − 1, known outside the mask.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted.
            run (`Sampling`): how noise is predicted and drawn; its callback sees the steps down.
        """
        steps = 0
        for level, target in pairwise(levels):
            noise = run.draw(sample, level)
            if target > level:
                sample = self.scheduler.diffuse(sample, level, target, noise)
            else:
                noise_pred, variance_fraction = run.predict(sample, level)
                known = self.scheduler.diffuse(image, 0, target, noise)
                sample = self.scheduler.fused_step(
                    noise_pred, level, target, sample, mask, noise, known, variance_fraction
                )
                tensors = run.on_step(steps, level, {"sample": sample, "noise_pred": noise_pred, "mask": mask})
                sample, mask, steps = tensors["sample"], tensors["mask"], steps + 1
            bar.update()
        return sample

    def bar(self, total: int) -> Any:
        """A progress bar of so many steps, as the user has configured it."""
        return self.progress_bar(total=total)  # pyright: ignore[reportAttributeAccessIssue]

    def make_output(
        self, options: SamplingOptions, counterfactuals, anomaly_maps, masks=None, saliency=None, **of_samples
    ) -> CounterfactualOutput | tuple:
        """The results in the form that the call asks for; ends the call. Without masks they are 1 everywhere.

        Raises:
            InputError: they are NaN or infinite, and would look as if there were no lesion.
        """
        self.maybe_free_model_hooks()
        made = [one for one in (counterfactuals, anomaly_maps, masks, saliency) if one is not None]
        if not all(one.isfinite().all() for one in made):
            raise InputError("The networks answer NaN or infinity; compute in float32, or copy the model again.")
        masks = torch.ones_like(counterfactuals[:, :1]) if masks is None else masks
        output = CounterfactualOutput(counterfactuals, anomaly_maps, masks, saliency, **of_samples)
        return output.in_form(options.output_type, options.return_dict)


def as_tensor(name: str, values: Images) -> torch.Tensor:
    """An argument of a call as a tensor, or an `InputError` if it is neither a tensor nor an array."""
    if not isinstance(values, (torch.Tensor, np.ndarray)):
        raise InputError(
            f"`{name}` must be a tensor or an array of a batch of slices, (B, C, H, W), got {type(values).__name__}; "
            "put several slices together with `torch.stack`."
        )
    return torch.as_tensor(values)


def to_unit_range(sample: torch.Tensor) -> torch.Tensor:
    """From the [-1, 1] of the diffusion process to the [0, 1] of images."""
    return (sample / 2 + 0.5).clamp(0, 1)


def check_components(folder: str | Path, passed: Collection[str] = ()) -> None:
    """Import the classes of a saved pipeline's components, and look whether its U-Net is whole; Hub names pass.

    diffusers finds classes in loaded modules only. Our own networks look for themselves when they are loaded.

    Raises:
        InputError: a class does not exist, or the U-Net is not what its weights hold (see `check_network`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    index = folder / "model_index.json"
    saved = {name: value for name, value in read_json(index).items() if name not in passed}
    for name, (module, kind) in components_of(saved, folder).items():
        try:
            found = getattr(importlib.import_module(module), kind)
        except (ImportError, AttributeError):
            found = None
        if not hasattr(found, "from_pretrained"):
            raise InputError(f"{index} names {module}.{kind} as {name}, which this version does not have.")
        if isinstance(found, type) and issubclass(found, UNet2DModel):
            check_network(found, folder / name)
