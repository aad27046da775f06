"""The control maps point at the drawn lesion, and somewhere where there is none."""

import importlib.util
from pathlib import Path

import datasets
import numpy as np
import pytest

from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError

SCRIPT = Path(__file__).parents[1] / "examples" / "drawn_maps.py"


def main(*flags):
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main([str(flag) for flag in flags])


def prepare(folder, lesions=True):
    """Six heads of three slices, each with bone around brain and a pool of fluid; every second has a lesion."""
    rng = np.random.default_rng(0)
    image, mask = np.zeros((6, 3, 1, 24, 20), np.float32), np.zeros((6, 3, 24, 20), np.uint8)
    for i in range(6):
        top, left = int(rng.integers(4)), int(rng.integers(4))
        image[i, :, 0, top : top + 18, left : left + 16] = 1.0
        image[i, :, 0, top + 2 : top + 16, left + 2 : left + 14] = 0.3
        image[i, :, 0, top + 7 : top + 11, left + 6 : left + 10] = 0.08
        if i % 2 and lesions:
            mask[i, 1, top + 2 : top + 5, left + 1 + i : left + 4 + i] = 1  # touches the bone
            image[i, :, 0][mask[i] > 0] = np.linspace(0.2, 0.32, 9)
    features = datasets.Features(
        {
            "image": datasets.Array4D((3, 1, 24, 20), "float32"),
            "mask": datasets.Array3D((3, 24, 20), "uint8"),
            "label": datasets.ClassLabel(names=["none", "left", "right", "both"]),
        }
    )
    content = {"image": list(image), "label": [0, 1] * 3}
    content["mask"] = [None if i == 0 else one for i, one in enumerate(mask)]
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return image[:, :, 0], mask


def test_a_map_lies_on_its_own_scans_brain_and_there_alone(tmp_path):
    """So that where it lies does not tell whether there is a lesion: no bone, no fluid, no air under it."""
    (tmp_path / "data").mkdir()
    image, mask = prepare(tmp_path / "data")
    image[mask > 0] = 0.3  # what lies there without the lesion
    main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps", "--chunk", 4)
    scans = load_scans(str(tmp_path / "data"), "train", str(tmp_path / "maps"))
    maps = np.stack([np.asarray(scans[i]["saliency"]) for i in range(6)])[:, :, 0]
    assert maps.shape == (6, 3, 24, 20) and (maps.reshape(6, -1).max(1) == 1).all()
    assert (maps[:, [0, 2]] == 0).all()  # in the slice of the lesion that it is
    for i in (1, 3, 5):
        assert maps[i].argmax() in np.flatnonzero(mask[i]) and (maps[i][mask[i] == 0] < 1).all()
    for i in (0, 2, 4):
        assert (image[i][maps[i] > 0] == np.float32(0.3)).all()
    drawn = [np.isclose(one[one > 0], 0.3).mean() for one in (image[i] * (maps[i] > 0) for i in range(6))]
    assert min(drawn) == 1.0


def test_without_drawn_lesions_there_is_nothing_to_show(tmp_path):
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data", lesions=False)
    with pytest.raises(InputError, match="The split 'train' of .* has no drawn lesion"):
        main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps")


def test_shuffled_maps_are_those_of_other_scans_each_of_them_once(tmp_path):
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data")
    main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps")
    main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "others", "--shuffle", tmp_path / "maps")
    own, others = (load_scans(str(tmp_path / "data"), "test", str(tmp_path / name)) for name in ("maps", "others"))
    own, others = (np.stack([np.asarray(row["saliency"]) for row in rows]) for rows in (own, others))
    givers = [next(j for j in range(6) if np.array_equal(others[i], own[j])) for i in range(6)]
    assert sorted(givers) == list(range(6)) and all(i != j for i, j in enumerate(givers))
    with pytest.raises(InputError, match="maps made with another method .shuffled, now drawn_maps."):
        main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "others")


def test_a_scan_without_a_lesion_gets_the_place_that_its_data_set_names(tmp_path):
    (tmp_path / "data").mkdir()
    image, mask = prepare(tmp_path / "data")
    place = np.zeros_like(mask)
    place[:, 0, 14:16, 8:11] = 1  # brain in every head
    for path in (tmp_path / "data").glob("*.parquet"):
        rows = datasets.Dataset.from_parquet(str(path))
        feature = datasets.Features({"place": datasets.Array3D((3, 24, 20), "uint8")})
        column = datasets.Dataset.from_dict({"place": list(place)}, features=feature)
        datasets.concatenate_datasets([rows, column], axis=1).to_parquet(path)
    main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps")
    scans = load_scans(str(tmp_path / "data"), "train", str(tmp_path / "maps"))
    for i in range(6):
        where = np.asarray(scans[i]["saliency"])[:, 0] > 0
        assert where.any((1, 2)).tolist() == ([False, True, False] if i % 2 else [True, False, False])
