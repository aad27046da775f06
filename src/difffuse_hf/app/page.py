"""What happens on the page when something is pressed. Every handler knows its visitor's session.

scan ─ choices ─ run (one at a time, with its stages) ─ slices: before and after, anomaly ─ mask ─ run again ─ files
"""

import threading
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..detection.sources import is_dicom, zip_file_of
from ..errors import InputError, one_sentence
from ..io.layouts import case_name, find_case
from ..phantoms.brain_phantom import draw_example
from .job import Cancelled, Choices, Detector
from .picture import above, compare, easel, legend, mask_of
from .session import Session, Sessions
from .viewer import layers

NOTICE = "Research tool, not a medical device. Do not use it for diagnosis or treatment."
NO_SCAN = "Choose a scan first: drop its files, or take the example."
EXAMPLE_MODALITIES = {"flair", "t1", "t1ce", "t2"}
MOST_SAMPLES = 16
PROGRESS = gr.Progress()  # a default by which gradio knows what to hand over


def status(sentence: str, kind: str = "", more: str = "") -> str:
    """A sentence for the visitor, read out by screen readers when it changes; `more` is HTML."""
    return f"<div class='{kind}' role='status' aria-live='polite'><p>{escape(sentence)}</p>{more}</div>"


class Page:
    """The handlers of one server's page, which share a model and the sessions.

    Args:
        detector: the model.
        sessions: of all visitors.
        most_bytes: of an upload.
        viewer_script: see `viewer.write_script`; without it there is no viewer.
    """

    def __init__(self, detector: Detector, sessions: Sessions, most_bytes: int, viewer_script: Path | None = None):
        self.detector, self.sessions = detector, sessions
        self.most_bytes, self.viewer_script = most_bytes, viewer_script
        self.drawing = threading.Lock()
        assert detector.pipeline.processor is not None  # `load_model` has checked it
        self.processor = detector.pipeline.processor
        self.has_example = set(self.processor.modalities) <= EXAMPLE_MODALITIES

    def of(self, request: gr.Request) -> Session:
        """The visitor's session."""
        return self.sessions.of(request.session_hash)

    # 1. A scan

    def take_files(self, uploaded: list[str] | None, request: gr.Request) -> tuple[Any, str]:
        """Take an upload; the drop zone is empty again, and a sentence says what it holds."""
        session = self.of(request)
        paths = [Path(one) for one in uploaded or []]

        def take() -> str:
            if not paths or not all(map(self.sessions.is_upload, paths)):
                raise InputError(NO_SCAN)
            with session.held():
                source = session.take(paths, self.most_bytes)
                if zip_file_of(source) is None and not is_dicom(source):
                    try:
                        find_case(source, self.processor.modalities, self.processor.optional_modalities)
                    except InputError:
                        session.forget()
                        raise
            return status(f"Ready: {case_name(source)}. Press “Find lesions”.", "good")

        return None, said(take, session)

    def take_example(self, request: gr.Request) -> str:
        """The synthetic subject of `difffuse demo`, drawn once for all visitors."""
        session = self.of(request)

        def take() -> str:
            with self.drawing:
                folder = self.sessions.work / "example"
                example = draw_example(folder)
            with session.held():
                session.forget()
                session.source = example
            return status(f"Ready: {example.name}, a synthetic subject. Press “Find lesions”.", "good")

        return said(take, session)

    # 2. A run

    def begin(self, request: gr.Request) -> tuple[str, Any, Any]:
        """What happens at once when a run is asked for: the buttons change, and it waits for its turn."""
        session = self.of(request)
        session.cancelled.clear()
        session.waiting = True
        return status(""), gr.Button(interactive=False), gr.Button(interactive=True)

    def cancel(self, request: gr.Request) -> Any:
        """Stop the visitor's run before its next network call, or before it starts."""
        session = self.of(request)
        session.cancelled.set()
        return status("Stopping …") if session.waiting else gr.skip()

    def detect(self, preset: str, seed: float | None, samples: float | None, all_slices: bool, deidentify: bool,
               request: gr.Request, progress: gr.Progress = PROGRESS) -> dict[str, Any]:  # fmt: skip
        """Find the lesions of the session's scan; returns what `blocks` shows of it."""
        return self._run(self.of(request), progress, preset, seed, samples, all_slices, deidentify)

    def repaint(self, preset: str, seed: float | None, samples: float | None, all_slices: bool, deidentify: bool,
                request: gr.Request, progress: gr.Progress = PROGRESS) -> dict[str, Any]:  # fmt: skip
        """The same with the painted masks."""
        session = self.of(request)
        if not session.masks:
            return {"status": status("No mask was changed yet; paint on one first.", "problem")}
        return self._run(session, progress, preset, seed, samples, all_slices, deidentify, dict(session.masks))

    def _run(self, session, progress, preset, seed, samples, all_slices, deidentify, masks=None) -> dict[str, Any]:
        def tell(stage: str, done: int, total: int) -> None:
            progress(done / max(total, 1), desc=f"{stage}: slice {done} of {total}" if total else stage)

        try:
            if session.source is None:
                raise InputError(NO_SCAN)
            chosen = Choices(preset, int(seed or 0), _samples(samples), all_slices, deidentify, masks or {})
            finished = self.detector.detect(session, chosen, tell)
        except Cancelled:
            return {"status": status("Cancelled; nothing of this run was kept.", "problem")}
        except Exception as error:
            return {"status": status(session.plain(one_sentence(error)), "problem")}
        finally:
            session.waiting = False
        if isinstance(finished, str):
            return {"status": status(finished, "problem")}
        session.finished = finished
        return self._result(session)

    def _result(self, session: Session) -> dict[str, Any]:
        """All that the page shows of a new result, by the names of `blocks`."""
        assert session.finished is not None
        summary, shown, downloads = session.finished.summary, session.finished.shown, session.finished.downloads
        words = (
            f"{summary['case']}{' (synthetic)' if summary['synthetic'] else ''}: {summary['lesion_ml']:.1f} ml found"
        )
        words += "" if summary["dice"] is None else f", Dice {summary['dice']:.3f} with the reference"
        words += f", in {summary['seconds']:.0f} seconds."
        more = "".join(f"<p>{escape(session.plain(one))}</p>" for one in (*summary["coverage"], *summary["notes"]))
        made: dict[str, Any] = {
            "status": status(words, "good", more),
            "results": gr.Column(visible=bool(shown.slices)),
            **{name: gr.DownloadButton(value=str(file), visible=True) for name, file in downloads.items()},
            "viewer": gr.HTML(visible=False, value=None),
        }
        if "dicom" not in downloads:
            made["dicom"] = gr.DownloadButton(visible=False)
        if not shown.slices:
            return made
        index, modality = shown.most_suspicious(), shown.modalities[0]
        one = shown.slices[index]
        return made | {
            "slice": gr.Slider(minimum=min(shown.slices), maximum=max(shown.slices), value=index),
            "modality": gr.Dropdown(choices=shown.modalities, value=modality, visible=len(shown.modalities) > 1),
            "threshold": gr.Slider(minimum=0, maximum=one.limit, step=0.001, value=round(one.threshold, 3)),
            "pair": compare(shown, index, modality, 0.9, one.threshold, False),
            "legend": legend(shown, one.threshold),
            "easel": easel(shown, index, modality, session.masks),
            "masks": masks_in_words(session),
        }

    # 3. A look at the result

    def draw(
        self, index: int, modality: str, opacity: float, threshold: float, outline: bool, request: gr.Request
    ) -> Any:
        """The picture of a slice, and the legend."""
        finished = self.of(request).finished
        if finished is None:
            return gr.skip(), gr.skip()
        shown = finished.shown
        own = shown.nearest(index).threshold
        threshold = own if round(own, 3) == round(threshold, 3) else threshold  # the slider has three digits
        return compare(shown, index, modality, opacity / 100, threshold, outline), legend(shown, threshold)

    def set_up_easel(self, index: int, modality: str, request: gr.Request) -> Any:
        """The mask of a slice, to be painted on."""
        session = self.of(request)
        return gr.skip() if session.finished is None else easel(session.finished.shown, index, modality, session.masks)

    def open_viewer(self, request: gr.Request) -> Any:
        """NiiVue with the scan, its counterfactual and the anomaly."""
        finished = self.of(request).finished
        if finished is None or self.viewer_script is None:
            return gr.skip()
        one = next(iter(finished.shown.slices.values()))
        where = {name: str(file) for name, file in finished.volumes.items()}
        stack = layers(where, finished.white, one.threshold, one.limit)
        named = [{**layer, "name": Path(layer["where"]).name} for layer in stack]
        return gr.HTML(
            visible=True,
            value={
                "script": str(self.viewer_script),
                "layers": named,
                "unit": escape(one.shows),
                "peak": finished.peak,
            },
        )

    # 4. A mask of one's own

    def painted(self, event: gr.EventData, request: gr.Request) -> str:
        """Keep what was painted on a slice."""
        session = self.of(request)

        def keep() -> str:
            if session.finished is None:
                raise InputError(NO_SCAN)
            index = int(event._data["slice"])
            session.masks[index] = mask_of(session.finished.shown, index, str(event._data["mask"]))
            return masks_in_words(session)

        return said(keep, session)

    def mask_from_map(self, index: int, modality: str, threshold: float, request: gr.Request) -> Any:
        """The mask of a slice is where its anomaly reaches the threshold."""
        return self._change_mask(index, modality, request, lambda shown, one: above(shown, one, threshold))

    def mask_empty(self, index: int, modality: str, request: gr.Request) -> Any:
        """The mask of a slice is empty."""
        return self._change_mask(index, modality, request, lambda shown, one: above(shown, one, float("inf")))

    def mask_of_model(self, index: int, modality: str, request: gr.Request) -> Any:
        """The mask of a slice is that of the last run again."""
        return self._change_mask(index, modality, request, lambda *_: None)

    def _change_mask(self, index: int, modality: str, request: gr.Request, make: Callable) -> Any:
        session = self.of(request)
        if session.finished is None:
            return gr.skip(), gr.skip()
        shown = session.finished.shown
        place = shown.nearest(index).index
        mask = make(shown, place)
        if mask is None:
            session.masks.pop(place, None)
        else:
            session.masks[place] = mask
        return easel(shown, place, modality, session.masks), masks_in_words(session)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed or reloaded: everything of this visitor goes."""
        self.sessions.close(request.session_hash)


def said(do: Callable[[], str], session: Session) -> str:
    """What a step says, or the sentence on why it could not be done."""
    try:
        return do()
    except (InputError, OSError) as error:
        return status(session.plain(one_sentence(error)), "problem")


def masks_in_words(session: Session) -> str:
    """Which slices have a mask that the visitor changed."""
    changed = ", ".join(map(str, sorted(session.masks)))
    return status(f"Masks changed on slices: {changed}." if changed else "No mask was changed yet.")


def _samples(asked: float | None) -> int | None:
    """As many samples as were asked for; 0 stands for the preset's own number."""
    if asked and not 0 < asked <= MOST_SAMPLES:
        raise InputError(
            f"{asked:g} samples are not possible here; take 1 to {MOST_SAMPLES}, or 0 for the preset's own."
        )
    return int(asked) if asked else None
