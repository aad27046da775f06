"""The diffusion steps of Dif-fuse (thesis Ch. 6): DDIM inversion, the DDIM/DDPM reverse step and their fusion.

Steps go from one noise *level* to another. Level 0 is the clean image (ᾱ_0 = 1), level j = 1…T is x_j, noised with
ᾱ_j = `alphas_cumprod[j - 1]`; the U-Net at level j is asked for timestep j − 1, at level 0 for timestep 0.
The two levels are arguments of every step, so any grid of levels will do and no step depends on the one before.
"""

import math

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # diffusers looks for this name here when it loads

PREDICTION_TYPES = ("epsilon", "v_prediction")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned_range")


class DifFuseScheduler(SchedulerMixin, ConfigMixin):
    """Inversion (Eq. 6.9), reverse (Eqs. 6.7 and 6.8) and fused steps (Eq. 6.10) between any two noise levels.

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
    ):
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"`prediction_type` must be one of {PREDICTION_TYPES}, got {prediction_type!r}.")
        if variance_type not in VARIANCE_TYPES:
            raise ValueError(f"`variance_type` must be one of {VARIANCE_TYPES}, got {variance_type!r}.")
        stock = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule)
        self.alphas_cumprod = stock.alphas_cumprod.double()  # 1 − ᾱ and the variances are small differences
        self.init_noise_sigma = 1.0
        self.set_timesteps()

    def __len__(self):
        return self.config.num_train_timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        noise_level: int | None = None,
        device: str | torch.device | None = None,
    ):
        """Spread the levels K … 0 evenly: `levels` has one entry more than `timesteps`, the U-Net's inputs.

        Args:
            num_inference_steps (`int`, *optional*): number of reverse steps; every level from K to 0 by default.
            noise_level (`int`, *optional*): K, the level at which the reverse process starts; T by default.
            device (`torch.device`, *optional*): where `timesteps` goes.
        """
        noise_level = len(self) if noise_level is None else noise_level
        if not 1 <= noise_level <= len(self):
            raise ValueError(f"`noise_level` must lie between 1 and {len(self)}, got {noise_level}.")
        steps = noise_level if num_inference_steps is None else num_inference_steps
        if not 1 <= steps <= noise_level:
            raise ValueError(
                f"`num_inference_steps` must lie between 1 and `noise_level`, {noise_level}, got {steps}."
            )
        self.num_inference_steps = steps
        self.levels = [round(noise_level * i / steps) for i in range(steps, -1, -1)]  # K … 0
        self.timesteps = torch.tensor([self.timestep_of(level) for level in self.levels[:-1]], device=device)

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
        if self.config.prediction_type == "v_prediction":
            alpha_bar = self.alphas_cumprod[self.timestep_of(level)].item()
            prediction = alpha_bar**0.5 * prediction + (1 - alpha_bar) ** 0.5 * sample
        return prediction, (variance + 1) / 2 if variance.shape[1] else None

    def predict_original(self, noise_pred: torch.Tensor, level: int, sample: torch.Tensor) -> torch.Tensor:
        """The clean image that the predicted noise implies: x̂_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t."""
        alpha_bar = self.alpha_bar(level)
        original = (sample - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
        return original.clamp(-1, 1) if self.config.clip_sample else original

    def step(
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
        if self.config.clip_sample and level > 0:  # the noise that goes with the clamped image
            noise_pred = (sample - self.alpha_bar(level) ** 0.5 * original) / (1 - self.alpha_bar(level)) ** 0.5
        deterministic = isinstance(eta, (int, float)) and eta == 0
        variance = 0.0 if deterministic else eta**2 * self.posterior_variance(level, target)
        direction = (1 - self.alpha_bar(target) - variance) ** 0.5 * noise_pred
        stepped = self.alpha_bar(target) ** 0.5 * original + direction
        if deterministic or target == 0:  # no noise on the clean image
            return stepped
        if self.config.variance_type == "fixed_large":  # the mean keeps the posterior's σ, as in the author's code
            variance = eta**2 * self.beta(level, target)
        elif self.config.variance_type == "learned_range":
            if variance_fraction is None:
                raise ValueError(
                    "`variance_type` is 'learned_range' but the U-Net predicts no variance; "
                    "take 'fixed_small', or a U-Net with twice as many channels out as in."
                )
            variance = eta**2 * self.learned_variance(variance_fraction, level, target)
        return stepped + variance**0.5 * noise

    def invert_step(self, noise_pred: torch.Tensor, level: int, target: int, sample: torch.Tensor) -> torch.Tensor:
        """One step of DDIM inversion, towards more noise (Eq. 6.9); `noise_pred` is ε_θ at the *current* level.

        The stock `DDIMInverseScheduler` pairs x_t with the prediction for the level it goes to, which is not Eq. 6.9.
        """
        return self.step(noise_pred, level, target, sample)

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
            noise_pred, level, target, sample, noise, variance_fraction: as in `step`.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted, 0 where it is kept.
            background (`torch.Tensor` of shape `(B, C, H, W)`, *optional*): x_target to keep outside the mask in place
                of the DDIM branch, such as the level of the inversion trajectory.
        """
        ddpm = self.step(noise_pred, level, target, sample, 1.0, noise, variance_fraction)  # Eq. 6.7
        ddim = self.step(noise_pred, level, target, sample) if background is None else background  # Eq. 6.8, σ_t = 0
        return mask * ddpm + (1 - mask) * ddim

    def diffuse(self, sample: torch.Tensor, level: int, target: int, noise: torch.Tensor) -> torch.Tensor:
        """Forward diffusion from one level to a noisier one; from level 0, q(x_target | x_0).

        x_target = √(ᾱ_target / ᾱ_level) x_level + √(1 − ᾱ_target / ᾱ_level) z
        """
        beta = self.beta(target, level)
        return (1 - beta) ** 0.5 * sample + beta**0.5 * noise

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Forward diffusion, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε; `timesteps` are the U-Net's, t − 1, shape `(B,)`."""
        alpha_bar = self.alphas_cumprod.to(timesteps.device)[timesteps].to(original_samples.dtype)
        alpha_bar = alpha_bar.view(-1, *[1] * (original_samples.ndim - 1))  # (B, 1, 1, 1)
        return alpha_bar**0.5 * original_samples + (1 - alpha_bar) ** 0.5 * noise
