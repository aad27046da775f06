"""Facts about the log of a run: nothing that was finished is lost."""

import json
import resource

import pytest

from difffuse_hf.preprocessing.records import Records

ROW = {"scan_id": "0123456789abcdef", "nmi": 1.5, "detail": None}


def test_rows_come_back_as_they_were_written(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    for i in range(3):
        records.append({**ROW, "number": i})
    assert Records(tmp_path / "records.jsonl").rows == [{**ROW, "number": i} for i in range(3)]


def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:20])
    records = Records(path)
    assert records.rows == [ROW]
    records.append({**ROW, "number": 1})
    assert Records(path).rows == [ROW, {**ROW, "number": 1}]


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path)
    records.append(ROW)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError):
            records.append(ROW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and Records(path).rows == [ROW]
