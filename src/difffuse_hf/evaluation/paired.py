"""Differences between two methods on the same slices, with an error that knows that a subject's slices are alike."""

from collections.abc import Mapping, Sequence

import numpy as np

from .statistics import clustered_mean_and_error

REFERENCE = "Dif-fuse"


def paired_differences(
    slices: Mapping[str, Sequence[Mapping[str, list]]], reference: str = REFERENCE, measure: str = "dice"
) -> dict[str, dict[str, float | int | None]]:
    """A measure of the reference minus that of each other method, slice by slice over all seeds: mean and error.

    A subject that is in the test splits of several seeds is one cluster. Methods that were scored on other slices, or
    with other numbers of seeds, or not by this measure, are left out.

    Args:
        slices: {method: [{"subject": [...], "dice": [...]} of each seed]}.
        measure (`str`): "dice", or "twin_error", of which less is better.

    Returns:
        {method: {"mean", "standard_error", "slices", "subjects"}}; above 0 the reference has more of it.
    """
    if reference not in slices:
        return {}
    ours, found = slices[reference], {}
    for name, theirs in slices.items():
        same = [one["subject"] for one in ours] == [one["subject"] for one in theirs]
        subjects = [subject for one in ours for subject in one["subject"]]
        if name == reference or not same or not subjects or any(measure not in one for one in (*ours, *theirs)):
            continue
        difference = np.concatenate([np.subtract(a[measure], b[measure]) for a, b in zip(ours, theirs)])
        mean, error, clusters = clustered_mean_and_error(difference, subjects)
        found[name] = {"mean": mean, "standard_error": error, "slices": len(difference), "subjects": clusters}
    return found
