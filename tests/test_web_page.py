"""The page's server, asked over the loopback as a browser asks it, by gradio's own client."""

import shutil
import socket
import sys
import threading
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import pytest
from tiny_scans import everything_in, write_case

gradio = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'difffuse_hf[app]'")

pytest.importorskip("pydicom", reason="hostile scans need the extra `preprocess`")

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import page_load  # noqa: E402

from difffuse_hf.app.job import Detector  # noqa: E402
from difffuse_hf.app.server import folders_of_server, serving  # noqa: E402

MOST_MB = 1
RUN = ("fast", 0, 1, False, True)  # preset, seed, samples, all slices, without the patient


@pytest.fixture(scope="module")
def server(model):
    """Address of the page of a tiny model, its sessions and its folder."""
    with (
        pytest.MonkeyPatch.context() as patch,
        folders_of_server() as root,
        serving(Detector(str(model)), root, MOST_MB) as (blocks, sessions),
    ):
        patch.setenv("GRADIO_IS_E2E_TEST", "1")  # a visitor who left is missed after 0.25 s instead of 15
        yield blocks, sessions, root


@pytest.fixture
def visit(server):
    """Makes clients, each a visitor; they leave at the end."""
    clients = []

    def come():
        clients.append(Client(server[0].local_url, verbose=False))
        return clients[-1]

    yield come
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    case = write_case(tmp_path_factory.mktemp("cases") / "Case_1", reference=False)
    return [handle_file(str(file)) for file in sorted(case.iterdir())]


def wait_until(fact, seconds=20.0):
    """Until it holds; a second is enough for the heartbeat of a client that has left to be missed."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if fact():
            return True
        pause.wait(0.1)
    return False


def test_nobody_sees_the_scan_of_another_visitor_and_it_goes_with_its_own(server, visit, files):
    _, sessions, root = server
    one, other = visit(), visit()
    assert "Ready: Case_1" in one.predict(files, api_name="/take_files")[1]
    source = sessions.known[one.session_hash].source
    assert source.is_dir() and len(everything_in(source)) == len(files)
    assert "Choose a scan first" in str(other.predict(*RUN, api_name="/detect"))
    assert sessions.known[other.session_hash].source is None
    uploads = [file for file in (root / "served").rglob("*") if file.is_file() and file.stat().st_size]
    assert uploads == []  # what may be fetched holds no upload
    one.close()
    assert wait_until(lambda: not source.exists())
    assert one.session_hash not in sessions.known and other.session_hash in sessions.known


def test_what_lies_outside_the_visitors_own_downloads_cannot_be_fetched(server, visit, files):
    blocks, sessions, _ = server
    one = visit()
    one.predict(files, api_name="/take_files")
    source = sessions.known[one.session_hash].source
    for path in (next(source.iterdir()), Path(__file__)):
        assert httpx.get(f"{blocks.local_url}gradio_api/file={path}").status_code == 403


def test_nothing_is_fetched_from_elsewhere_and_no_file_of_the_server_is_taken(server, visit):
    blocks, sessions, root = server
    client, script = visit(), root / "static" / "niivue.js"
    script.touch()  # without ipyniivue there is none
    for address in ("file=https://example.org/x.nii.gz", "file=http%3A//example.org/x", "proxy=https://example.org/"):
        answer = httpx.get(f"{blocks.local_url}gradio_api/{address}")
        assert (answer.status_code, answer.text) == (403, "This server has its own files only.")
    theirs = sessions.of("somebody").served / "scan.nii.gz"
    theirs.touch()
    for path in ("https://example.org/x.nii.gz", str(script), str(theirs), __file__):
        body = {"data": [[{"path": path, "meta": {"_type": "gradio.FileData"}}]], "session_hash": client.session_hash}
        event = httpx.post(f"{blocks.local_url}gradio_api/call/take_files", json=body).json()["event_id"]
        answer = httpx.get(f"{blocks.local_url}gradio_api/call/take_files/{event}", timeout=20).text
        assert "Ready" not in answer and ("Choose a scan" in answer or "error" in answer), answer
    assert script.exists() and theirs.exists() and Path(__file__).exists()
    sessions.close("somebody")


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        (
            "scan.nii.gz",
            b"some text",
            "is one file but the model takes flair, t1, t1ce, t2; drop all files of the case",
        ),
        ("scan.nii.gz", b"", "0 bytes"),
        ("scan.zip", b"PK\x05\x06", "scan.zip"),
    ],
)
def test_a_bad_upload_is_a_sentence(server, visit, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    client = visit()
    said = client.predict([handle_file(str(tmp_path / name))], api_name="/take_files")[1]
    assert sentence in said and "problem" in said and str(server[2]) not in said
    assert server[1].known[client.session_hash].source is None


def test_an_upload_over_the_limit_is_refused(server):
    too_large = {"files": ("scan.nii.gz", bytes(MOST_MB * 1_000_000 + 1))}
    answer = httpx.post(f"{server[0].local_url}gradio_api/upload", files=too_large)
    assert answer.status_code == 413 and "maximum allowed size" in answer.text
    left = [file for file in server[2].rglob("*") if file.is_file() and file.stat().st_size > 100_000]
    assert [file.name for file in left if file.name != "niivue.js"] == []


def test_an_upload_that_breaks_off_leaves_nothing_and_is_no_error(server, caplog):
    address = urlsplit(server[0].local_url)
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="half.nii"\r\n\r\n' + b"x" * 300_000
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"

    def came():
        return [file for file in (server[2] / "served").glob("tmp*") if file.stat().st_size]

    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head + b"Content-Length: 600000\r\n\r\n" + part)
        assert wait_until(came)
    assert wait_until(lambda: not came())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("kind", ["aborted", "oversized", "text", "gzip bomb"])
def test_visitors_of_the_load_test_end_as_it_expects(server, kind):
    here = page_load.Server(server[0].local_url, server[2], page_load.psutil.Process(), Path())
    files, outcome = page_load.KINDS[kind]
    visitor, stranger = page_load.Visitor(here, 1, kind), page_load.Visitor(here, 2, "stranger")
    assert visitor.visit(files(1, MOST_MB), page_load.Queue()) == outcome and visitor.errors == []
    tried = set()
    assert page_load.spy(stranger, tried) == 0 and len(tried) >= 3
    visitor.client.close()
    stranger.client.close()


def test_the_load_test_names_each_promise_that_does_not_hold():
    held = {"foreign_tries": 9, "foreign_reads": 0, "asked": [1, 0], "served": [1, 0], "memory_peak_mb": 99}
    held |= dict.fromkeys(("unexpected", "server_errors", "names_in_log", "left", "left_at_the_end"), [])
    assert page_load.broken(held, 100) == []
    for change in (*({name: [1]} for name, value in held.items() if value == []), {"foreign_reads": 1},
                   {"foreign_tries": 0}, {"served": [0, 1]}, {"memory_peak_mb": 100}):  # fmt: skip
        assert len(page_load.broken(held | change, 100)) == 1, change


def test_one_job_at_a_time_and_the_next_one_waits_until_it_is_cancelled(server, visit, files, monkeypatch):
    _, sessions, _ = server
    at_work, go_on = threading.Event(), threading.Event()
    detect, running = Detector.detect, []

    def slow(detector, session, *arguments):
        running.append(session)
        at_work.set()
        go_on.wait(20)
        return detect(detector, session, *arguments)

    monkeypatch.setattr(Detector, "detect", slow)
    visitors = [visit(), visit()]
    for visitor in visitors:
        visitor.predict(files, api_name="/take_files")
    jobs = [visitor.submit(*RUN, api_name="/detect") for visitor in visitors]
    assert at_work.wait(20)
    for visitor in visitors:
        visitor.predict(api_name="/cancel")
    threading.Event().wait(0.3)
    assert len(running) == 1
    go_on.set()
    assert all("Cancelled" in str(job.result(timeout=30)) for job in jobs)
    assert len(running) == 2 and running[0] is not running[1]
    assert all(everything_in(session.work)[0] == "upload" for session in running)


def test_the_page_says_what_it_is_and_tells_nobody_else(server):
    blocks, _, _ = server
    config = httpx.get(f"{blocks.local_url}config").text
    assert "Research tool, not a medical device." in config
    assert not blocks.analytics_enabled and not blocks.run_history and not blocks.share
    page = httpx.get(blocks.local_url).text
    assert "fonts.googleapis.com" not in page


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_with_the_keyboard_alone(server, tmp_path, width):
    """A scan, its slices, before and after, the mask, again, a download; no word to another machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright and a Chromium")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("the browser test needs a Chromium on the PATH")
    case = write_case(tmp_path / "Case_1", reference=False)
    blocks, sessions, _ = server
    before = set(sessions.known)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked, errors = set(), []
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(blocks.local_url)
        words = page.locator(".status")
        press(page, "Find lesions")
        words.get_by_text("Choose a scan first").wait_for()
        page.locator("input[type=file]").first.set_input_files([str(file) for file in sorted(case.iterdir())])
        words.get_by_text("Ready: Case_1").wait_for()
        press(page, "Find lesions")
        words.get_by_text("ml found").wait_for(timeout=120_000)

        picture = page.locator(".pair img").first
        first = picture.get_attribute("src")
        page.get_by_label("Slice").locator("visible=true").last.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("old => document.querySelector('.pair img').src !== old", arg=first)
        page.locator(".divider").focus()
        page.keyboard.press("Home")
        assert page.locator(".pair .stack").evaluate("one => one.style.getPropertyValue('--at')") == "0%"

        press(page, "Change the mask, and run again")
        page.locator(".easel canvas").focus()
        for key in ("ArrowUp", " ", "Shift+ArrowLeft", " "):
            page.keyboard.press(key)
        page.get_by_text("Masks changed on slices").wait_for()
        press(page, "Run again with these masks")
        words.get_by_text("ml found").wait_for(state="hidden")
        words.get_by_text("ml found").wait_for(timeout=120_000)

        press(page, "Three planes")
        press(page, "Open the viewer")
        page.locator(".volumes [data-loaded]").or_(page.locator(".volumes[data-loaded]")).first.wait_for(
            timeout=60_000
        )
        with page.expect_download() as download:
            press(page, "Volumes (NIfTI)")
        with zipfile.ZipFile(download.value.path()) as archive:
            assert len(archive.namelist()) == 8
            archive.extract("Case_1_anomaly.nii.gz", tmp_path)
        largest = nibabel.load(tmp_path / "Case_1_anomaly.nii.gz").get_fdata().max()
        place = page.locator(".volumes .location").inner_text()  # of the crosshair, as the viewer reads the volumes
        assert float(place.rpartition("anomaly ")[2]) == pytest.approx(largest, rel=0.01), place
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert asked - {None} == {"127.0.0.1"} and errors == []
        browser.close()
    assert wait_until(lambda: set(sessions.known) <= before)


def press(page, name):
    """Press a button as the keyboard does."""
    page.get_by_role("button", name=name).first.focus()
    page.keyboard.press("Enter")
