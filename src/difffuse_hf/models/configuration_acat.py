"""Configuration of ACAT (thesis Secs. 5.5-5.6) and of its ablations (Secs. 5.6.7 and 5.6.9)."""

from huggingface_hub.dataclasses import strict

from ..errors import require_choice
from .configuration_guided import GuidedConfig, refuse_old

ATTENTIONS = ("saliency", "image", "dropout")


@strict
class ACATConfig(GuidedConfig):
    """What an [`ACATClassifier`] is made of; every ablation of Sec. 5.6.7 is one of these options.

    Args:
        attention_stages (`list[int]`, *optional*): after which stages the attention acts; early, middle and late:
            convolutions 1, 3, 5 of the half-brain CNN, blocks 1, 2, 3 of a ResNet (Sec. 5.6.2). Fewer are an ablation.
        fusion (`bool`): fuse the masks and modulate the last maps with them (Sec. 5.5.2).
        slice_attention (`bool`): weigh the slices of a scan (Sec. 5.6.2); the mean otherwise.
        slice_attention_hidden (`int`): width of its hidden layer, as in the author's code.
        slice_attention_dropout (`float`): in it (Sec. 5.6.2).
        num_slices (`int`, *optional*): the slice attention of the author's code, whose MLP sees so many slices of a
            scan together (11) and whose weights are those of a sum; by default it sees one slice at a time, in scans
            of any length, and its weights are those of a mean.
        residual (`bool`): F + F ⊙ S (Eq. 5.2); without it F ⊙ S.
        attention_batch_norm (`bool`): before the sigmoid of Eq. 5.1, as in the author's code.
        attention (`str`): `"saliency"`; `"image"`: the masks come from the image's own maps, with no saliency at all
            (SpAtt); `"dropout"`: dropout where the attention would act (Sec. 5.6.9).
        dropout (`float`): of `"dropout"`; 0.2 and 0.6 in Sec. 5.6.9.
    """

    model_type = "difffuse_acat"

    attention_stages: list[int] | tuple[int, ...] | None = None
    fusion: bool = True
    slice_attention: bool = True
    slice_attention_hidden: int = 64
    slice_attention_dropout: float | int = 0.1
    num_slices: int | None = None
    residual: bool = True
    attention_batch_norm: bool = False
    attention: str = "saliency"
    dropout: float | int = 0.2

    def __post_init__(self, **kwargs):
        refuse_old("saliency_channels", kwargs)
        super().__post_init__(**kwargs)
        self.attention_stages = self.stages_or(self.attention_stages, (1, 3, 5), (1, 2, 3))

    def validate_attention(self):
        require_choice("attention", self.attention, ATTENTIONS)
        for name in ("dropout", "slice_attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` is a probability in [0, 1), got {getattr(self, name)}.")
        if self.num_slices is not None and self.num_slices < 2:
            raise ValueError(f"`num_slices` of the slice attention is 2 or more, got {self.num_slices}.")
