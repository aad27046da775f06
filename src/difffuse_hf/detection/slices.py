"""The slices of one scan through the networks, a batch at a time: classified, looked at, repainted."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.progress import track

from ..data.slice_settings import LESION_PROBABILITY
from ..pipelines.calibration import Calibration
from ..pipelines.pipeline_difffuse import DifFusePipeline, without_found
from ..preprocessing.shapes import label_pieces
from ..saliency.mask import saliency_to_mask, smooth_through_slices

TRAJECTORY_BYTES = 400_000_000  # most that the kept inversions of a batch of slices may take

Tell: TypeAlias = Callable[[str, int, int], object]  # (what is being done, slices that are done, slices to do)


@dataclass
class Made:
    """What Dif-fuse makes of all S slices of a scan; slices that are not repainted stay as they are."""

    counterfactual: torch.Tensor  # (S, C, H, W)
    anomaly: torch.Tensor  # (S, 1, H, W), as the next two
    mask: torch.Tensor
    saliency: torch.Tensor


@dataclass
class ScanSlices:
    """All S axial slices of a scan, and how they go through a pipeline.

    Args:
        pipeline (`DifFusePipeline`): with a classifier.
        slices (`torch.Tensor` of shape `(S, C, H, W)`): in [0, 1].
        plan (`Calibration`): of the preset that is used.
        batch_size (`int`): slices at a time.
        seed (`int`): with the slice's index, the seed of its generator.
        progress (`bool` or `Tell`): show progress bars, or say before each batch how far the work is; what is raised
            there ends it.
        saliency, masks (`torch.Tensor` of shape `(S, 1, H, W)`, *optional*): in place of the pipeline's own.
        shared_noise (`bool`): all slices draw the same noise.
    """

    pipeline: DifFusePipeline
    slices: torch.Tensor
    plan: Calibration
    batch_size: int
    seed: int
    progress: bool | Tell
    saliency: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    shared_noise: bool = False

    def classify(self, usable: torch.Tensor) -> torch.Tensor:
        """Probability of a lesion in each slice (S,), 0 for those that are not usable."""
        probability = torch.zeros(len(self.slices))
        for index in self._batches(usable, "Classifying slices"):
            probability[index] = self.pipeline.lesion_probability(self.slices[index]).cpu()
        return probability

    def look(self, suspicious: torch.Tensor) -> torch.Tensor:
        """Saliency of the suspicious slices (S, 1, H, W), 0 in the others."""
        saliency = torch.zeros_like(self.slices[:, :1])
        for index in self._batches(suspicious, "Looking at slices"):
            saliency[index] = self.pipeline.make_saliency(self.slices[index].to(self.pipeline.device)).cpu()
        return saliency

    def look_through(
        self, suspicious: torch.Tensor, sigma: float, together: bool = False, percentile: float | None = None
    ) -> None:
        """Keep the saliency of the suspicious slices, smoothed by a Gaussian of so many slices, for `repaint`; and
        masks by one percentile of all of it, if they are to be taken together."""
        self.saliency = smooth_through_slices(self.look(suspicious), sigma)
        if together and len(suspicious):
            self.masks = torch.zeros_like(self.saliency)
            over = self.pipeline.config["percentile_over"] == "foreground"
            self.masks[suspicious] = saliency_to_mask(
                self.saliency[suspicious],
                self.plan.percentile if percentile is None else percentile,
                variant=self.plan.settings.mask_variant,
                foreground=self.pipeline.foreground(self.slices[suspicious]) if over else None,
                together=True,
            )

    def repaint(
        self, suspicious: torch.Tensor, call: dict[str, Any], masks: Mapping[int, np.ndarray] | None = None
    ) -> Made:
        """Dif-fuse on the suspicious slices; the counterfactual is the mean of the samples.

        Those of them that `masks` has a mask (H, W) for are repainted in it, and have no saliency.
        """
        made = Made(self.slices.clone(), *(torch.zeros_like(self.slices[:, :1]) for _ in range(3)))
        given = torch.zeros_like(self.slices[:, :1])
        for index, mask in (masks or {}).items():
            given[index, 0] = torch.as_tensor(mask, dtype=given.dtype)
        drawn = torch.isin(suspicious, torch.tensor(list(masks or {}), dtype=torch.long))
        for some, where, saliency in (
            (suspicious[~drawn], self.masks, self.saliency),
            (suspicious[drawn], given, None),
        ):
            scan = replace(self, saliency=saliency)
            for index, output in scan._through(some, "Finding lesions", {"display_steps": 0, **call}, where):
                made.counterfactual[index] = output.expected.float().cpu()
                made.anomaly[index] = output.anomaly_maps.float().cpu()
                made.mask[index] = output.masks.float().cpu()
                if output.saliency is not None:
                    made.saliency[index] = output.saliency.float().cpu()
        return made

    def picture(self, chosen: torch.Tensor, made: Made, call: dict[str, Any], threshold: float) -> torch.Tensor:
        """The counterfactuals (S, C, H, W), those of the chosen slices by the chain that is made to be looked at.

        Where the anomaly reaches the threshold it starts from the mean of the samples (see `without_found`).

        Where the classifier does not take a picture for healthy it is made once more, with other noise and from the
        model's own K if that is higher; of the two the one that looks more healthy is kept.
        """
        start = replace(self, slices=without_found(self.slices, made.counterfactual, made.anomaly, threshold))
        pictures, doubt = made.counterfactual.clone(), torch.full((len(self.slices),), torch.inf)
        first = call.get("noise_level") or self.plan.noise_level
        for attempt, level in enumerate((first, max(first, self.pipeline.config["noise_level"]))):
            chain = {"preset": self.plan.settings.display(level), "noise_level": level, "num_samples": 1}
            call = {**call, **chain, "num_inference_steps": None, "display_steps": 0}
            for index, output in start._through(chosen, "Making pictures", call, made.mask, self.seed + attempt):
                probability = self.pipeline.lesion_probability(output.counterfactuals).cpu()
                better = probability < doubt[index]
                pictures[index[better]] = output.counterfactuals.float().cpu()[better]
                doubt[index] = torch.minimum(probability, doubt[index])
            chosen = chosen[doubt[chosen] >= LESION_PROBABILITY]  # the model's own threshold may lie far above
            if not len(chosen):
                break
        return pictures

    def _through(
        self, indices, doing: str, call: dict[str, Any], masks: torch.Tensor | None = None, seed: int | None = None
    ) -> Iterator:
        """Batches of slices, and what the pipeline makes of them; with masks of their own and another seed."""
        seed = self.seed if seed is None else seed
        with self._without_progress_bar():
            for index in self._batches(indices, doing, self._slices_that_fit(call)):
                given = {} if self.saliency is None else {"saliency": self.saliency[index]}
                if masks is not None:
                    given["mask"] = masks[index]
                generators = [generator_of(seed, 0 if self.shared_noise else i) for i in index.tolist()]
                images = self.slices[index].to(self.pipeline.device)
                yield index, self.pipeline(images, generator=generators, output_type="pt", **given, **call)

    def _slices_that_fit(self, call: dict[str, Any]) -> int:
        """How many slices' kept inversions stay below `TRAJECTORY_BYTES`, at least one."""
        steps = call.get("num_inference_steps") or self.plan.settings.num_inference_steps
        levels = steps or call.get("noise_level") or self.plan.noise_level
        width = 2 if call.get("offload_trajectory") else 4  # bytes a number
        return max(1, TRAJECTORY_BYTES // (levels * self.slices[0].numel() * width))

    def _batches(self, indices: torch.Tensor, doing: str, most: int | None = None) -> Iterable[torch.Tensor]:
        size = min(self.batch_size, most or self.batch_size)
        batches = indices.split(size) if len(indices) else ()
        if callable(self.progress):
            return _told(batches, doing, self.progress)
        return track(batches, doing, disable=not (self.progress and batches))

    @contextmanager
    def _without_progress_bar(self) -> Iterator[None]:
        """The pipeline's own bar, of one chain, is switched off in here; it is the caller's to choose elsewhere."""
        before = getattr(self.pipeline, "_progress_bar_config", {})  # diffusers has no public way to ask
        self.pipeline.set_progress_bar_config(**{**before, "disable": True})
        try:
            yield
        finally:
            self.pipeline.set_progress_bar_config(**before)


def find_suspicious(
    probability: torch.Tensor, usable: torch.Tensor, threshold: float, neighbours: float | None = None
) -> torch.Tensor:
    """Indices of the slices to be repainted: those of so much lesion probability, and what adjoins them.

    Args:
        probability (`torch.Tensor` of shape `(S,)`): of a lesion, of all slices of a scan in order.
        usable (`torch.Tensor`): indices of the slices that count.
        threshold (`float`): from which on a slice is suspicious by itself.
        neighbours (`float`, *optional*): from which on a slice is if the one before or after it is.
    """
    counts = torch.zeros_like(probability, dtype=torch.bool)
    counts[usable] = True
    sure = counts & (probability >= threshold)
    if neighbours is None:
        return sure.nonzero()[:, 0]
    runs, _ = label_pieces((sure | counts & (probability >= neighbours)).numpy())
    return torch.from_numpy(np.flatnonzero(np.isin(runs, runs[sure.numpy()])))


def _told(batches: Sequence[torch.Tensor], doing: str, tell: Tell) -> Iterator[torch.Tensor]:
    """The batches, and a word before each of them."""
    done, total = 0, sum(map(len, batches))
    for batch in batches:
        tell(doing, done, total)
        yield batch
        done += len(batch)


def generator_of(seed: int, index: int) -> torch.Generator:
    """One stream of random numbers per slice, the same on every device and for every batch size."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))
