"""Configuration of the half-brain multi-task classifier (thesis Table 4.1)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import require_choice

SIDES = ("none", "left", "right", "both")  # as in the IST-3 labels
STAGES = ("halves", "fused")
POOLINGS = ("average", "max")
COMBINATIONS = ("hard", "soft")
WIDTHS = (16, 32, 48, 64, 64, 64, 64, 64)  # Table 4.1, which has seven of them; Fig. 4.3 tries one to eight
NUM_LAYERS = 7


@strict
class LesionClassifierConfig(PreTrainedConfig):
    """What a [`LesionClassifier`] is made of; the defaults have the thesis's 163,285 parameters.

    Args:
        num_channels (`int`): channels of a slice; 1 for CT.
        hidden_sizes (`list[int]`): channels of the 3x3 convolutions (Table 4.1).
        num_pools (`int`, *optional*): 2x2 poolings of stride 2, after the first so many convolutions; between all of
            them by default, which makes six (Table 4.1).
        pooling (`str`): `"average"` (Table 4.1) or `"max"`, which networks of version 0.1.0 had.
        pooled_size (`int`): side of the map that the mean over slices is pooled to; 3 makes 576 features a half.
        hidden_head (`int`, *optional*): width of a hidden layer in each head. Table 4.1 prints 128, which does not fit
            into the 163,285 parameters it also prints; the counted network has none.
        stage (`str`): `"halves"` classifies each half of the brain by itself (first stage of training), `"fused"` has
            the two heads over both halves.
        combination (`str`): how a class is decided on. `"hard"`: presence first, then, where there is a lesion, its
            side (Sec. 4.4); `"soft"`: the class of highest probability, P(side) = P(lesion) P(side | lesion).
        whole_brain (`bool`): one look at whole slices in place of two at the halves, as the network that Sec. 4.4.2
            compares with; it has no stage "halves".
        dropout (`float`): of the features before the heads, while training.
    """

    model_type = "difffuse_lesion_classifier"

    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = WIDTHS[:NUM_LAYERS]
    num_pools: int | None = None
    pooling: str = "average"
    pooled_size: int = 3
    hidden_head: int | None = None
    stage: str = "fused"
    combination: str = "hard"
    whole_brain: bool = False
    dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.num_pools = len(self.hidden_sizes) - 1 if self.num_pools is None else self.num_pools
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

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """A configuration that was saved before there was a choice of pooling is of a network with max-pooling."""
        before = {"pooling": "max"} if "num_pools" in config_dict else {}
        return super().from_dict({**before, **config_dict}, **kwargs)

    def validate_stage(self):
        if self.whole_brain and self.stage == "halves":
            raise ValueError('`stage` is "fused" for a whole brain, which has no halves to be classified.')
        require_choice("stage", self.stage, STAGES)
        require_choice("pooling", self.pooling, POOLINGS)
        require_choice("combination", self.combination, COMBINATIONS)
