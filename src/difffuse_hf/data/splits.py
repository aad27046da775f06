"""Splits by patient (or by anatomy, for synthetic subjects): 70-15-15, seeded (thesis Secs. 4.4 and 6.5)."""

from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")


def split_by_group(
    groups: Sequence[str], seed: int = 0, fractions: Sequence[float] = (0.7, 0.15, 0.15)
) -> dict[str, list[int]]:
    """Indices of the subjects of each split; subjects of one group stay together.

    Groups, not subjects, are shared out by `fractions` (largest remainder). With at least three groups every split
    with a positive fraction gets one or more. The result depends on the set of group names, the seed and nothing else.

    Args:
        groups (`Sequence`): the group of each subject, for example its patient or anatomy.
        seed (`int`): order in which the groups are dealt.
        fractions (`Sequence[float]`): shares of train, validation and test; they sum to 1.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` are three shares that sum to 1 (train, validation, test), got {fractions}.")
    names = sorted(set(groups))
    shares = np.asarray(fractions) * len(names)
    sizes = np.floor(shares).astype(int)
    sizes[np.argsort(sizes - shares, kind="stable")[: len(names) - sizes.sum()]] += 1
    if len(names) >= len(SPLITS):
        for empty in np.flatnonzero((sizes == 0) & (shares > 0)):
            sizes[sizes.argmax()] -= 1
            sizes[empty] = 1
    shuffled = np.random.default_rng(seed).permutation(len(names))
    parts = np.split(shuffled, np.cumsum(sizes)[:-1])
    split_of = {names[i]: split for split, part in zip(SPLITS, parts) for i in part}
    return {split: [i for i, group in enumerate(groups) if split_of[group] == split] for split in SPLITS}
