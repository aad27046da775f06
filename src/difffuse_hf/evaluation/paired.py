"""Differences between two methods on the same slices, with an error that knows that a subject's slices are alike."""

from collections.abc import Mapping, Sequence

import numpy as np

from .statistics import clustered_mean_and_error

REFERENCE = "Dif-fuse"


def paired_differences(
    slices: Mapping[str, Sequence[Mapping[str, list]]], reference: str = REFERENCE
) -> dict[str, dict[str, float | int | None]]:
    """Dice of the reference minus that of each other method, slice by slice over all seeds: mean and standard error.

    A subject that is in the test splits of several seeds is one cluster. Methods that were scored on other slices, or
    with other numbers of seeds, are left out.

    Args:
        slices: {method: [{"subject": [...], "dice": [...]} of each seed]}.

    Returns:
        {method: {"mean", "standard_error", "slices", "subjects"}}; above 0 the reference is better.
    """
    if reference not in slices:
        return {}
    ours, found = slices[reference], {}
    for name, theirs in slices.items():
        same = [one["subject"] for one in ours] == [one["subject"] for one in theirs]
        subjects = [subject for one in ours for subject in one["subject"]]
        if name == reference or not same or not subjects:
            continue
        difference = np.concatenate([np.subtract(a["dice"], b["dice"]) for a, b in zip(ours, theirs)])
        mean, error, clusters = clustered_mean_and_error(difference, subjects)
        found[name] = {"mean": mean, "standard_error": error, "slices": len(difference), "subjects": clusters}
    return found
