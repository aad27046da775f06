"""The ablations of Dif-fuse without a mask (thesis Table 6.1): DDPM, DDIM-DDPM, DDPM-DDIM and DDIM."""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..errors import require_choice
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions

FORWARD = ("inversion", "noise")
REVERSE = ("ddpm", "ddim")


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

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 500, forward: str = "inversion", reverse: str = "ddpm",
        anomaly_channels: list[int] | None = None, morphology_size: int = 5,
    ):  # fmt: skip
        super().__init__()

    @torch.no_grad()
    def __call__(
        self, image: Images, forward: str | None = None, reverse: str | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the anomaly map δ, opened and closed.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            forward, reverse (*optional*): the model's own by default.
            sampling: see `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: with masks of ones.
        """
        forward, reverse = self.setting("forward", forward), self.setting("reverse", reverse)
        require_choice("forward", forward, FORWARD)
        require_choice("reverse", reverse, REVERSE)
        run = self.begin(image, SamplingOptions.of({**sampling}))
        levels = self.levels_of(run.options)  # K … 0

        sample = 2 * run.image - 1
        steps_up = len(levels) - 1 if forward == "inversion" else 0
        with self.bar(steps_up + len(levels) - 1) as bar:
            if forward == "inversion":
                sample = self.invert(sample, levels[::-1], run.predict, bar)
            else:
                sample = self.scheduler.diffuse(sample, 0, levels[0], run.draw(sample, levels[0]))
            draw = run.draw if reverse == "ddpm" else None
            sample = self.denoise(sample, levels, run.predict, bar, draw, run.on_step)

        counterfactuals = to_unit_range(sample)
        return self.make_output(run.options, counterfactuals, self.map_of(run.image, counterfactuals))
