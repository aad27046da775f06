"""IterMask2 (Liang et al. 2024): hide most of the brain, guess it, uncover what was guessed well, and so on.

Notation (<name> -> <name in the paper>)
    mask -> M_k, 1 where the network sees noise; made -> reconstruction at iteration k
"""

from typing import Any

import torch

from ..errors import InputError
from ..models.modeling_itermask import IterMaskNetwork, random_masks, tissue_error
from ..models.processing_difffuse import DifFuseProcessor
from .anomaly_map import foreground
from .pipeline_base import CounterfactualPipeline, declared
from .pipeline_output import CounterfactualOutput
from .sampling import Generators, Images, SamplingOptions


class IterMask2Pipeline(CounterfactualPipeline):
    """Shrink a mask from most of the brain to what cannot be guessed from its surroundings and high frequencies.

    1. A guess from high frequencies alone; the mask is the `first_share` of the brain with the largest error.
    2. A guess from outside the mask; the mask keeps the pixels whose error is above `mask_threshold`.
    3. Again, until the mask loses less than 1 % of its pixels.

    `calibrate` chooses the threshold on healthy slices; it is saved with the model.

    Args:
        network (`IterMaskNetwork`): trained on healthy slices.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        first_share (`float`): 0–1; 0.6 in the public code.
        healthy_share (`float`): of masked healthy pixels, how many `calibrate` lets the threshold miss; 0.2 there.
        mask_threshold (`float`, *optional*): of (x_0 − x̂_0)², images in [0, 1].
        least_change (`float`): 0–1, the share of its pixels that a mask must lose to go on; 0.01 there.
        max_iterations (`int`): ours, never reached where masks shrink as they should.
        own_mask (`bool`): the anomaly map is the last mask, as in the paper; else the last error, as in the public
            code, which leaves a threshold to be chosen.
        anomaly_channels (`list[int]`, *optional*): the channels that count, all by default; the paper has one.
    """

    model_cpu_offload_seq = "network"
    network: IterMaskNetwork

    @declared
    def __init__(
        self, network: IterMaskNetwork, processor: DifFuseProcessor | None = None, first_share: float = 0.6,
        healthy_share: float = 0.2, mask_threshold: float | None = None, least_change: float = 0.01,
        max_iterations: int = 100, own_mask: bool = False, anomaly_channels: list[int] | None = None,
    ):  # fmt: skip
        super().__init__()

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        return False  # of the reconstruction before that is cut to [0, 1], or of the mask

    def what_images_must_fit(self) -> tuple[str, int, int]:
        config: Any = self.network.config
        return "IterMask2 network", config["in_channels"], 2 ** (len(config["block_out_channels"]) - 1)

    @torch.no_grad()
    def __call__(
        self, image: Images, generator: Generators = None, output_type: str = "pt", return_dict: bool = True,
        batch_size: int = 32, first_share: float | None = None, mask_threshold: float | None = None,
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice, and the map of what could not be guessed.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            generator, output_type, return_dict: see `SamplingOptions`; drawn is the noise that hides what is masked.
            batch_size (`int`): most images in one call of the networks.
            first_share, mask_threshold (*optional*): the model's own by default.

        Returns:
            `CounterfactualOutput`: the counterfactual is the last reconstruction, cut to [0, 1]; the masks are the
            last ones, 0 everywhere where all of an image was guessed well.
        """
        options = SamplingOptions(generator=generator, output_type=output_type, return_dict=return_dict)
        threshold = self.setting("mask_threshold", mask_threshold)
        if threshold is None:
            raise InputError("IterMask2 has no `mask_threshold`: choose it with `calibrate`, or pass one.")
        image = self.check_image(image).to(self._execution_device)
        generators = self.check_generators(generator, len(image))
        last, masks = torch.zeros_like(image), torch.zeros_like(image[:, :1])
        going = torch.ones(len(image), dtype=torch.bool, device=image.device)
        mask = self.first_masks(image, self.setting("first_share", first_share), batch_size)
        with self.bar(self.config["max_iterations"]) as bar:
            for _ in range(self.config["max_iterations"]):
                made = self.reconstruct(image, mask, generators, batch_size)
                error = tissue_error(image, made, self.config["anomaly_channels"])
                smaller = mask * (error > threshold)
                lost = (mask - smaller).sum((1, 2, 3)) / mask.sum((1, 2, 3))  # NaN of an empty mask
                ends = going & ~(lost >= self.config["least_change"])
                last[ends], masks[ends] = made[ends], mask[ends]
                going = going & ~ends
                bar.update()
                if not going.any():
                    break
                mask = smaller
            last[going], masks[going] = made[going], mask[going]
        maps = masks
        if not self.config["own_mask"]:
            maps = tissue_error(image, last, self.config["anomaly_channels"]) * foreground(image)
        return self.make_output(options, last.clamp(0, 1), maps, masks)

    def first_masks(self, image: torch.Tensor, share: float, batch_size: int) -> torch.Tensor:
        """The share of each brain that is guessed worst from its high frequencies alone, `(B, 1, H, W)`."""
        brain = foreground(image)
        made = torch.cat([self.network.from_frequencies(part).float() for part in image.split(batch_size)])
        error = tissue_error(image, made, self.config["anomaly_channels"]) * brain
        limits = []
        for values, inside in zip(error.flatten(1), brain.flatten(1)):
            rank = len(values) - int(share * inside.sum())
            limits.append(values.kthvalue(max(1, rank)).values)
        return (error > torch.stack(limits).view(-1, 1, 1, 1)).to(image)

    def reconstruct(
        self, image: torch.Tensor, mask: torch.Tensor, generators: Generators, batch_size: int
    ) -> torch.Tensor:
        """x̂_0 from what the mask leaves, and noise in it; `(B, C, H, W)`."""
        noise = self.draw_noise(image, 0, generators)
        parts = zip(*(whole.split(batch_size) for whole in (image, mask, noise)))
        return torch.cat([self.network.from_surroundings(*part).float() for part in parts])

    @torch.no_grad()
    def calibrate(
        self,
        images: Images,
        healthy_share: float | None = None,
        generator: Generators = None,
        batch_size: int = 16,
    ) -> float:
        """Choose the `mask_threshold` that a share of healthy pixels under random masks exceed, and keep it.

        Args:
            images (`torch.Tensor` of shape `(N, C, H, W)`): healthy slices in [0, 1], from the validation split.
            healthy_share (*optional*): 0–1, the model's own by default.
            generator (*optional*): one `torch.Generator`, for the masks and what hides them.
            batch_size (`int`): slices at a time.

        Returns:
            The threshold; also the new default of the calls, saved with the model.
        """
        share: float = self.setting("healthy_share", healthy_share)
        if not 0 < share < 1:
            raise InputError(f"`healthy_share` must lie between 0 and 1, got {share}.")
        image = self.check_image(images).to(self._execution_device)
        one = generator[0] if isinstance(generator, list) else generator
        masks = random_masks(foreground(image).cpu(), one).to(image)
        made = self.reconstruct(image, masks, one, batch_size)
        self.maybe_free_model_hooks()
        errors = tissue_error(image, made, self.config["anomaly_channels"])[masks > 0]
        if len(errors) == 0:
            raise InputError("The healthy slices are black: there is nothing to choose a threshold on.")
        threshold = float(errors.kthvalue(max(1, len(errors) - int(share * len(errors)))).values)
        self.register_to_config(mask_threshold=threshold)
        return threshold
