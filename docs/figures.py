"""The pictures of these pages that show synthetic subjects and the embedded models, made by the package's own code.

python docs/figures.py                        # all of them into docs/, ten minutes of one core
python docs/figures.py --only phantoms --output out/figures
"""

import argparse
import io
import json
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from difffuse_hf import (
    BrainPhantom,
    RePaintPipeline,
    THORPipeline,
    UnmaskedPipeline,
    detect_volume,
    load_pipeline,
    preprocess_ct,
    read_case,
)
from difffuse_hf.detection.sources import read_source
from difffuse_hf.phantoms.brain_phantom import EXAMPLE_SEED, draw_example
from difffuse_hf.reporting.charts import COLOURS, MARKERS, new_figure
from difffuse_hf.reporting.figures import (
    ANOMALY_COLOURS,
    REFERENCE,
    SALIENCY_COLOURS,
    crop_to_foreground,
    draw,
    grey_window,
    overview_figure,
)
from difffuse_hf.reporting.shown_slices import select_slices, write_overview
from difffuse_hf.saliency.methods import METHODS, saliency_method

DOCS = Path(__file__).parent
PICTURES = {"brats2021": "flair", "mr": "flair", "wmh": "FLAIR"}  # layout: the modality that is shown
QUALITY = 85  # of JPEG


def overview(path: Path, work: Path) -> None:
    """README: two slices of the subject of `difffuse demo`, one from the scan to the lesion and one that is missed."""
    pipeline = load_pipeline("demo")
    case = read_case(draw_example(work), pipeline.processor.modalities)
    case = replace(case, name="A synthetic subject, the embedded model")
    result = detect_volume(pipeline, case, progress=False, num_shown=2)
    write_overview(result, select_slices(result, 2), [], path)


def phantoms(path: Path, work: Path) -> None:
    """Data sets: the slice with most of the lesion of a synthetic subject of each layout."""
    tiles = [_largest(BrainPhantom(layout, seed=5).subject(2), name) for layout, name in PICTURES.items()]
    studies = (BrainPhantom("mosmed", seed=5).subject(index) for index in range(5))
    tiles.append(_largest(max(studies, key=lambda study: study.lesion_ml), "ct", (-1000, 400)))
    figure = Figure(figsize=(1.9 * len(tiles), 2.3), dpi=150, layout="constrained", facecolor="white")
    for axes, (image, lesion), title in zip(figure.subplots(1, len(tiles)), tiles, (*PICTURES, "mosmed")):
        draw(axes, image, grey_window(image), outlines=[(lesion, REFERENCE)])
        axes.set_title(title, fontsize=9)
    figure.savefig(path)


def _largest(subject, modality, window=None):
    """A slice of a subject, front up and right on the left, cropped to the head, and its lesion."""
    volume = subject.volumes[modality]
    if window is not None:
        volume = np.clip((volume - window[0]) / (window[1] - window[0]), 0, 1)
    z = (subject.segmentation > 0).sum((0, 1)).argmax()
    image, lesion = (np.flip(array[..., z].T, 0) if subject.affine[1, 1] > 0 else array[..., z].T
                     for array in (volume, subject.segmentation > 0))  # fmt: skip
    if subject.affine[0, 0] > 0:
        image, lesion = image[:, ::-1], lesion[:, ::-1]
    window = crop_to_foreground(image[None, None])
    return image[window].astype(np.float32), lesion[window]


def head_ct_series(path: Path, work: Path) -> None:
    """Head CT from DICOM: the contact sheets of one synthetic hospital disk, what was kept above what was not."""
    for _ in BrainPhantom("ist3", seed=3).write(work / "disk", 2):
        pass
    preprocess_ct(work / "disk", work / "ct")
    sheets = [Image.open(work / "ct" / f"{name}.png") for name in ("kept", "rejected")]
    both = Image.new("L", (max(one.width for one in sheets), sum(one.height for one in sheets)), 255)
    for number, one in enumerate(sheets):
        both.paste(one, (0, number * sheets[0].height))
    both.save(path, format="PNG")


def _demo_slice(work: Path):
    """The embedded model, the slice (1, C, H, W) of its subject with most of the lesion, and the lesion (H, W)."""
    pipeline = load_pipeline("demo")
    case = read_case(draw_example(work), pipeline.processor.modalities)
    slices, geometry = pipeline.processor.preprocess_volume(case.volumes, case.affine)
    lesions = pipeline.processor.preprocess_labels(case.reference, geometry)
    chosen = int(lesions.sum((1, 2)).argmax())
    return pipeline, slices[chosen : chosen + 1], lesions[chosen].numpy(), chosen


def saliency(path: Path, work: Path) -> None:
    """Classifiers and saliency: every method's map of one slice."""
    pipeline, image, lesion, _ = _demo_slice(work)
    options = {"rise": {"num_masks": 200}, "class_agnostic_saliency": {"num_steps": 6}}
    figure = Figure(figsize=(9, 3.9), dpi=130, layout="constrained", facecolor="white")
    window = crop_to_foreground(image.numpy())
    flair = image[0, 0].numpy()[window]
    places = list(figure.subplots(2, 6).flat)
    for axes, name in zip(places, ("FLAIR and lesion", *METHODS), strict=False):
        layer = {}
        if name in METHODS:
            torch.manual_seed(0)
            method = saliency_method(name, pipeline.classifier, pipeline.autoencoder, **options.get(name, {}))
            shown = method(image, torch.tensor([1]))[0, 0].detach().numpy()[window]
            layer = {"colour": shown, "colours": SALIENCY_COLOURS, "opacity": 0.75}
        draw(axes, flair, grey_window(flair), outlines=[(lesion[window], REFERENCE)], **layer)
        axes.set_title(name.replace("_", " "), fontsize=8)
    for axes in places[1 + len(METHODS) :]:
        axes.set_axis_off()
    scale = matplotlib.cm.ScalarMappable(cmap=SALIENCY_COLOURS)
    figure.colorbar(scale, ax=places, shrink=0.4, label="saliency, 1 = the map's maximum (no unit)")
    figure.savefig(path)


def competitors(path: Path, work: Path) -> None:
    """Chapter 6: one slice through the methods that need the demo's networks only, beside its true healthy twin."""
    demo, image, lesion, chosen = _demo_slice(work)
    parts = {name: getattr(demo, name) for name in ("unet", "scheduler", "processor")}
    finders = {name: getattr(demo, name) for name in ("classifier", "autoencoder")}
    shared = {"percentile": demo.config["percentile"], "saliency_options": demo.config["saliency_options"]}
    methods = {
        "Dif-fuse": (demo, {"preset": "exact", "num_inference_steps": 50}),
        "RePaint": (RePaintPipeline(**parts, **finders, **shared), {"num_inference_steps": 25, "num_resamples": 4}),
        "DDIM-DDPM": (UnmaskedPipeline(**parts), {"noise_level": 350, "num_inference_steps": 50}),
        "THOR": (THORPipeline(**parts), {"num_inference_steps": 50}),
    }
    case = BrainPhantom(seed=EXAMPLE_SEED).subject(0, lesion=False)
    with_lesion = read_case(next(work.glob("BraTS*")), demo.processor.modalities)
    _, geometry = demo.processor.preprocess_volume(with_lesion.volumes, with_lesion.affine)
    healthy = np.stack([case.volumes[name] for name in demo.processor.modalities]).astype(np.float32)
    twin = demo.processor.recipe.cut_like(healthy, geometry)[chosen, 0].numpy()
    window = crop_to_foreground(image.numpy())
    flair, drawn = image[0, 0].numpy()[window], [(lesion[window], REFERENCE)]
    white = grey_window(flair)
    above = [{"image": flair, "white": white}, {"image": twin[window], "white": white}]
    below = [{"image": flair, "white": white, "outlines": drawn}, {"image": twin[window], "white": white}]
    for pipeline, call in methods.values():
        made = pipeline(image, generator=torch.Generator().manual_seed(0), **call)
        change = made.anomaly_maps[0, 0].numpy()[window]
        layer = {"colour": change, "colours": ANOMALY_COLOURS, "limit": max(float(change.max()), 1e-6), "opacity": 0.7}
        above.append({"image": made.counterfactuals[0, 0].numpy()[window], "white": white})
        below.append({"image": flair, "white": white, "outlines": drawn, **layer})
    rows = [("counterfactual", above), ("anomaly map", below)]
    columns = ["slice, FLAIR", "healthy twin", *methods]
    lines = {"true lesion": REFERENCE}
    overview_figure(rows, columns, "A synthetic slice, each method once", [], lines, path)


def denoising(path: Path, work: Path) -> None:
    """Training: a healthy slice under more and more noise, and the slice that the U-Net takes it for in one call."""
    demo = load_pipeline("demo")
    case = BrainPhantom(seed=EXAMPLE_SEED).subject(0, lesion=False)
    volumes = np.stack([case.volumes[name] for name in demo.processor.modalities]).astype(np.float32)
    slices, _ = demo.processor.preprocess_volume(volumes, case.affine)
    clean = slices[(slices[:, 0] > 0).sum((1, 2)).argmax()][None] * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    window = crop_to_foreground(slices.numpy())
    levels, rows = (50, 150, 300, 500), [[], []]
    for level in levels:
        noised = demo.scheduler.diffuse(clean, 0, level, noise)
        with torch.no_grad():
            original = demo.scheduler.predict_original(demo.unet(noised, level - 1).sample, level, noised)
        for row, image in zip(rows, (noised, original)):
            tile = image[0, 0].numpy()[window] / 2 + 0.5
            row.append({"image": tile, "white": grey_window(tile)})
    names = ("x_t: noised", "x̂_0: from the predicted noise")
    title = "A healthy synthetic slice (FLAIR), and the demo model's U-Net"
    overview_figure(list(zip(names, rows)), [f"t = {level}" for level in levels], title, [], {}, path)


def input_forms(path: Path, work: Path) -> None:
    """Forms of input: a coronal section of one head as it lies in the files, and of the slices that the model gets."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from input_forms import CONDITIONS, FORMS, conditions  # the heads and the files of the page's table

    heads, forms = conditions(), {form.name: form for form in FORMS}
    columns = {
        "as it should be": ("folder, BraTS 2018-2021 names", CONDITIONS[0]),
        "T2 on another grid": ("folder, BraTS 2018-2021 names", CONDITIONS[2]),
        "with its skull": ("folder, BraTS 2018-2021 names", CONDITIONS[3]),
        "slices of 6 mm": ("thick slices", CONDITIONS[0]),
        "head CT": ("CT: NIfTI in Hounsfield units", CONDITIONS[0]),
    }
    figure = Figure(figsize=(1.75 * len(columns), 3.9), dpi=130, layout="constrained", facecolor="white")
    for axes, (title, (name, condition)) in zip(figure.subplots(2, len(columns)).T, columns.items()):
        form = forms[name]
        source = form.write(heads[condition], work / title / "P")
        (file,) = [source] if source.is_file() else source.glob("*_t2.nii.gz")
        volume = nibabel.as_closest_canonical(nibabel.load(file))
        step, section = volume.header.get_zooms(), np.asarray(volume.dataobj)[::-1, volume.shape[1] // 2].T[::-1]
        draw(axes[0], section, grey_window(section))
        case, _ = read_source(source, form.processor)
        slices, _ = form.processor.preprocess_volume(case.volumes, case.affine)
        section = slices[:, -1, slices.shape[2] // 2].numpy()[::-1]
        draw(axes[1], section, grey_window(section))
        axes[0].set_title(title, fontsize=9)
        axes[0].set_aspect(step[2] / step[0])
        axes[1].set_aspect(np.linalg.norm(case.affine[:3, 2]) / form.processor.pixel_spacing_mm)
    for height, words in ((0.7, "in the file"), (0.25, "for the model")):
        figure.text(0.005, height, words, rotation=90, va="center", fontsize=9)
    figure.get_layout_engine().set(rect=(0.025, 0, 0.975, 1))
    figure.savefig(path)


def table(page: str, column: str) -> dict[str, dict[str, list[tuple[float, float | None]]]]:
    """The numbers of the table that has this column, from a page of docs/: {row: {column: [(mean, error or None)]}}.

    A cell holds one number, with its standard error or without, or several with slashes between them.
    """
    lines = [[cell.replace("*", "").strip() for cell in line.strip().strip("|").split("|")]
             for line in (DOCS / page).read_text(encoding="utf-8").splitlines()]  # fmt: skip
    start = next(number for number, cells in enumerate(lines) if column in cells)
    found = {}
    for name, *cells in lines[start + 2 :]:
        if not cells:
            break
        numbers = ([re.findall(r"[\d.]+", one) for one in cell.split(" / ")] for cell in cells)
        pairs = [[(float(one[0]), float(one[1]) if one[1:] else None) for one in row if one] for row in numbers]
        found[name] = dict(zip(lines[start][1:], pairs))
    return found


def costs() -> dict[str, list[tuple[float, float, float | None]]]:
    """What the chart of performance.md shows, from its table: {way: [(CPU seconds, Dice, error or None)]}."""
    rows = table("performance.md", "CPU, s")
    return {name: [(second, *dice) for (second, _), dice in zip(row["CPU, s"], row["Dice"])]
            for name, row in rows.items() if row["Dice"]}  # fmt: skip


def cost(path: Path, work: Path) -> None:
    """Performance: Dice against the seconds that a slice takes."""
    figure = new_figure(7.2, 3.2)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(costs().items()):
        seconds, dice, errors = zip(*points)
        style = {"color": COLOURS[number], "marker": MARKERS[number], "capsize": 3, "label": name.replace("`", "")}
        axes.errorbar(seconds, dice, None if None in errors else errors, **style)
    ((loop, _),) = table("performance.md", "CPU, s")["the author's loop, written out"]["CPU, s"]
    axes.axvline(loop, color="0.4", linestyle="--", label="the author's loop, whose Dice was not measured")
    axes.set(xscale="log", xlabel="CPU seconds a slice, one thread", ylabel="Dice, 12 synthetic slices")
    axes.set_xticks((0.1, 1, 10, 50), ("0.1", "1", "10", "50"))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=2)
    figure.savefig(path, metadata={"Description": json.dumps(costs())})


def rivals() -> dict[str, list[tuple[float, float]]]:
    """What the chart of choosing-a-method.md shows, from its table: {method: [change of health, Dice]}."""
    rows = table("choosing-a-method.md", "Dice, gliomas")
    both = {name: row["change of healthy slices, MR"] + row["Dice, gliomas"] for name, row in rows.items()}
    return {name: pair for name, pair in both.items() if len(pair) == 2}


def choosing(path: Path, work: Path) -> None:
    """Which method to take: Dice of gliomas against what healthy slices are changed by."""
    figure = new_figure(7.2, 3.8)
    axes = figure.add_subplot()
    for number, (name, ((change, unsure), (dice, error))) in enumerate(rivals().items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS)], "capsize": 2}
        axes.errorbar(change, dice, error, unsure, linestyle="", label=name, **style)
    axes.set(xscale="log", xlabel="change of healthy slices (share of the intensity range)", ylabel="Dice, gliomas")
    axes.set_xticks((0.005, 0.01, 0.02, 0.05, 0.1), ("0.005", "0.01", "0.02", "0.05", "0.1"))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Description": json.dumps(rivals())})


CHARTS = {"cost.png": costs, "methods.png": rivals}  # picture: its numbers, which its description holds
FIGURES = {
    "overview.png": overview,
    "phantoms.jpg": phantoms,
    "ct-series.jpg": head_ct_series,
    "saliency.jpg": saliency,
    "competitors.jpg": competitors,
    "denoising.jpg": denoising,
    "input-forms.jpg": input_forms,
    "cost.png": cost,
    "methods.png": choosing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="*", choices=[Path(name).stem for name in FIGURES])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, make in FIGURES.items():
        if args.only and Path(name).stem not in args.only:
            continue
        with tempfile.TemporaryDirectory() as work:
            made = Path(work, "figure.png")
            make(made, Path(work))
            drawn = Image.open(io.BytesIO(made.read_bytes()))
        picture, numbers = drawn.convert("RGB"), PngImagePlugin.PngInfo()
        if name in CHARTS:
            numbers.add_text("Description", drawn.info["Description"])
        picture.thumbnail((1100, 2000))
        picture.save(args.output / name, quality=QUALITY, optimize=True, pnginfo=numbers)
        print(f"{args.output / name}: {(args.output / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
