"""How much a result moves with precision, batch size and threads, none of which should matter.

python benchmarks/numerics.py --slices 6 --output_dir out/numerics

Slices of a synthetic subject go through the shipped demo model, its preset "fast". The reference is float32, all
slices in one batch, one thread; slice i draws from a generator of its own. Each row changes one thing and gives the
difference of the U-Net's output at noise level 200, the largest and the RMS, as shares of its standard deviation; the
largest of the anomaly map, on its scale of 0 to 1; and of the lesion above the model's threshold the share of pixels
that change sides and the Dice of the two lesions of all slices together.
"""

import argparse

import numpy as np
import torch
from side_by_side import write_results

from difffuse_hf import BrainPhantom, DifFusePipeline
from difffuse_hf.detection.load import load_model
from difffuse_hf.evaluation.anomaly import run_method
from difffuse_hf.models.precision import to_fastest

CHANGES = {
    "the same again": {},
    "batches of 1": {"batch_size": 1},
    "batches of 4": {"batch_size": 4},
    "2 threads": {"threads": 2},
    "bfloat16 U-Net": {"dtype": torch.bfloat16},
    "float16 U-Net": {"dtype": torch.float16},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--slices", type=int, default=6)
    args = parser.parse_args(argv)
    pipeline, slices = demo_model(args.slices)
    threshold = pipeline.calibration("fast").threshold
    if threshold is None:
        threshold = pipeline.processor.anomaly_threshold
    reference, rows = results(pipeline, slices), []
    for change, how in CHANGES.items():
        rows.append({"change": change} | differences(results(pipeline, slices, **how), reference, threshold))
        print(rows[-1], flush=True)
    write_results(args.output_dir, "numerics", rows, {"slices": args.slices, "torch": torch.__version__})


def demo_model(count: int) -> tuple[DifFusePipeline, torch.Tensor]:
    """The model, and evenly spaced usable slices (N, C, H, W) of a synthetic subject."""
    pipeline, subject = load_model("demo", dtype=torch.float32)[0], BrainPhantom(seed=5).subject(0)
    volumes = np.stack([subject.volumes[name] for name in pipeline.processor.modalities])
    slices, _ = pipeline.processor.preprocess_volume(volumes, subject.affine)
    usable = pipeline.processor.usable_slices(slices)
    return pipeline, slices[usable[torch.linspace(0, len(usable) - 1, count + 2).long()[1:-1]]]


@torch.no_grad()
def results(
    pipeline: DifFusePipeline,
    slices: torch.Tensor,
    batch_size: int | None = None,
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The U-Net's output on noisy slices and the anomaly maps, both float32."""
    torch.set_num_threads(threads)
    batch_size = batch_size or len(slices)
    to_fastest(pipeline.unet, dtype)
    noise = torch.randn(slices.shape, generator=torch.Generator().manual_seed(1))
    noisy = pipeline.scheduler.add_noise(2 * slices - 1, noise, torch.full((len(slices),), 200))
    output = torch.cat([pipeline.unet(some.to(dtype), 200).sample.float() for some in noisy.split(batch_size)])
    maps, _ = run_method(pipeline, slices, batch_size=batch_size, display_steps=0, preset="fast")
    to_fastest(pipeline.unet, torch.float32)
    return output, maps


def differences(made: tuple, reference: tuple, threshold: float) -> dict[str, float]:
    (output, maps), (expected_output, expected_maps) = made, reference
    lesion, expected = maps >= threshold, expected_maps >= threshold
    return {
        "finite": bool(output.isfinite().all() and maps.isfinite().all()),
        "U-Net": ((output - expected_output).abs().max() / expected_output.std()).item(),
        "U-Net, RMS": ((output - expected_output).square().mean().sqrt() / expected_output.std()).item(),
        "map": (maps - expected_maps).abs().max().item(),
        "pixels that change sides": (lesion != expected).float().mean().item(),
        "Dice": (2 * (lesion & expected).sum() / (lesion.sum() + expected.sum()).clamp(min=1)).item(),
        "lesion pixels": int(expected.sum()),
    }


if __name__ == "__main__":
    main()
