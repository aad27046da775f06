"""The page without a browser: sessions and their limits, a job and the command line, pictures and masks."""

import base64
import gzip
import io
import os
import tempfile
import threading
import time
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny_scans import everything_in, tiny_volumes, write_case

from difffuse_hf import detect_volume, read_case
from difffuse_hf.app import session as sessions_module
from difffuse_hf.app.job import Cancelled, Choices, Detector
from difffuse_hf.app.picture import above, compare, easel, legend, mask_of
from difffuse_hf.app.server import folders_of_server, read_auth
from difffuse_hf.app.session import IDLE_SECONDS, Sessions, make_root
from difffuse_hf.app.viewer import layers, view, write_script
from difffuse_hf.cli import main as cli
from difffuse_hf.errors import InputError
from difffuse_hf.reporting.figures import tile_png

MEGABYTE = 1_000_000
CHOICES = Choices(samples=1)


def written(folder, name, content=b"some bytes"):
    """A file as an upload leaves it: in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(content)
    return file


def packed(file, names):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path)


def test_visitors_have_folders_of_their_own_and_take_theirs_along(sessions, tmp_path):
    one, other = sessions.of("one"), sessions.of("other")
    assert one is sessions.of("one") and {one.work, one.served}.isdisjoint({other.work, other.served})
    assert len(one.work.name) == 32 and one.work.name != sessions.of("third").work.name
    for session in (one, other):
        session.take([written(tmp_path / "served" / "hash", "scan.nii.gz", b"x")], MEGABYTE)
    sessions.close("one")
    assert not one.work.exists() and not one.served.exists() and one.cancelled.is_set()
    assert other.source is not None and other.source.read_bytes() == b"x" and not other.cancelled.is_set()
    assert not (tmp_path / "served" / "hash").exists()  # where gradio had put the upload
    sessions.close_all()
    assert everything_in(tmp_path) == ["served", "work"]


def test_what_is_at_work_in_a_closed_session_deletes_it_at_the_end(sessions):
    session = sessions.of("one")
    with session.held():
        sessions.close("one")
        assert session.work.exists()
        with pytest.raises(InputError, match="being worked on"), session.held():
            pass
    assert not session.work.exists() and not session.served.exists()


def test_idle_sessions_and_uploads_that_nobody_took_are_swept(sessions, tmp_path):
    session, now = sessions.of("one"), time.monotonic()
    left = written(tmp_path / "served" / "left", "scan.nii.gz").parent
    old = time.time() - IDLE_SECONDS - 9
    os.utime(left, (old, old))
    sessions.sweep(now + IDLE_SECONDS - 9)
    assert session.work.exists() and not left.exists()
    with session.held():
        sessions.sweep(now + IDLE_SECONDS + 9)
        assert session.work.exists()
    sessions.sweep(now + IDLE_SECONDS + 9)
    assert not session.work.exists() and sessions.of("one") is not session


def test_there_is_room_for_so_many_visitors(sessions, monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 1)
    sessions.of("one")
    with pytest.raises(InputError, match="come back later"):
        sessions.of("other")


def test_an_upload_that_cannot_be_taken_is_one_sentence_and_leaves_nothing(sessions, tmp_path):
    session = sessions.of("one")
    place = tmp_path / "uploads"

    def refused(sentence, *files):
        with pytest.raises(InputError, match=sentence):
            session.take(list(files), 1000)
        assert session.source is None and everything_in(session.work) == [] and everything_in(place) == []

    place.mkdir()
    refused("0 bytes", written(place / "a", "scan.nii.gz", b""))
    refused("is the most that is taken", written(place / "a", "scan.nii.gz", b"x" * 1001))
    refused("is the most that is taken", *(written(place / name, name, b"x" * 600) for name in "ab"))
    refused("have the same name", written(place / "a", "scan.nii"), written(place / "b", "scan.nii"))
    bomb = packed(written(place / "a", "bomb.zip"), {"zeros": bytes(10**5)})
    assert bomb.stat().st_size < 1000
    refused("would unpack to", bomb)
    small = packed(written(place / "a", "scan.zip"), {"a": b"x"})
    refused("one zip file by itself", small, written(place / "b", "scan.nii"))
    refused("has gone in the meantime", place / "a" / "nothing.nii")


def test_several_files_are_one_case_that_has_their_name(sessions, tmp_path):
    files = [written(tmp_path / name, f"BraTS2021_1_{name}.nii.gz") for name in ("flair", "t1")]
    source = sessions.of("one").take(files, MEGABYTE)
    assert source.name == "BraTS2021_1" and sorted(file.name for file in source.iterdir()) == [f.name for f in files]


def test_sentences_for_visitors_name_no_folder_of_the_server_and_no_option(sessions):
    session = sessions.of("one")
    remedy = "name the file by --image t2=PATH if it has another name"
    said = session.plain(f"{session.work}/upload/Case lacks t2: there is no file; {remedy}.")
    assert said == "Case lacks t2: there is no file."


def test_a_killed_servers_folder_goes_when_the_next_one_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = written(tmp_path / "difffuse-app-999999999-x", "scan.nii.gz").parent  # no such process
    alive = make_root()
    assert not dead.exists() and make_root() != alive and alive.exists()
    assert alive.stat().st_mode & 0o077 == 0


def test_the_servers_folder_holds_all_temporary_files_and_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with folders_of_server() as root:
        assert tempfile.gettempdir() == str(root / "work") and os.environ["GRADIO_TEMP_DIR"] == str(root / "served")
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert everything_in(tmp_path) == [] and tempfile.gettempdir() == str(tmp_path)


def test_names_and_passwords_are_read_line_by_line():
    assert read_auth("ann:a:b\n\nbob:c\n") == [("ann", "a:b"), ("bob", "c")]
    for wrong in ("", "ann", "ann:", ":a"):
        with pytest.raises(InputError, match="USER:PASSWORD"):
            read_auth(wrong)


@pytest.fixture(scope="module")
def detector(model):
    return Detector(str(model))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Three slices of a tiny scan, to be quick."""
    volumes = {name: volume[..., 3:6] for name, volume in tiny_volumes().items()}
    return write_case(tmp_path_factory.mktemp("cases") / "Case_1", volumes, reference=False)


@pytest.fixture(scope="module")
def done(detector, case, tmp_path_factory):
    """The session of a visitor whose scan was worked on, and the stages that were told."""
    session, stages = Sessions(tmp_path_factory.mktemp("server")).of("done"), []
    session.source = case
    session.finished = detector.detect(session, CHOICES, lambda *stage: stages.append(stage))
    assert not isinstance(session.finished, str), session.finished
    return session, stages


def test_the_page_finds_what_the_command_line_finds_bit_for_bit(done, model, case, tmp_path):
    session, _ = done
    options = ["--model", str(model), "--output", str(tmp_path), "--samples", "1", "--device", "cpu"]
    assert cli.main(["detect", str(case), *options]) == 0
    with zipfile.ZipFile(session.finished.downloads["volumes"]) as archive:
        archive.extractall(tmp_path / "page")
    names = sorted(file.name for file in (tmp_path / "page").iterdir())
    assert names == sorted(file.name for file in (tmp_path / case.name).glob("*.nii.gz")) and len(names) == 8
    for name in names:
        ours, theirs = (nibabel.load(folder / name) for folder in (tmp_path / "page", tmp_path / case.name))
        assert ours.header == theirs.header and np.array_equal(ours.dataobj, theirs.dataobj), name


def test_stages_are_told_with_how_far_they_are(done):
    session, stages = done
    assert [stage for stage, *_ in stages] == [
        "Reading and preparing the scan",
        "Classifying slices",
        "Finding lesions",
        "Making pictures",
        *(["Making pictures"] if len(stages) == 6 else []),  # once more where one did not pass as healthy
        "Writing the results",
    ]
    assert stages[2] == ("Finding lesions", 0, 3)


def test_a_visitors_report_names_no_folder_of_the_server(done):
    session, _ = done
    report = session.finished.downloads["report"].read_text(encoding="utf-8")
    assert str(session.work.parents[1]) not in report and "Case_1_flair.nii.gz" in report


def test_the_picture_is_that_of_the_report_and_fades_with_its_opacity(done):
    shown = done[0].finished.shown
    index = shown.most_suspicious()
    one = shown.slices[index]
    _, image, healthy, white = one.modalities[0]
    plain = compare(shown, index, "FLAIR", 0.0, np.inf, False)
    for name, expected in {"before": image, "after": healthy}.items():
        drawn = pixels(plain[name])
        direct = pixels(tile_png(expected.astype(np.float32), drawn.shape[1], white=white))
        assert np.array_equal(drawn, direct)
    faint, strong = (pixels(compare(shown, index, "FLAIR", by, one.threshold, False)["before"]) for by in (0.2, 1.0))
    assert not np.array_equal(faint, strong) and not np.array_equal(faint, pixels(plain["before"]))
    assert compare(shown, -5, "T2", 1, 1, True)["left"].startswith("T2")  # the nearest slice
    bar = legend(shown, one.threshold)
    assert f"{one.limit:g}" in bar and "share of the model&#x27;s intensity range" in bar  # a bar has a unit


def pixels(picture):
    png = base64.b64decode(picture.partition(",")[2]) if isinstance(picture, str) else picture
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_what_the_brush_shows_is_what_it_gives_back(done):
    shown = done[0].finished.shown
    index = shown.most_suspicious()
    board = easel(shown, index, "FLAIR", {})
    mask = mask_of(shown, index, board["mask"])
    assert mask.shape == (32, 32) and np.array_equal(mask[shown.window] > 0, shown.slices[index].mask)
    assert mask.sum() == shown.slices[index].mask.sum() > 0  # nothing outside the window
    assert easel(shown, index, "FLAIR", {index: 1 - mask})["mask"] != board["mask"]
    assert above(shown, index, np.inf).sum() == 0 < above(shown, index, 0.0).sum()
    for place, painted in ((index, "01"), (index, board["mask"].replace("0", "2")), (99, board["mask"])):
        with pytest.raises(InputError, match="does not belong"):
            mask_of(shown, place, painted)


def test_a_run_on_masks_changes_the_slices_that_were_painted_and_no_other(done, detector, tmp_path):
    first, session = done[0].finished, Sessions(tmp_path).of("again")
    session.source = done[0].source
    index = first.shown.most_suspicious()
    mask = np.zeros((32, 32), np.float32)
    mask[12:20, 12:20] = 1
    masks = {index: mask, next(i for i in first.shown.slices if i != index): np.zeros_like(mask)}
    again = detector.detect(session, Choices(samples=1, masks=masks))
    for place, one in again.shown.slices.items():
        same = np.array_equal(one.anomaly, first.shown.slices[place].anomaly)
        assert same == (place not in masks)
        if place in masks:
            assert np.array_equal(one.mask, masks[place][again.shown.window] > 0)
            assert not (one.anomaly[~one.mask] > 0).any()
    assert again.summary["parameters"]["drawn_masks"] == sorted(masks)
    assert again.summary["parameters"]["fingerprint"] != first.summary["parameters"]["fingerprint"]


def test_masks_that_do_not_fit_are_one_sentence(done, detector):
    for masks, sentence in (({0: np.zeros((3, 3))}, "has the shape"), ({99: np.zeros((32, 32))}, "does not use")):
        assert sentence in detector.detect(done[0], Choices(samples=1, masks=masks))


def test_a_cancelled_job_leaves_the_earlier_result_and_a_closed_session_nothing(done, detector, tmp_path):
    sessions = Sessions(tmp_path)
    session = sessions.of("one")
    session.source = done[0].source
    networks = threading.Event()

    def tell(stage, *_):
        if stage == "Classifying slices":
            sessions.close("one")
            networks.set()

    before = everything_in(done[0].work)
    with pytest.raises(Cancelled):
        detector.detect(session, CHOICES, tell)
    assert networks.is_set() and not session.work.exists()
    done[0].cancelled.set()
    with pytest.raises(Cancelled):
        detector.detect(done[0], CHOICES)
    done[0].cancelled.clear()
    assert everything_in(done[0].work) == before


def test_a_text_file_with_the_name_of_a_scan_is_one_sentence(detector, tmp_path):
    session = Sessions(tmp_path).of("one")
    files = [written(tmp_path / name, f"Case_{name}.nii.gz", b"no scan") for name in ("flair", "t1", "t1ce", "t2")]
    session.take(files, MEGABYTE)
    said = detector.detect(session, CHOICES)
    assert (
        isinstance(said, str) and "Case_flair.nii.gz" in said and str(tmp_path) not in said and said.count(". ") == 0
    )


def test_the_viewers_script_exports_niivue(tmp_path):
    pytest.importorskip("ipyniivue", reason="needs the extra `app`")
    script = write_script(tmp_path)
    assert script is not None and script.read_text(encoding="utf-8").rstrip().endswith(" as Niivue};")


def test_the_viewer_opens_where_the_anomaly_is_largest(done):
    """In millimetres: the voxels of a scan whose axes run to the left and to the back are counted the other way."""
    file = nibabel.load(done[0].finished.volumes["anomaly"])
    anomaly = np.asarray(file.dataobj)
    place = np.linalg.inv(file.affine) @ (*done[0].finished.peak, 1)
    assert (np.diag(file.affine)[:2] < 0).all() and anomaly.max() > 0
    assert anomaly[tuple(np.rint(place[:3]).astype(int))] == anomaly.max()


def test_the_viewer_shows_the_scan_below_and_the_anomaly_from_its_threshold_on():
    image, healthy, anomaly = layers({"image": "a", "counterfactual": "b", "anomaly": "c"}, 9.0, 0.5, 2.0)
    assert (image["where"], image["cal_max"], image["opacity"], healthy["opacity"]) == ("a", 9.0, 1.0, 0.0)
    assert (anomaly["cal_min"], anomaly["cal_max"], anomaly["colorbar_visible"]) == (0.5, 2.0, True)


def test_a_notebook_shows_the_same_volumes(done, detector):
    pytest.importorskip("ipyniivue", reason="needs the extra `app`")
    case = read_case(done[0].source, detector.pipeline.processor.modalities)
    call = {"num_samples": 1, "num_inference_steps": 1, "display_steps": 0, "progress": False}
    result = detect_volume(detector.pipeline, case, **call)
    widget = view(result)
    assert [volume.name for volume in widget.volumes] == ["image.nii.gz", "counterfactual.nii.gz", "anomaly.nii.gz"]
    assert widget.opts.is_radiological_convention and [one.opacity for one in widget.volumes] == [1.0, 0.0, 0.7]
    shown = nibabel.Nifti1Image.from_bytes(gzip.decompress(bytes(widget.volumes[2].data)))
    np.testing.assert_array_equal(shown.dataobj, result.anomaly)
