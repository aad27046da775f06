"""How slices are cut, in numbers and words, as a model folder holds it; `axial_slices.py` does the cutting.

Nothing heavy is imported here, so that a model can be described at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import require_choice

LESION_PROBABILITY = 0.5  # of the classifier, below which a slice is left as it is
PREVIEW = "preview"  # the column of a prepared set that has a picture of each row, for the eye
HEAD, CHEST = BODY_PARTS = ("head", "chest")


@dataclass(frozen=True)
class SliceSettings:
    """How volumes become model slices; the defaults are the thesis's for BraTS (Sec. 6.5).

    Skull-stripped MR is scaled by the brightness of its brain. With `window_hu` the recipe is for head CT, which keeps
    its skull: the window becomes [0, 1] and the head's middle that of the slice, as `difffuse preprocess --pixel-mm`
    does it (Sec. 3.4.4). Of lung CT the window becomes [0, 1] as well, what lies outside the body 0, and the middle of
    the lungs that of the slice. The whole body counts as tissue, not the lungs alone, whose outline a consolidation
    hides.

    Args:
        modalities (`tuple[str, ...]`): channel order; BraTS file suffixes.
        image_size (`tuple[int, int]`): (H, W) of a slice; BraTS: 240 x 240 zero-padded to 256 x 256 (thesis).
        pixel_spacing_mm (`float`): side of a pixel. An axis that fits into `image_size` is padded evenly; one that
            does not is cropped around the brain. CT is always placed by the head.
        reference_intensity (`float`): each modality of a volume is scaled so that the median of its brain voxels has
            this value, then clipped to [0, 1]. A choice of ours: scaling alone keeps the background at exactly 0.
            Of no use for CT.
        slice_margin (`int`): slices dropped at each end of a 155-slice volume (thesis: 25), in proportion for others.
        min_foreground (`float`): a slice is used if at least this fraction of it is brain, on CT head or body.
        window_hu (`tuple[float, float]`, *optional*): Hounsfield units that become 0 and 1.
        optional_modalities (`tuple[str, ...]`): those that a scan may lack; their channels are 0 then.
        body_part (`str`): of CT, "head" or "chest".
    """

    modalities: tuple[str, ...] = ("flair", "t1", "t1ce", "t2")
    image_size: tuple[int, ...] = (256, 256)
    pixel_spacing_mm: float = 1.0
    reference_intensity: float = 0.35
    slice_margin: int = 25
    min_foreground: float = 0.02
    window_hu: tuple[float, ...] | None = None
    optional_modalities: tuple[str, ...] = ()
    body_part: str = HEAD

    def __post_init__(self):
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"`modalities` names one channel or more, each once, got {self.modalities}.")
        if len(self.image_size) != 2 or min(self.image_size) < 1 or not 0 < self.pixel_spacing_mm < math.inf:
            raise ValueError(
                f"`image_size` is (height, width) in pixels and `pixel_spacing_mm` is positive, "
                f"got {self.image_size} and {self.pixel_spacing_mm}."
            )
        if not 0 < self.reference_intensity < 1:
            raise ValueError(f"`reference_intensity` lies between 0 and 1, got {self.reference_intensity}.")
        if self.slice_margin < 0 or not 0 <= self.min_foreground <= 1:
            raise ValueError(
                f"`slice_margin` is 0 or more slices and `min_foreground` lies between 0 and 1, got "
                f"{self.slice_margin} and {self.min_foreground}."
            )
        if self.window_hu is not None and not _is_window(self.window_hu):
            raise ValueError(f"`window_hu` is (low, high) in Hounsfield units, got {self.window_hu}.")
        if unknown := sorted(set(self.optional_modalities) - set(self.modalities)):
            raise ValueError(f"`optional_modalities` names {unknown[0]}, which is none of {self.modalities}.")
        require_choice("body_part", self.body_part, BODY_PARTS)
        if self.body_part == CHEST and self.window_hu is None:
            raise ValueError('`body_part="chest"` is of CT, which needs `window_hu`.')

    @property
    def kind(self) -> str:
        """The kind of scan that the recipe is for, in words."""
        if self.window_hu is None:
            return "skull-stripped MR"
        return "lung CT" if self.body_part == CHEST else "head CT"

    @property
    def shows(self) -> str:
        """What the foreground of a slice is, in a word."""
        if self.window_hu is None:
            return "brain"
        return "body" if self.body_part == CHEST else "head"


def _is_window(window: Sequence[float]) -> bool:
    """Whether these are two numbers, the lower first; NaN is no number."""
    return len(window) == 2 and -math.inf < window[0] < window[1] < math.inf
