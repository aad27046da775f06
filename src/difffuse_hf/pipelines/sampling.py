"""What the calls of all pipelines have in common: the arguments, and what one call carries along."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from typing_extensions import TypedDict

from ..errors import InputError, require_choice
from ..schedulers.scheduling_difffuse import Predictor

OUTPUT_TYPES = ("pt", "np")

Images = torch.Tensor | np.ndarray  # or maps: (B, C, H, W)
Generators = torch.Generator | list[torch.Generator] | None
Tensors = dict[str, torch.Tensor]
Draw = Callable[[torch.Tensor, int], torch.Tensor]  # (sample, level) -> noise like the sample
OnStep = Callable[[int, int, Tensors], Tensors]  # (step, level, tensors) -> tensors


@dataclass(frozen=True)
class SamplingOptions:
    """The keyword arguments that the call of every diffusion pipeline takes besides its own.

    Args:
        noise_level (`int`, *optional*): K, the level from which the image comes back; the model's own by default.
        num_inference_steps (`int`, *optional*): steps back, and of an inversion; every level by default.
        generator (*optional*): one `torch.Generator`, or one per image; then an image's result does not depend on the
            batch it is in. Methods without a random step do not use it.
        output_type (`str`): `"pt"` for tensors or `"np"` for arrays, both channels first.
        return_dict (`bool`): a `CounterfactualOutput`, or its eight entries in a tuple.
        callback_on_step_end (*optional*): `f(pipe, step, timestep, tensors) -> tensors` after each step of the chain
            that makes the counterfactual; a returned tensor replaces the pipeline's.
        callback_on_step_end_tensor_inputs (`Sequence[str]`): the tensors it is given: `"sample"`, `"noise_pred"`, and
            `"mask"` where there is one.
        unet_batch_size (`int`, *optional*): most images, counting samples, in one network call; by default 32, and on
            a CPU so many that their pixels stay in its caches (see `images_a_call`). A call that does not fit into
            the device's memory is made in halves.
        shared_noise (`bool`): the same noise for all images, drawn from the first generator, so that neighbouring
            slices of a scan are repainted alike (see also `smooth_through_slices`).
        offload_trajectory (`bool`): keep a trajectory, where one is kept, in the host's memory and in half precision.

    Raises:
        InputError: a word that is not listed above.
    """

    noise_level: int | None = None
    num_inference_steps: int | None = None
    generator: Generators = None
    output_type: str = "pt"
    return_dict: bool = True
    callback_on_step_end: Callable[..., Tensors] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",)
    unet_batch_size: int | None = None
    shared_noise: bool = False
    offload_trajectory: bool = False

    def __post_init__(self):
        require_choice("output_type", self.output_type, OUTPUT_TYPES)
        if self.unet_batch_size is not None and self.unet_batch_size < 1:
            raise InputError(f"`unet_batch_size` must be at least 1, got {self.unet_batch_size}.")

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> "SamplingOptions":
        """From the keyword arguments of a call; an unknown one is a `TypeError` that lists those that there are."""
        known = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in known:
                raise TypeError(f"There is no argument `{name}`; besides its own this call takes {', '.join(known)}.")
        return cls(**arguments)


class RunKeywords(TypedDict, total=False):
    """Those of the `SamplingOptions` that concern how the work is done, for type checkers."""

    unet_batch_size: int | None
    shared_noise: bool
    offload_trajectory: bool


class SamplingKeywords(RunKeywords, total=False):
    """All of the `SamplingOptions`, for type checkers."""

    noise_level: int | None
    num_inference_steps: int | None
    generator: Generators
    output_type: str
    return_dict: bool
    callback_on_step_end: Callable[..., Tensors] | None
    callback_on_step_end_tensor_inputs: Sequence[str]


def images_a_call(sample: torch.Tensor) -> int:
    """How many images one network call takes: 32, on a CPU 8 of 96 x 96 pixels or as many pixels of another size.

    Measured with the demo network on a server CPU in bfloat16: 28 ms an image at 8, 27 at 16, 36 at 32 images a call;
    16 take 0.3 GB, twice as much as 8.
    """
    return 32 if sample.device.type != "cpu" else max(1, 8 * 96 * 96 // sample[0, 0].numel())


def leave(step: int, level: int, tensors: Tensors) -> Tensors:
    """The `OnStep` of a chain without a callback."""
    return tensors


@dataclass(frozen=True)
class Sampling:
    """One call of a pipeline: its checked input, and how noise is predicted and drawn in it.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1], on the pipeline's device.
        options (`SamplingOptions`): of the call.
        generators: as the noise is drawn with, one per image where there can be one.
        predict: `(sample, level) -> (ε_θ, v or None)`.
        source: `(sample, level, generators, shared_by) -> z`, like the sample, see `draw_noise` of the pipelines.
        on_step: `(step, level, tensors) -> tensors`, the callback after each step.
    """

    image: torch.Tensor
    options: SamplingOptions
    generators: Generators
    predict: Predictor
    source: Callable[[torch.Tensor, int, Generators, int], torch.Tensor]
    on_step: OnStep

    def draw(self, sample: torch.Tensor, level: int) -> torch.Tensor:
        """Noise z like `sample`, which holds the images once or, side by side, several samples of each."""
        generators, count = self.generators, len(sample) // len(self.image)
        if isinstance(generators, list):
            generators = [generator for generator in generators for _ in range(count)]
        return self.source(sample, level, generators, len(self.image) if self.options.shared_noise else 1)

    def of(self, index: torch.Tensor) -> "Sampling":
        """The same for some of the images."""
        generators = self.generators
        if isinstance(generators, list):
            generators = [generators[i] for i in index.tolist()]
        return replace(self, image=self.image[index], generators=generators)
