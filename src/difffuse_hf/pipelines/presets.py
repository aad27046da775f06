"""The named settings of Dif-fuse: the equations, the two published readings of them, and the quick one."""

from dataclasses import dataclass, replace

from ..errors import require_choice
from ..saliency.mask import VARIANTS

BACKGROUNDS = ("trajectory", "forward", "ddim", "reconstruction", "late")


@dataclass(frozen=True)
class Preset:
    """Settings that belong together; `num_inference_steps`, `num_samples` and `display_steps` of a call override them.

    Args:
        background (`str`): x_t outside the mask. `"trajectory"`: the same level of the inversion, so that the image
            comes back exactly. `"forward"`: the image under forward noise, the same noise at every level; it comes
            back exactly too and nothing is inverted, and inside the mask each sample starts from noise of its own.
            `"ddim"`: Eq. 6.8 from the fused x_t. `"reconstruction"`: a DDIM trajectory of its own, at a second network
            call a step; the anomaly map is then taken against its end instead of the image. `"late"`: as inside, and
            the image is put back at the end only (late blending, Fig. 6.3).
        num_inference_steps (`int`, *optional*): steps up and steps down; every level by default.
        spacing (`float`): how the levels are spread, see `DifFuseScheduler.levels_from`.
        num_samples (`int`): counterfactuals per image; the anomaly map is taken against their mean.
        display_steps (`int`, *optional*): steps of one more chain that makes the counterfactual to look at. It shares
            the inversion, which then goes through the levels of both.
        display_spacing (`float`): how its levels are spread.
        mask_variant (`str`): see `saliency_to_mask`.
        author_chain (`bool`): the levels, σ_t² = β_t and clamping of the author's code.
        scout_samples (`int`): samples of a first look, see `fit_mask`; with 0 the mask of the saliency stays.
        scout_rounds (`int`): how often the mask is widened at most where the first look does not pass as healthy.
        scout_threshold (`float`): change of intensity that the first look takes for lesion; 0 narrows nothing.
        scout_margin_mm (`float`): how far beyond it the narrowed mask reaches.

    Raises:
        InputError: an unknown background or mask variant.
    """

    background: str = "trajectory"
    num_inference_steps: int | None = None
    spacing: float = 1.0
    num_samples: int = 1
    display_steps: int | None = None
    display_spacing: float = 1.0
    mask_variant: str = "thesis"
    author_chain: bool = False
    scout_samples: int = 0
    scout_rounds: int = 0
    scout_threshold: float = 0.0
    scout_margin_mm: float = 0.0

    def __post_init__(self):
        require_choice("background", self.background, BACKGROUNDS)
        require_choice("mask_variant", self.mask_variant, VARIANTS)

    def display(self, noise_level: int) -> "Preset":
        """The chain that makes the counterfactual to look at: one sample, of at most K steps."""
        steps = min(self.display_steps or noise_level, noise_level)
        return replace(
            self, num_inference_steps=steps, spacing=self.display_spacing, num_samples=1, display_steps=None
        )


PRESETS = {
    "exact": Preset(),
    "thesis": Preset(background="ddim"),
    # The author's map is FLAIR only (`anomaly_channels=[0]`), rescaled and eroded once more; those two are left out.
    "reference_code": Preset(background="reconstruction", mask_variant="reference_code", author_chain=True),
    # Ours: short chains blur, but find more; the longer one is for the eye.
    "fast": Preset(background="forward", num_inference_steps=3, num_samples=4, display_steps=50, display_spacing=2.0),
}


def choose_settings(preset: str | Preset, **overrides) -> Preset:
    """The settings of a preset, by its name or itself, with the overrides that are not None in place of its own."""
    if not isinstance(preset, Preset):
        require_choice("preset", preset, PRESETS)
        preset = PRESETS[preset]
    return replace(preset, **{name: value for name, value in overrides.items() if value is not None})
