"""Facts about the tables and pictures of a run."""

import numpy as np
import pandas
import pytest
from PIL import Image

from difffuse_hf.preprocessing.exclusion import Exclusion
from difffuse_hf.preprocessing.manifest import exclusion_table, make_manifest, write_tables
from difffuse_hf.preprocessing.pictures import COLUMNS, TILE, contact_sheet, save_picture, shown_slices, thumbnail


def record(number, reason=None, series=1):
    return {
        "scan_id": f"{number:016x}",
        "patient": "p",
        "study": "s",
        "series": [f"series{number}.{i}" for i in range(series)],
        "decision": "reject" if reason else "keep",
        "reason": reason.value if reason else "",
        "detail": "",
        "header_decision": "keep",
        "header_reason": "",
        "file": "" if reason else f"scans/{number:016x}.nii.gz",
        "nmi": 1.5,
    }


@pytest.fixture
def manifest():
    rejected = [Exclusion.BONE_KERNEL, Exclusion.LOCALISER, Exclusion.LOCALISER, Exclusion.ILL_POSITIONED]
    return make_manifest([record(i, reason) for i, reason in enumerate([None, *rejected])] + [record(9, series=2)])


def test_every_series_is_counted_once_and_the_rest_remains(manifest):
    table = exclusion_table(manifest)
    assert table["reason"].tolist() == ["", "localiser", "bone-kernel", "ill-positioned", ""]
    assert table["series"].tolist() == [7, 2, 1, 1, 3]
    assert table["remaining"].tolist() == [7, 5, 4, 3, 3]


def test_joined_series_have_a_row_each_and_one_scan(manifest):
    rows = manifest[manifest["scan_id"] == f"{9:016x}"]
    assert rows["series"].tolist() == ["series9.0", "series9.1"]
    assert rows["merged_into"].tolist() == ["", f"{9:016x}"]
    assert rows["file"].tolist() == [f"scans/{9:016x}.nii.gz", ""]


def test_parquet_and_csv_say_the_same(manifest, tmp_path):
    write_tables(manifest, tmp_path)
    from_csv = pandas.read_csv(tmp_path / "manifest.csv", keep_default_na=False, dtype={"scan_id": str})
    from_parquet = pandas.read_parquet(tmp_path / "manifest.parquet")
    for name in ("scan_id", "series", "decision", "reason", "nmi"):
        assert from_csv[name].tolist() == from_parquet[name].tolist() == manifest[name].tolist()
    assert "| bone-kernel | " in (tmp_path / "exclusions.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "exclusions.csv",
        "exclusions.md",
        "manifest.csv",
        "manifest.parquet",
    ]


def test_a_contact_sheet_shows_four_slices_of_each_scan_two_of_them_neighbours(manifest, tmp_path):
    assert shown_slices(28).tolist() == [7, 14, 15, 20] and shown_slices(1).tolist() == [0] * 4
    slices = np.stack([np.full((50, 40), value) for value in (0, 100, 0, 100)])
    for scan_id in manifest["scan_id"].unique()[1:]:
        save_picture(thumbnail(slices, 0, 100), tmp_path / f"{scan_id}.png")
    with Image.open(tmp_path / f"{9:016x}.png") as strip:
        assert strip.size == (4 * TILE[0], TILE[1])
        assert [strip.getpixel((TILE[0] * i + TILE[0] // 2, TILE[1] // 2)) for i in range(4)] == [0, 255, 0, 255]
    sheet = contact_sheet(manifest, tmp_path, "All")
    middles = [sheet.getpixel((TILE[0] * i + TILE[0] // 2, 32 + TILE[1] // 2)) for i in range(4 * COLUMNS)]
    assert middles == [128] * 4 + [0, 255] * (2 * COLUMNS - 2)
