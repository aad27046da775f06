"""The diffusion steps of Dif-fuse (thesis Ch. 6): DDIM inversion, the DDIM/DDPM reverse step and their fusion.

Steps go from one noise *level* to another. Level 0 is the clean image (ᾱ_0 = 1), level j = 1…T is x_j, noised with
ᾱ_j = `alphas_cumprod[j - 1]`; the U-Net at level j is asked for timestep j − 1, at level 0 for timestep 0.
The two levels are arguments of `reverse_step`, `invert_step` and `fused_step`, so any grid of levels will do and no
step depends on the one before. `step` is the form that diffusers' own pipelines call: from a timestep to the next
level of the grid that `set_timesteps` has laid.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import (
    SchedulerMixin,  # diffusers looks for this name here when it loads
    SchedulerOutput,
)
from diffusers.utils.torch_utils import randn_tensor

from ..errors import InputError, require_choice
from ..io.hub import private_by_default

PREDICTION_TYPES = ("epsilon", "v_prediction")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned_range")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
MOST_TIMESTEPS = 100_000
Predictor = Callable[
    [torch.Tensor, int], tuple[torch.Tensor, torch.Tensor | None]
]  # (sample, level) -> ε_θ, v or None


@dataclass
class DifFuseSchedulerOutput(SchedulerOutput):
    """What `DifFuseScheduler.step` returns.

    Args:
        prev_sample (`torch.Tensor` of shape `(B, C, H, W)`): x at the next level of the grid.
        pred_original_sample (`torch.Tensor` of shape `(B, C, H, W)`): x̂_0 as predicted at this step.
    """

    pred_original_sample: torch.Tensor | None = None


def forward_process(clean: torch.Tensor, noise: torch.Tensor, alpha_bar: float | torch.Tensor) -> torch.Tensor:
    """A sample of q(x_t | x_0): x_t = √ᾱ x_0 + √(1 − ᾱ) ε; `alpha_bar` is a number or broadcasts to `clean`."""
    return alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise


@private_by_default
class DifFuseScheduler(SchedulerMixin, ConfigMixin):
    """Inversion (Eq. 6.9), reverse (Eqs. 6.7 and 6.8) and fused steps (Eq. 6.10) between any two noise levels.

    Made from the configuration of another scheduler by `DifFuseScheduler.from_config(other.config)`.

    Args:
        num_train_timesteps (`int`): T of the noise schedule the U-Net was trained with.
        beta_start, beta_end (`float`): first and last β_t.
        beta_schedule (`str`): a name that `diffusers.DDPMScheduler` knows.
        prediction_type (`str`): what the U-Net predicts: `"epsilon"`, the noise, as in the thesis, or
            `"v_prediction"`, v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022).
        variance_type (`str`): variance of the DDPM noise. `"fixed_small"` is the posterior variance of Eq. 6.7,
            `"fixed_large"` is σ_t² = β_t, as in the author's code; `"learned_range"` lies between the two, where a
            U-Net with 2C output channels says (Nichol & Dhariwal 2021). Such a U-Net also works with the fixed ones.
        clip_sample (`bool`): clamp the predicted clean image to [-1, 1]. Off, because clamping breaks inversion.
        trained_betas (`list[float]`, *optional*): the β_t themselves, in place of `beta_start`, `beta_end` and
            `beta_schedule`.
        max_timestep (`int`, *optional*): the U-Net was trained on timesteps below this one only, so no chain starts
            above this level; T by default.

    Raises:
        InputError: a word that is none of those listed above.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        prediction_type: str = "epsilon",
        variance_type: str = "fixed_small",
        clip_sample: bool = False,
        trained_betas: list[float] | None = None,
        max_timestep: int | None = None,
    ):
        require_choice("prediction_type", prediction_type, PREDICTION_TYPES)
        require_choice("variance_type", variance_type, VARIANCE_TYPES)
        require_choice("beta_schedule", beta_schedule, BETA_SCHEDULES)
        if not 1 <= num_train_timesteps <= MOST_TIMESTEPS:
            raise InputError(f"`num_train_timesteps` must be 1 to {MOST_TIMESTEPS}, got {num_train_timesteps}.")
        stock = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)  # pyright: ignore[reportArgumentType]
        self.alphas_cumprod = stock.alphas_cumprod.double()  # 1 − ᾱ and the variances are small differences
        noise = 1 - self.alphas_cumprod
        if not (noise.isfinite().all() and (noise > 0).all() and (noise < 1).all() and (noise.diff() > 0).all()):
            raise InputError(f"The noise levels from {beta_start} to {beta_end} do not rise from 0 towards 1.")
        if max_timestep is not None and not 1 <= max_timestep <= num_train_timesteps:
            raise InputError(f"`max_timestep` must be 1 to {num_train_timesteps}, got {max_timestep}.")
        self.highest_level = max_timestep or num_train_timesteps
        self.init_noise_sigma = 1.0
        self.set_timesteps()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs) -> Any:
        """A scheduler with the noise schedule of another one's configuration.

        Raises:
            InputError: the configuration asks for something that would change the result and is not supported here.
        """
        wanted = {**(config or {}), **kwargs}
        if wanted.get("rescale_betas_zero_snr"):
            raise InputError(
                "`rescale_betas_zero_snr` is not supported: with ᾱ_T = 0 no image follows from the noise at level T."
            )
        if wanted.get("thresholding"):
            raise InputError("`thresholding` is not supported: clamping by percentile breaks inversion.")
        if wanted.get("clip_sample") and wanted.get("clip_sample_range", 1.0) != 1.0:
            raise InputError(f"`clip_sample_range` must be 1, got {wanted['clip_sample_range']}.")
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def __len__(self):
        return len(self.alphas_cumprod)

    def levels_from(
        self, noise_level: int | None = None, num_inference_steps: int | None = None, spacing: float = 1.0
    ) -> list[int]:
        """The levels K … 0, one more than there are steps: K (i / steps)^ρ, rounded.

        Args:
            noise_level (`int`, *optional*): K, the level at which the reverse process starts; by default the highest
                one that the U-Net has learned, T unless there is a `max_timestep`.
            num_inference_steps (`int`, *optional*): number of reverse steps; every level from K to 0 by default.
            spacing (`float`): ρ; 1 spreads the levels evenly, more puts them closer together towards the image. Levels
                that are rounded to the same number are one, and there are so many fewer steps.

        Raises:
            InputError: K does not lie between 1 and that level, the steps not in 1 … K, or ρ is not above 0.
        """
        noise_level = self.highest_level if noise_level is None else noise_level
        if not 1 <= noise_level <= self.highest_level:
            learned = "" if self.highest_level == len(self) else ", below which the U-Net was trained"
            raise InputError(f"`noise_level` must lie between 1 and {self.highest_level}{learned}, got {noise_level}.")
        steps = noise_level if num_inference_steps is None else num_inference_steps
        if not 1 <= steps <= noise_level:
            raise InputError(
                f"`num_inference_steps` must lie between 1 and `noise_level`, {noise_level}, got {steps}."
            )
        if spacing <= 0:
            raise InputError(f"`spacing` must be above 0, got {spacing}.")
        if spacing == 1:
            return [round(noise_level * i / steps) for i in range(steps, -1, -1)]
        return sorted({round(noise_level * (i / steps) ** spacing) for i in range(steps + 1)}, reverse=True)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        noise_level: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Lay the grid that `step` follows: `levels`, see `levels_from`, and `timesteps`, the U-Net's inputs.

        Args:
            num_inference_steps, noise_level (`int`, *optional*): as in `levels_from`.
            device (`torch.device`, *optional*): where `timesteps` goes.
        """
        self.levels = self.levels_from(noise_level, num_inference_steps)
        self.num_inference_steps = len(self.levels) - 1
        self.timesteps = torch.tensor([self.timestep_of(level) for level in self.levels[:-1]], device=device)

    def scale_model_input(self, sample: torch.Tensor, timestep: int | torch.Tensor | None = None) -> torch.Tensor:
        """The sample as it is; schedulers that scale it are exchangeable with those that do not."""
        return sample

    @staticmethod
    def timestep_of(level: int) -> int:
        """The U-Net's timestep at a level: j − 1, and 0 for the clean image, the nearest it was trained on."""
        return max(level - 1, 0)

    def alpha_bar(self, level: int) -> float:
        """ᾱ_j, the signal power left at level j; ᾱ_0 = 1."""
        return 1.0 if level == 0 else self.alphas_cumprod[level - 1].item()

    def posterior_variance(self, level: int, target: int) -> float:
        """Variance of x_target given x_level and x_0 (Eq. 6.7; with target = level − 1 the usual β̃_t)."""
        return (1 - self.alpha_bar(target)) / (1 - self.alpha_bar(level)) * self.beta(level, target)

    def beta(self, level: int, target: int) -> float:
        """Variance of the noise added between two levels, 1 − ᾱ_level / ᾱ_target; β_t for neighbours."""
        return 1 - self.alpha_bar(level) / self.alpha_bar(target)

    def learned_variance(self, variance_fraction: torch.Tensor, level: int, target: int) -> torch.Tensor:
        """Variance between β̃_t and β_t, log σ² = v log β_t + (1 − v) log β̃_t (Nichol & Dhariwal 2021, Eq. 15).

        Args:
            variance_fraction (`torch.Tensor` of shape `(B, C, H, W)`): v, 0–1; the U-Net's second C channels.
            level, target (`int`): the level being left and the level to reach, above 0.
        """
        smallest, largest = math.log(self.posterior_variance(level, target)), math.log(self.beta(level, target))
        return (smallest + variance_fraction * (largest - smallest)).exp()

    def read_prediction(
        self, output: torch.Tensor, level: int, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The noise, and the fraction v of a learned variance if there is one, in a U-Net's output.

        From v-prediction, ε = √ᾱ_t v + √(1 − ᾱ_t) x_t; at level 0 with the ᾱ of the timestep that the U-Net was asked.

        Args:
            output (`torch.Tensor` of shape `(B, C, H, W)` or `(B, 2C, H, W)`): with 2C channels the second half is
                2v − 1, as guided-diffusion has it.
            level (`int`): of `sample`.
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t.

        Returns:
            ε_θ `(B, C, H, W)`, and v of the same shape or None.
        """
        channels = sample.shape[1]
        if output.shape[1] not in (channels, 2 * channels):
            raise ValueError(
                f"The U-Net must give {channels} channels, or {2 * channels} with a learned variance, "
                f"got {output.shape[1]}."
            )
        prediction, variance = output[:, :channels], output[:, channels:]
        if self.config["prediction_type"] == "v_prediction":
            alpha_bar = self.alphas_cumprod[self.timestep_of(level)].item()
            prediction = alpha_bar**0.5 * prediction + (1 - alpha_bar) ** 0.5 * sample
        return prediction, (variance + 1) / 2 if variance.shape[1] else None

    def predict_original(self, noise_pred: torch.Tensor, level: int, sample: torch.Tensor) -> torch.Tensor:
        """The clean image that the predicted noise implies: x̂_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t."""
        alpha_bar = self.alpha_bar(level)
        original = (sample - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
        return original.clamp(-1, 1) if self.config["clip_sample"] else original

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DifFuseSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One reverse step as diffusers' own pipelines call it, to the next lower level of the grid (Eq. 6.8).

        Args:
            model_output (`torch.Tensor` of shape `(B, C, H, W)` or `(B, 2C, H, W)`): of the U-Net, see
                `read_prediction`.
            timestep (`int`): of the U-Net, t − 1.
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t.
            eta (`float`): 1 for DDPM (Eq. 6.7), 0 for DDIM.
            generator (*optional*): one `torch.Generator`, or one per image; nothing is drawn at the last step.
            return_dict (`bool`): an output with names, or the same two tensors in a tuple.
        """
        level = int(timestep) + 1
        target = next((lower for lower in self.levels if lower < level), 0)
        noise_pred, variance_fraction = self.read_prediction(model_output, level, sample)
        noise = None
        if eta > 0 and target > 0:
            noise = randn_tensor(sample.shape, generator, sample.device, model_output.dtype)
        stepped = self.reverse_step(noise_pred, level, target, sample, eta, noise, variance_fraction)
        original = self.predict_original(noise_pred, level, sample)
        return DifFuseSchedulerOutput(stepped, original) if return_dict else (stepped, original)

    def reverse_step(
        self,
        noise_pred: torch.Tensor,
        level: int,
        target: int,
        sample: torch.Tensor,
        eta: float | torch.Tensor = 0.0,
        noise: torch.Tensor | None = None,
        variance_fraction: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """From one level to another (Eq. 6.8): DDIM with `eta` 0, DDPM (Eq. 6.7) with `eta` 1.

            x_target = √ᾱ_target x̂_0 + √(1 − ᾱ_target − σ²) ε + σ z

        Args:
            noise_pred (`torch.Tensor` of shape `(B, C, H, W)`): ε_θ(x_t, t).
            level, target (`int`): the level being left and the level to reach.
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t, in [-1, 1] plus noise.
            eta (`float` or `torch.Tensor` that broadcasts to `sample`): 0–1, the share of the DDPM standard deviation
                in σ; a mask makes a noise level per pixel.
            noise (`torch.Tensor` of shape `(B, C, H, W)`, *optional*): z; unused with `eta` 0 and at the last step.
            variance_fraction (`torch.Tensor` of shape `(B, C, H, W)`, *optional*): see `learned_variance`; used if the
                variance type is `"learned_range"`.

        Returns:
            `torch.Tensor` of shape `(B, C, H, W)`: x_target.
        """
        original = self.predict_original(noise_pred, level, sample)
        if self.config["clip_sample"] and level > 0:  # the noise that goes with the clamped image
            noise_pred = (sample - self.alpha_bar(level) ** 0.5 * original) / (1 - self.alpha_bar(level)) ** 0.5
        deterministic = isinstance(eta, (int, float)) and eta == 0
        variance = 0.0 if deterministic else eta**2 * self.posterior_variance(level, target)
        direction = (1 - self.alpha_bar(target) - variance) ** 0.5 * noise_pred
        stepped = self.alpha_bar(target) ** 0.5 * original + direction
        if deterministic or target == 0:  # no noise on the clean image
            return stepped
        if self.config["variance_type"] == "fixed_large":  # the mean keeps the posterior's σ, as in the author's code
            variance = eta**2 * self.beta(level, target)
        elif self.config["variance_type"] == "learned_range":
            if variance_fraction is None:
                raise ValueError(
                    "`variance_type` is 'learned_range' but the U-Net predicts no variance; "
                    "take 'fixed_small', or a U-Net with twice as many channels out as in."
                )
            variance = eta**2 * self.learned_variance(variance_fraction, level, target)
        if noise is None:
            raise ValueError(f"A step with `eta` above 0 to level {target} needs `noise`.")
        return stepped + variance**0.5 * noise

    def invert_step(self, noise_pred: torch.Tensor, level: int, target: int, sample: torch.Tensor) -> torch.Tensor:
        """One step of DDIM inversion, towards more noise (Eq. 6.9); `noise_pred` is ε_θ at the *current* level.

        The stock `DDIMInverseScheduler` pairs x_t with the prediction for the level it goes to, which is not Eq. 6.9.
        """
        return self.reverse_step(noise_pred, level, target, sample)

    def inversion(
        self, sample: torch.Tensor, levels: Sequence[int], predict: Predictor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The inversion trajectory (Eq. 6.9): each level after the first, and x there.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x at the first level, for level 0 the image in [-1, 1].
            levels (`Sequence[int]`): rising, such as 0 … K.
            predict: `(sample, level) -> (ε_θ, v or None)`, see `read_prediction`.
        """
        for level, target in pairwise(levels):
            noise_pred, _ = predict(sample, level)
            sample = self.invert_step(noise_pred, level, target, sample)
            yield target, sample

    def fused_step(
        self,
        noise_pred: torch.Tensor,
        level: int,
        target: int,
        sample: torch.Tensor,
        mask: torch.Tensor,
        noise: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        variance_fraction: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One reverse step of Dif-fuse: DDPM inside the mask, DDIM outside (Eq. 6.10).

            x̂_{t-1} = m ⊙ x_{t-1}^DDPM + (1 − m) ⊙ x_{t-1}^DDIM

        Both branches leave the same x̂_t, so one U-Net call serves them. Algorithm 2 writes the DDIM branch as μ_θ with
        σ_t = 0; that is not Eq. 6.8 with σ_t = 0, and Eq. 6.8 is what is computed here.

        Args:
            noise_pred, level, target, sample, noise, variance_fraction: as in `reverse_step`.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted, 0 where it is kept.
            background (`torch.Tensor` of shape `(B, C, H, W)`, *optional*): x_target to keep outside the mask in place
                of the DDIM branch, such as the level of the inversion trajectory.
        """
        ddpm = self.reverse_step(noise_pred, level, target, sample, 1.0, noise, variance_fraction)  # Eq. 6.7
        if background is None:  # Eq. 6.8 with σ_t = 0
            background = self.reverse_step(noise_pred, level, target, sample)
        return mask * ddpm + (1 - mask) * background

    def diffuse(self, sample: torch.Tensor, level: int, target: int, noise: torch.Tensor) -> torch.Tensor:
        """Forward diffusion from one level to a noisier one; from level 0, q(x_target | x_0).

        x_target = √(ᾱ_target / ᾱ_level) x_level + √(1 − ᾱ_target / ᾱ_level) z
        """
        return forward_process(sample, noise, self.alpha_bar(target) / self.alpha_bar(level))

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Forward diffusion, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε; `timesteps` are the U-Net's, t − 1, shape `(B,)`."""
        alpha_bar = self.alphas_cumprod.to(timesteps.device)[timesteps].to(original_samples)
        return forward_process(original_samples, noise, alpha_bar.view(-1, *[1] * (original_samples.ndim - 1)))
