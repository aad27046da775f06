"""Configuration of the half-brain multi-task classifier (thesis Table 4.1)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

SIDES = ("none", "left", "right", "both")  # as in the IST-3 labels
STAGES = ("halves", "fused")
COMBINATIONS = ("soft", "hard")


@strict
class LesionClassifierConfig(PreTrainedConfig):
    """What a [`LesionClassifier`] is made of; the defaults have the thesis's 163,285 parameters.

    Args:
        num_channels (`int`): channels of a slice; 1 for CT.
        hidden_sizes (`list[int]`): channels of the 3x3 convolutions (Table 4.1).
        num_pools (`int`): 2x2 max-poolings, after the first so many convolutions. Our choice: the thesis does not say.
        pooled_size (`int`): side of the map that the mean over slices is pooled to; 3 makes 576 features a half.
        hidden_head (`int`, *optional*): width of a hidden layer in each head. Table 4.1 prints 128, which does not fit
            into the 163,285 parameters it also prints; the counted network has none.
        stage (`str`): `"halves"` classifies each half of the brain by itself (first stage of training), `"fused"` has
            the two heads over both halves.
        combination (`str`): how presence and side become four classes. `"soft"`: P(side) = P(lesion) P(side | lesion).
            `"hard"`: a class of the group that presence decides against never wins.
        dropout (`float`): of the features before the heads, while training.
    """

    model_type = "difffuse_lesion_classifier"

    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 48, 64, 64, 64, 64)
    num_pools: int = 5
    pooled_size: int = 3
    hidden_head: int | None = None
    stage: str = "fused"
    combination: str = "soft"
    dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        if self.id2label is None and kwargs.get("num_labels", len(SIDES)) == len(SIDES):
            kwargs.pop("num_labels", None)
            self.id2label = dict(enumerate(SIDES))
            self.label2id = {side: i for i, side in enumerate(SIDES)}
        super().__post_init__(**kwargs)
        names = list((self.id2label or {}).values())
        if names != list(SIDES):
            raise ValueError(
                f"The half-brain classifier has the classes {', '.join(SIDES)}, got {names}; "
                "use `SliceClassifier` for others."
            )

    def validate_stage(self):
        if self.stage not in STAGES or self.combination not in COMBINATIONS:
            raise ValueError(
                f"`stage` is one of {', '.join(STAGES)} and `combination` one of {', '.join(COMBINATIONS)}, "
                f"got {self.stage!r} and {self.combination!r}."
            )
