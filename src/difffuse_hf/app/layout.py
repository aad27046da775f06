"""How the page is laid out, and which part calls which handler of `page.py`.

Before and after, the brush and the viewer are parts of our own in HTML: gradio's image slider and image editor can
only be used with a pointer, and keep every picture as a file. These work with the keyboard, and hold their pictures.
"""

from collections.abc import Callable
from functools import wraps
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from ..pipelines.presets import PRESETS
from .job import Choices
from .page import MOST_SAMPLES, NOTICE, Page, status
from .session import MEGABYTE

DEVICE = "device"  # the one job at a time
PAIR = """<div class="stack"><img src="${value.before}" alt="${value.left}"><img class="after" src="${value.after}"
alt="${value.right}"></div><input type="range" class="divider" min="0" max="100" value="50"
aria-label="Before and after: share of the original"><div class="sides"><span>◀ ${value.left}</span>
<span>${value.right} ▶</span></div><p>${value.words}</p>"""
EASEL = """<canvas tabindex="0" role="application" width="${8 * value.width}" height="${8 * value.height}"
aria-label="Mask of slice ${value.slice}: paint with the pointer, or with the arrow keys and the space bar"></canvas>
<div class="tools"><label>Brush <input type="range" class="radius" min="0.5" max="12" step="0.5" value="3"
aria-label="Radius of the brush in pixels of the model"></label>
<label><input type="checkbox" class="erase"> Erase</label> <button type="button" class="undo">Undo</button></div>"""
VOLUMES = """<div class="screen"><canvas tabindex="0"
aria-label="Three planes: click, or use h, j, k, l, to move the crosshair"></canvas></div>
<p class="location" aria-live="polite"></p><div class="tools"><label>Anomaly
<input type="range" class="over" min="0" max="100" value="70" aria-label="Opacity of the anomaly"></label>
<label><input type="checkbox" class="healthy"> Healthy counterfactual in place of the original</label></div>
<p>Radiological: the patient's right (R) is on the left. The colours begin at the model's threshold; unit:
${value.unit}.</p>"""


def text_of(name: str) -> str:
    """A file that goes with the page."""
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def files_only(drop: gr.File) -> gr.File:
    """The drop zone, which takes uploads alone: an address that a client names in place of a file is not fetched."""
    stored = drop.async_move_resource_to_block_cache

    async def checked(place: str | Path | None) -> str | None:
        if "://" in str(place):
            raise gr.Error("Upload a file; addresses are not fetched.")
        return await stored(place)

    # A subclass would do, but gradio writes a stub file beside the source of each.
    drop.async_move_resource_to_block_cache = checked  # pyright: ignore[reportAttributeAccessIssue]
    return drop


def theme() -> themes.Base:
    """gradio's own with the fonts of the visitor's machine: nothing is fetched from a server of fonts."""
    return themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def make_blocks(page: Page) -> gr.Blocks:
    """The whole page, ready to be launched."""
    with gr.Blocks(title="Dif-fuse", analytics_enabled=False) as blocks:
        gr.Markdown("# Dif-fuse: lesions, by what healthy tissue would look like")
        gr.HTML(f"<p class='notice' role='note'>{NOTICE}</p>")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                choices = _scan_and_choices(page)
            with gr.Column(scale=3, min_width=300):
                parts = _result(page)
        _connect_scan(page, choices, parts["status"])
        _connect_run(page, parts, choices)
        _connect_result(page, parts)
        blocks.unload(page.leave)
    return blocks


def _scan_and_choices(page: Page) -> dict[str, Any]:
    processor = page.processor
    takes = "head CT, as a NIfTI file in Hounsfield units or a zip of DICOM files"
    if processor.window_hu is None:
        takes = (
            f"the files of one case ({', '.join(processor.modalities)}) together, or a zip of its folder, or of DICOM"
        )
    gr.Markdown(f"**Model:** {escape(Path(page.detector.model).name)}. {escape(page.detector.line)}")
    files_in = files_only(gr.File(file_count="multiple", label="Scan", height=140))
    gr.Markdown(
        f"Drop {takes}; at most {page.most_bytes // MEGABYTE} MB. Nobody else sees the files, they are not logged, "
        "and they are deleted when you close or reload this page."
    )
    example = gr.Button("Use the bundled example (synthetic)", visible=page.has_example)
    about = "fast: few steps, several samples. exact: every step, many times slower."
    preset = gr.Dropdown(list(PRESETS), value=Choices.preset, label="Preset", info=about)
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
        samples = gr.Slider(0, MOST_SAMPLES, 0, step=1, label="Samples", info="0: the preset's own", min_width=160)
    all_slices = gr.Checkbox(False, label="Repaint every slice, not only those the classifier suspects")
    deidentify = gr.Checkbox(
        True, label="Leave the patient out of DICOM results", visible=processor.window_hu is not None
    )
    with gr.Row():
        run = gr.Button("Find lesions", variant="primary", min_width=140)
        cancel = gr.Button("Cancel", variant="stop", interactive=False, min_width=100)
    inputs = [preset, seed, samples, all_slices, deidentify]
    return {"files": files_in, "example": example, "inputs": inputs, "run": run, "cancel": cancel}


def _result(page: Page) -> dict[str, Any]:
    words = gr.HTML(status("No scan yet."), elem_classes="status", min_height=96)
    with gr.Column(visible=False) as results:
        with gr.Row():
            place = gr.Slider(0, 1, 0, step=1, label="Slice (from the feet up)", min_width=220, scale=3)
            modality = gr.Dropdown([], label="Modality", min_width=150, scale=1)
        pair = gr.HTML(
            html_template=PAIR, js_on_load=text_of("compare.js"), elem_classes="pair", apply_default_css=False
        )
        with gr.Row():
            opacity = gr.Slider(0, 100, 90, step=5, label="Opacity of the anomaly, %", min_width=200)
            threshold = gr.Slider(0, 1, 0, step=0.01, label="Threshold shown", min_width=200)
        outline = gr.Checkbox(False, label="Outline the repainted region")
        bar = gr.HTML(elem_classes="legend")
        gr.Markdown("Sliders change what is shown; the files keep the model's own threshold.")
        with gr.Row():
            volumes = gr.DownloadButton("Volumes (NIfTI)", min_width=140)
            report = gr.DownloadButton("Report (HTML)", min_width=140)
            dicom = gr.DownloadButton("DICOM", visible=False, min_width=140)
        with gr.Accordion("Three planes", open=False, visible=page.viewer_script is not None):
            show = gr.Button("Open the viewer")
            viewer = gr.HTML(
                html_template=VOLUMES, js_on_load=text_of("viewer.js"), elem_classes="volumes", visible=False
            )
        with gr.Accordion("Change the mask, and run again", open=False):
            gr.Markdown(
                "Blue is repainted. Paint with the pointer, or with the arrow keys (shift: faster) and the space bar."
            )
            brush = gr.HTML(html_template=EASEL, js_on_load=text_of("brush.js"), elem_classes="easel")
            with gr.Row():
                from_map = gr.Button("Where the threshold is reached", size="sm", min_width=150)
                empty = gr.Button("Empty", size="sm", min_width=90)
                of_model = gr.Button("As in the last run", size="sm", min_width=120)
            masks = gr.HTML(status("No mask was changed yet."))
            again = gr.Button("Run again with these masks", variant="primary")
    return {
        "status": words, "results": results, "slice": place, "modality": modality, "pair": pair, "opacity": opacity,
        "threshold": threshold, "outline": outline, "legend": bar, "volumes": volumes, "report": report,
        "dicom": dicom, "show": show, "viewer": viewer, "easel": brush, "from_map": from_map, "empty": empty,
        "of_model": of_model, "masks": masks, "again": again,
    }  # fmt: skip


def _connect_scan(page: Page, choices: dict[str, Any], words: Any) -> None:
    """An upload is taken when it has arrived; then the drop zone is empty again."""
    dropped = choices["files"]
    dropped.upload(page.take_files, dropped, [dropped, words], api_name="take_files", show_progress_on=words)
    choices["example"].click(page.take_example, None, words, api_name="take_example", show_progress_on=words)


def _connect_run(page: Page, parts: dict[str, Any], choices: dict[str, Any]) -> None:
    """Run and run again: at once the buttons change, then one at a time works, then the buttons change back."""
    words, again, run, cancel = parts["status"], parts["again"], choices["run"], choices["cancel"]
    shown = [parts[name] for name in (
        "status", "results", "slice", "modality", "threshold", "pair", "legend", "easel", "masks", "volumes", "report",
        "dicom", "viewer",
    )]  # fmt: skip
    for button, handler, name in ((run, page.detect, "detect"), (again, page.repaint, "repaint")):
        begun = button.click(page.begin, None, [words, run, cancel], queue=False, api_visibility="private")
        done = begun.then(
            by_part(handler, parts), choices["inputs"], shown, api_name=name, show_progress_on=words,
            concurrency_id=DEVICE, concurrency_limit=1,
        )  # fmt: skip
        done.then(
            lambda: (gr.Button(interactive=True), gr.Button(interactive=False)), None, [run, cancel], queue=False,
            api_visibility="private",
        )  # fmt: skip
    cancel.click(page.cancel, None, words, queue=False, api_name="cancel", show_progress="hidden")


def _connect_result(page: Page, parts: dict[str, Any]) -> None:
    """Sliders draw at once, the last of several moves last; the brush goes to the server by the stroke."""
    look = [parts[name] for name in ("slice", "modality", "opacity", "threshold", "outline")]
    live: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    for part in look:
        part.input(page.draw, look, [parts["pair"], parts["legend"]], trigger_mode="always_last", **live)
    where = look[:2]
    for part in where:
        part.input(page.set_up_easel, where, parts["easel"], trigger_mode="always_last", **live)
    on_easel = [parts["easel"], parts["masks"]]
    parts["easel"].painted(page.painted, None, parts["masks"], trigger_mode="multiple", **live)
    parts["from_map"].click(page.mask_from_map, [*where, parts["threshold"]], on_easel, **live)
    parts["empty"].click(page.mask_empty, where, on_easel, **live)
    parts["of_model"].click(page.mask_of_model, where, on_easel, **live)
    parts["show"].click(page.open_viewer, None, parts["viewer"], **live)


def by_part(handler: Callable[..., dict[str, Any]], parts: dict[str, Any]) -> Callable[..., dict[Any, Any]]:
    """A handler whose results go to the parts that it names."""

    @wraps(handler)
    def call(*arguments: Any, **more: Any) -> dict[Any, Any]:
        return {parts[name]: value for name, value in handler(*arguments, **more).items()}

    return call
