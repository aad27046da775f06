import numpy as np
import pytest

from difffuse_hf.data.splits import split_by_group

COHORTS = [np.random.default_rng(seed).integers(0, 3 + 4 * seed, 5 + 20 * seed).tolist() for seed in range(12)]


@pytest.mark.parametrize("groups", COHORTS, ids=len)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_subject_is_in_one_split_and_no_group_is_in_two(groups, seed):
    splits = split_by_group(groups, seed)
    assert sorted(i for part in splits.values() for i in part) == list(range(len(groups)))
    sets = [{groups[i] for i in part} for part in splits.values()]
    assert sum(map(len, sets)) == len(set(groups))


@pytest.mark.parametrize("groups", [g for g in COHORTS if len(set(g)) >= 3], ids=len)
def test_no_split_is_empty_with_three_groups_or_more(groups):
    assert all(split_by_group(groups).values())


def test_a_large_cohort_is_split_70_15_15():
    sizes = {split: len(part) for split, part in split_by_group(range(1251)).items()}
    assert sizes == {"train": 876, "validation": 188, "test": 187}


def test_the_split_depends_on_the_seed_and_the_names_but_not_on_the_order():
    groups = [f"patient{i}" for i in range(40)]
    one = split_by_group(groups, seed=3)
    assert one == split_by_group(groups, seed=3) != split_by_group(groups, seed=4)
    turned = split_by_group(groups[::-1], seed=3)
    assert {groups[i] for i in one["test"]} == {groups[::-1][i] for i in turned["test"]}


def test_a_single_group_goes_to_training():
    assert split_by_group(["a", "a"]) == {"train": [0, 1], "validation": [], "test": []}


def test_fractions_must_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_group([1, 2, 3], fractions=(0.7, 0.2, 0.2))
