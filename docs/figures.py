"""The pictures of these pages that show synthetic subjects and the embedded models, made by the package's own code.

python docs/figures.py                        # all of them into docs/, ten minutes of one core
python docs/figures.py --only phantoms --output out/figures
"""

import argparse
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

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
from difffuse_hf.phantoms.brain_phantom import EXAMPLE_SEED, draw_example
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


FIGURES = {
    "overview.png": overview,
    "phantoms.jpg": phantoms,
    "ct-series.jpg": head_ct_series,
    "saliency.jpg": saliency,
    "competitors.jpg": competitors,
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
            picture = Image.open(io.BytesIO(made.read_bytes())).convert("RGB")
        picture.thumbnail((1100, 2000))
        picture.save(args.output / name, quality=QUALITY, optimize=True)
        print(f"{args.output / name}: {(args.output / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
