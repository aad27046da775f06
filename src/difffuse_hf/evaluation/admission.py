"""Whether the networks of a method are trained far enough for its figures to mean anything; looked at before these.

A method that fails is not judged: its figures stay in the JSON, and the tables say why they do not print them. The
limits are ours. Both tests are of validation slices and need no drawn lesion.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..pipelines.pipeline_classifier_guidance import ClassifierGuidancePipeline
from ..pipelines.pipeline_itermask2 import IterMask2Pipeline
from ..pipelines.pipeline_reconstruction import ReconstructionPipeline
from .anomaly import Slices

HEALTHY_CHANGE, BALANCED_ACCURACY = "change of healthy slices", "balanced accuracy of the noisy classifier at t = 0"
MOST_HEALTHY_CHANGE = 0.02  # of an intensity range of 1: what a reconstruction may make of healthy brain
LEAST_BALANCED_ACCURACY = 0.85  # of a noisy classifier on slices without noise


@dataclass(frozen=True)
class AdmissionTest:
    """One test: what was measured, its value, the limit, and whether it lies on the right side of it."""

    what: str
    value: float
    limit: float
    passed: bool

    def in_words(self) -> str:
        """Such as "change of healthy slices: 0.013, 0.02 at most"."""
        side = "at least" if self.what == BALANCED_ACCURACY else "at most"
        return f"{self.what}: {self.value:.3f}, {self.limit:g} {side}"


def passed(seeds: Sequence[Sequence[AdmissionTest]]) -> bool:
    """Whether every seed has passed every test."""
    return all(test.passed for tests in seeds for test in tests)


def judged(
    results: Mapping[str, Sequence[dict]], admission: Mapping[str, Sequence[Sequence[AdmissionTest]]]
) -> dict[str, list[dict]]:
    """The measures to print: none of a method of which a seed has failed an admission test."""
    return {name: list(seeds) if passed(admission[name]) else [{} for _ in seeds] for name, seeds in results.items()}


def admission_tests(
    pipeline, validation: Slices, make: Callable[[torch.Tensor, str], tuple[torch.Tensor, torch.Tensor]]
) -> list[AdmissionTest]:
    """The tests that a method has to pass; for most methods there is none.

    Args:
        pipeline: of the method. One with a reconstructor, such as f-AnoGAN, must leave healthy slices as they are; the
            classifier that guides a diffusion must tell healthy from lesion.
        validation (`Slices`): of both classes.
        make: `make(images, text of a progress bar)` gives anomaly maps and counterfactuals.
    """
    reconstructs = isinstance(pipeline, ReconstructionPipeline) and pipeline.reconstructor is not None
    if reconstructs or isinstance(pipeline, IterMask2Pipeline):
        healthy = validation.without_lesion()
        _, made = make(healthy.images, "admission")
        change = float((made - healthy.images).abs()[healthy.brain.expand_as(made)].mean())
        return [AdmissionTest(HEALTHY_CHANGE, change, MOST_HEALTHY_CHANGE, change < MOST_HEALTHY_CHANGE)]
    if isinstance(pipeline, ClassifierGuidancePipeline):
        accuracy = noisy_balanced_accuracy(pipeline.classifier, validation)
        enough = accuracy >= LEAST_BALANCED_ACCURACY
        return [AdmissionTest(BALANCED_ACCURACY, accuracy, LEAST_BALANCED_ACCURACY, enough)]
    return []


@torch.no_grad()
def noisy_balanced_accuracy(classifier, slices: Slices, batch_size: int = 32) -> float:
    """Mean over the classes of the share of their slices that a noisy classifier knows, at t = 0 and without noise."""
    weights = next(classifier.parameters())
    found = []
    for part in slices.images.split(batch_size):
        sample = (2 * part - 1).to(weights)
        found.append(classifier(sample, sample.new_zeros(len(part), dtype=torch.long)).logits.argmax(1).cpu())
    right = torch.cat(found) == slices.labels
    shares = [right[slices.labels == label].float().mean() for label in slices.labels.unique()]
    return float(torch.stack(shares).mean())
