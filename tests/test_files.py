"""Files and folders that appear whole, runs that have a folder to themselves, and what killed ones leave."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from difffuse_hf.errors import InputError, one_sentence
from difffuse_hf.io.files import complete_folder, own_folder, sweep, write_into, write_whole

KILLED = """
import sys, time
from difffuse_hf.io.files import {what}
with {what}(sys.argv[1]) as folder:
    (folder / "half").write_text("half")
    print("in", flush=True)
    time.sleep(60)
"""


def in_another_process(what, folder):
    """A process that is in the middle of writing a folder."""
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(what=what), str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"in\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write_version(folder, text):
    with complete_folder(folder) as temporary:
        (temporary / "file").write_text(text)


def test_a_second_run_is_refused_and_what_a_killed_one_left_is_swept(tmp_path):
    write_version(tmp_path / "case", "first")
    process = in_another_process("complete_folder", tmp_path / "case")
    with pytest.raises(InputError, match="Another run is writing to .*case; wait for it"):
        write_version(tmp_path / "case", "second")
    sweep(tmp_path)  # leaves alone what is being made
    assert len(names(tmp_path)) == 3
    kill(process)
    sweep(tmp_path)
    assert names(tmp_path) == ["case/file"] and (tmp_path / "case" / "file").read_text() == "first"


def test_a_run_has_its_folder_to_itself_and_sweeps_it(tmp_path):
    process = in_another_process("own_folder", tmp_path / "out")
    (tmp_path / "out" / "scans").mkdir()
    for left_over in (".12-manifest.csv", "scans/.345-scan.nii.gz", ".writing", ".drawing-x", ".keep"):
        (tmp_path / "out" / left_over).write_text("half")
    with pytest.raises(InputError, match="Another run is writing to"), own_folder(tmp_path / "out"):
        pass
    kill(process)
    with own_folder(tmp_path / "out"):
        assert names(tmp_path / "out") == [".keep", ".lock", "half"]
    assert names(tmp_path / "out") == [".keep", "half"]


@pytest.mark.parametrize("end, there", [(".new", []), (".old", ["file"])])
def test_a_folder_that_was_set_aside_comes_back_and_a_half_one_goes(tmp_path, end, there):
    (tmp_path / f".case.1.2.77{end}").mkdir()
    (tmp_path / f".case.1.2.77{end}" / "file").write_text("text")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["case.1.2"] * len(there)
    assert names(tmp_path / "case.1.2") == there


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    write_version(tmp_path / "case", "first")
    monkeypatch.setattr(Path, "rename", lambda *_: os._exit(9))
    if not (child := os.fork()):
        write_version(tmp_path / "case", "second")
    os.waitpid(child, 0)
    monkeypatch.undo()
    sweep(tmp_path)
    assert (tmp_path / "case" / "file").read_text() == "first" and len(names(tmp_path)) == 1


@pytest.mark.parametrize("write", [write_whole, write_into])
def test_a_full_disk_is_a_sentence_that_names_the_file_and_leaves_the_old_one(tmp_path, write):
    def fill(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "kept"
    if write is write_into:
        target.mkdir()
        (target / "file").write_text("old")
    else:
        target.write_text("old")
    with pytest.raises(OSError) as caught:
        write(target, fill)
    assert one_sentence(caught.value).startswith(f"{target}: No space left on device; check the path")
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["old"]


def test_nothing_is_left_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for make in (complete_folder, own_folder):
        with pytest.raises(InputError, match="Cannot write to .*choose another output folder"):
            with make(tmp_path / "file" / "deeper" / "case"):
                pass
    assert names(tmp_path) == ["file"]
