"""Configuration of ACAT (thesis Secs. 5.5-5.6) and of its ablations (Secs. 5.6.7 and 5.6.9)."""

from huggingface_hub.dataclasses import strict

from .configuration_guided import GuidedConfig

ATTENTIONS = ("saliency", "image", "dropout")


@strict
class ACATConfig(GuidedConfig):
    """What an [`ACATClassifier`] is made of; every ablation of Sec. 5.6.7 is one of these options.

    Args:
        attention_stages (`list[int]`, *optional*): after which stages the attention acts; early, middle and late:
            convolutions 1, 3, 5 of the half-brain CNN, blocks 1, 2, 3 of a ResNet (Sec. 5.6.2). Fewer are an ablation.
        saliency_channels (`int`): width of the saliency branch. Our choice.
        fusion (`bool`): fuse the masks and modulate the last maps with them (Sec. 5.5.2).
        slice_attention (`bool`): weigh the slices of a scan (Sec. 5.6.2); the mean otherwise.
        slice_attention_hidden (`int`): width of its hidden layer. Our choice.
        slice_attention_dropout (`float`): in it (Sec. 5.6.2).
        residual (`bool`): F + F ⊙ S (Eq. 5.2); without it F ⊙ S.
        attention_batch_norm (`bool`): before the sigmoid of Eq. 5.1, as in the author's code.
        attention (`str`): `"saliency"`; `"image"`: the masks come from the image's own maps, with no saliency at all
            (SpAtt); `"dropout"`: dropout where the attention would act (Sec. 5.6.9).
        dropout (`float`): of `"dropout"`. Our choice.
    """

    model_type = "difffuse_acat"

    attention_stages: list[int] | tuple[int, ...] | None = None
    saliency_channels: int = 16
    fusion: bool = True
    slice_attention: bool = True
    slice_attention_hidden: int = 32
    slice_attention_dropout: float | int = 0.1
    residual: bool = True
    attention_batch_norm: bool = False
    attention: str = "saliency"
    dropout: float | int = 0.5

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.attention_stages = self.stages_or(self.attention_stages, (1, 3, 5), (1, 2, 3))

    def validate_attention(self):
        if self.attention not in ATTENTIONS:
            raise ValueError(f"`attention` is one of {', '.join(ATTENTIONS)}, got {self.attention!r}.")
        for name in ("dropout", "slice_attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` is a probability in [0, 1), got {getattr(self, name)}.")
