"""The ablations of Dif-fuse without a mask (thesis Table 6.1): DDPM, DDIM-DDPM, DDPM-DDIM and DDIM."""

import numpy as np
import torch
from diffusers import UNet2DModel

from ..errors import InputError
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map
from .pipeline_base import CounterfactualPipeline, to_unit_range
from .pipeline_output import CounterfactualOutput


class UnmaskedPipeline(CounterfactualPipeline):
    """Take the whole image to level K and bring it back.

    | row of Table 6.1 | `forward` | `reverse` |
    |---|---|---|
    | DDPM | `"noise"` | `"ddpm"` |
    | DDIM-DDPM | `"inversion"` | `"ddpm"` |
    | DDPM-DDIM | `"noise"` | `"ddim"` |
    | DDIM | `"inversion"` | `"ddim"` |

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K.
        forward (`str`): how level K is reached: `"inversion"` (Eq. 6.9) or `"noise"`, a sample of q(x_K | x_0).
        reverse (`str`): how the image comes back: `"ddpm"` (Eq. 6.7) or `"ddim"` (Eq. 6.8 with σ_t = 0).
        anomaly_channels, morphology_size: of the anomaly map, as in `DifFusePipeline`.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DifFuseScheduler,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 500,
        forward: str = "inversion",
        reverse: str = "ddpm",
        anomaly_channels: list[int] | None = None,
        morphology_size: int = 5,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, processor=processor)
        self.register_to_config(
            noise_level=noise_level,
            forward=forward,
            reverse=reverse,
            anomaly_channels=anomaly_channels,
            morphology_size=morphology_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        forward: str | None = None,
        reverse: str | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        unet_batch_size: int = 32,
        shared_noise: bool = False,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the anomaly map δ, opened and closed.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            noise_level, forward, reverse (*optional*): the model's own by default.
            num_inference_steps (`int`, *optional*): steps of an inversion and of the way back; every level by default.
            generator (*optional*): one `torch.Generator`, or one per image.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            unet_batch_size (`int`): most images in one network call.
            shared_noise (`bool`): the same noise for all images, drawn from the first generator.

        Returns:
            `CounterfactualOutput`: with masks of ones.
        """
        forward, reverse = self.setting("forward", forward), self.setting("reverse", reverse)
        if forward not in ("inversion", "noise"):
            raise InputError(f"`forward` must be 'inversion' or 'noise', got {forward!r}.")
        if reverse not in ("ddpm", "ddim"):
            raise InputError(f"`reverse` must be 'ddpm' or 'ddim', got {reverse!r}.")
        image, predict, draw = self.begin(image, generator, unet_batch_size, shared_noise)
        self.scheduler.set_timesteps(num_inference_steps, self.setting("noise_level", noise_level))
        levels = self.scheduler.levels  # K … 0

        sample = 2 * image - 1
        steps_up = len(levels) - 1 if forward == "inversion" else 0
        with self.progress_bar(total=steps_up + len(levels) - 1) as bar:
            if forward == "inversion":
                sample = self.invert(sample, levels[::-1], predict, bar)
            else:
                sample = self.scheduler.diffuse(sample, 0, levels[0], draw(sample, levels[0]))
            sample = self.denoise(sample, levels, predict, bar, draw if reverse == "ddpm" else None)

        counterfactuals = to_unit_range(sample)
        maps = anomaly_map(image, counterfactuals, self.config.anomaly_channels, self.config.morphology_size)
        return self.make_output(output_type, counterfactuals, maps, torch.ones_like(image[:, :1]))
