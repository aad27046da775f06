"""Speed of `class_agnostic_saliency` against code that does the same one image and one class at a time.

python benchmarks/saliency_speed.py --slices 11 --size 64 96 128 --threads 2 --output_dir out/saliency_speed

The networks are those of the shipped demo model, the images synthetic. Both sides run the same steps (Eq. 5.4, step
rule included) and their maps are compared: in double precision, where they must be the same, and as timed. Between the
two stand the baseline with its costs taken away one by one, so that the table says where the time goes. Neither the
step nor its rule has a part in the time, only in how far rounding is amplified: with "fixed" and "halve" the sign of
z_i − E(x)_i, wherever the classifier hardly depends on z_i, parts two correct programs by up to 1e-3 in single
precision, while a proximal step is continuous in z. On a machine that does other work too, read the ratio in CPU time
of one thread. What a C library's allocator gives back to the system between two steps, the next step has to ask for
again: `keep_memory` keeps it, for both sides.

What limits the ratio is in the table, too. Both sides' convolutions and matrix products are counted: "of it
arithmetic" is how many times as many the baseline has. The rate of a large matrix product is measured in the same run:
"of GEMM" is the share of it that our function reaches, normalisations and activations included in its time, and
"limit" the ratio that it would have at 100 %.

    baseline             parameter gradients by `backward()`, the network run again for the stopping test, the decoder
                         run again for a frame, every number fetched to the host at every step
    frozen parameters    the same, with `requires_grad_(False)`
    one at a time        our function, for one image and one class at a time
    batched              our function, all images and classes together
"""

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from difffuse_hf import class_agnostic_saliency
from difffuse_hf.detection.load import load_model
from difffuse_hf.detection.workers import keep_memory
from difffuse_hf.errors import run_script
from difffuse_hf.io.files import write_whole
from difffuse_hf.saliency.common import scale_to_one
from difffuse_hf.saliency.counterfactual import STEP_RULES, latent_counterfactual

STOP_AT = (
    1.0  # probability that the baseline's stopping test waits for: never reached, so that both sides run all steps
)
NUM_CLASSES = 2
SAME = 1e-6  # the maps are stored in single precision
GEMM_SIZE, GEMM_TIMES = 1536, 4  # of the matrix product that shows what the machine can do


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own number by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="precision of the networks in our function; the baseline is always float32")  # fmt: skip
    parser.add_argument("--slices", type=int, default=11)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--batch_size", type=int, help="pairs of image and class in one pass; all by default")
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--step_size", type=float, default=0.01)
    parser.add_argument("--l1_weight", type=float, default=1.0)
    parser.add_argument("--step_rule", choices=STEP_RULES, default="proximal")
    parser.add_argument(
        "--channels_last", action=argparse.BooleanOptionalAction, default=True, help="for our function"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of everything; the fastest counts")
    args = parser.parse_args(argv)
    keep_memory()
    if args.threads:
        torch.set_num_threads(args.threads)

    settings = {name: value for name, value in vars(args).items() if name not in ("size", "output_dir")}
    settings["threads"] = torch.get_num_threads()
    settings["hardware"] = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor()
    heading = ["size", "baseline s/slice", "frozen s/slice", "one at a time s/slice", "batched s/slice", "ratio",
               "ratio in CPU time", "of it arithmetic", "of GEMM", "limit", "ratio to one at a time",
               "max difference", "in float64"]  # fmt: skip
    lines = ["| " + " | ".join(heading) + " |", "|---:" * len(heading) + "|"]
    print("\n".join(lines))
    rows = []
    for size in args.size:
        row = measure(size, args)
        rows.append(row)
        seconds = " | ".join(f"{row[name]:.3f}" for name in ("baseline", "frozen", "one_at_a_time", "batched"))
        ratios = f"{row['ratio']:.1f} | {row['cpu_ratio']:.1f} | {row['flop_ratio']:.1f} | {row['share_of_gemm']:.0%}"
        ratios += f" | {row['limit']:.1f} | {row['ratio_to_one_at_a_time']:.1f}"
        lines.append(f"| {row['size']} | {seconds} | {ratios} | {row['max_difference']:.1e} "
                     f"| {row['max_difference_in_float64']:.1e} |")  # fmt: skip
        print(lines[-1], flush=True)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n"
    write_whole(output / "saliency_speed.json", lambda path: path.write_text(text))
    write_whole(output / "saliency_speed.md", lambda path: path.write_text("\n".join(lines) + "\n"))


def measure(size: int, args) -> dict:
    """Seconds per slice of all four ways at one image size, their ratios, and how far the maps are apart."""
    pipeline, _ = load_model("demo", args.device)
    networks = [pipeline.classifier.float(), pipeline.autoencoder.float()]
    images = smooth_images(args.slices, networks[0].config.num_channels, size).to(args.device)
    options = {"num_steps": args.num_steps, "step_size": args.step_size, "step_rule": args.step_rule,
               "l1_weight": args.l1_weight}  # fmt: skip
    lowered = {} if args.dtype == "float32" else {"autocast_dtype": getattr(torch, args.dtype)}

    def set_layout(memory_format):
        for network in networks:
            network.to(memory_format=memory_format)

    def baseline(frozen):
        for network in networks:
            network.requires_grad_(not frozen)
        set_layout(torch.contiguous_format)
        maps = [baseline_saliency(*networks, image[None], **options) for image in images]
        return torch.from_numpy(np.concatenate(maps))

    def one_at_a_time():
        set_layout(torch.contiguous_format)
        maps = [one_by_one(*networks, image[None], **options) for image in images]
        return torch.cat(maps).cpu()

    def batched():
        seen = images
        if args.channels_last:
            set_layout(torch.channels_last)
            seen = images.to(memory_format=torch.channels_last)
        return class_agnostic_saliency(*networks, seen, batch_size=args.batch_size, **options, **lowered).cpu()

    ways = {
        "baseline": lambda: baseline(frozen=False),
        "frozen": lambda: baseline(frozen=True),
        "one_at_a_time": one_at_a_time,
        "batched": batched,
    }
    sides = {"baseline": baseline_saliency, "batched": class_agnostic_saliency}
    gflop = {name: gflop_of(partial(side, *networks, images[:1], **options)) for name, side in sides.items()}
    seconds, cpu_seconds, maps, gemm = {name: [] for name in ways}, {name: [] for name in ways}, {}, 0.0
    for _ in range(args.repeats):  # in turns, so that a busy machine is busy for all of them
        gemm = max(gemm, gemm_rate(args.device))
        for name, way in ways.items():
            for network in networks:
                network.requires_grad_(True)
            start, cpu_start = time.perf_counter(), time.process_time()
            maps[name] = way()  # ends on the host, so nothing is still running
            seconds[name].append((time.perf_counter() - start) / len(images))
            cpu_seconds[name].append((time.process_time() - cpu_start) / len(images))
    row = {"size": size} | {name: min(times) for name, times in seconds.items()}
    row["cpu_seconds"] = {name: min(times) for name, times in cpu_seconds.items()}
    row["cpu_ratio"] = row["cpu_seconds"]["baseline"] / row["cpu_seconds"]["batched"]
    row |= {"gflop": gflop, "flop_ratio": gflop["baseline"] / gflop["batched"], "gemm_gflop_per_cpu_s": gemm}
    row["share_of_gemm"] = gflop["batched"] / row["cpu_seconds"]["batched"] / gemm
    row["limit"] = row["cpu_seconds"]["baseline"] / (gflop["batched"] / gemm)
    row["ratio"] = row["baseline"] / row["batched"]
    row["ratio_to_one_at_a_time"] = row["one_at_a_time"] / row["batched"]
    row["max_difference"] = (maps["baseline"] - maps["batched"]).abs().max().item()

    for network in networks:
        network.double()
    few = images[:2].double()
    ours = class_agnostic_saliency(*networks, few, **options).cpu()
    theirs = torch.cat([torch.from_numpy(baseline_saliency(*networks, image[None], **options)) for image in few])
    row["max_difference_in_float64"] = (theirs - ours).abs().max().item()
    if not row["max_difference_in_float64"] < SAME:
        raise SystemExit(
            f"The two sides do not compute the same: they differ by {row['max_difference_in_float64']:.1e}."
        )
    return row


class Counter(TorchDispatchMode):
    """Floating-point operations of the convolutions and matrix products in here, forwards and backwards."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=output)
        return output


def gflop_of(function) -> float:
    with Counter() as counter:
        function()
    return counter.total / 1e9


def gemm_rate(device: str) -> float:
    """Gigaflops in a second of CPU time that a large matrix product reaches in single precision."""
    matrix = torch.rand(GEMM_SIZE, GEMM_SIZE, device=device)
    torch.mm(matrix, matrix)
    start = time.process_time()
    for _ in range(GEMM_TIMES):
        torch.mm(matrix, matrix)
    return GEMM_TIMES * 2 * GEMM_SIZE**3 / 1e9 / (time.process_time() - start)


def smooth_images(count: int, num_channels: int, size: int) -> torch.Tensor:
    """Random smooth images in [0, 1]: synthetic, and as good as any for measuring time."""
    coarse = torch.rand(count, num_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def baseline_saliency(classifier, autoencoder, image, num_steps, step_size, step_rule, l1_weight) -> np.ndarray:
    """Eqs. 5.3-5.4 for one image (1, C, H, W), one class after the other, each number fetched when it is needed."""
    original = image.cpu().numpy()
    changes = []
    for k in range(NUM_CLASSES):
        target = torch.tensor([k], device=image.device)
        start = autoencoder.encode(image).detach()
        latent = start.clone()
        frames = [autoencoder.decode(latent).detach().cpu().numpy()]
        step, previous = step_size, None
        for _ in range(num_steps):
            latent = latent.detach().requires_grad_()
            logits = classifier(autoencoder.decode(latent)).logits
            entropy, distance = F.cross_entropy(logits, target), (latent - start).abs().mean()
            loss = entropy + l1_weight * distance
            classifier.zero_grad()
            autoencoder.zero_grad()
            (entropy if step_rule == "proximal" else loss).backward()
            if previous is None:
                previous = float(loss.detach().cpu().numpy())
            with torch.no_grad():
                proposal = latent - step * latent.grad
                if step_rule == "proximal":
                    proposal = start + F.softshrink(proposal - start, step * l1_weight / latent.numel())
                logits = classifier(autoencoder.decode(proposal)).logits  # for the stopping test
                loss = F.cross_entropy(logits, target) + l1_weight * (proposal - start).abs().mean()
                objective = float(loss.cpu().numpy())
                probability = float(logits.softmax(1).cpu().numpy()[0, k])
                if step_rule != "fixed" and objective > previous:
                    step = step / 2
                    continue
                latent, previous = proposal, objective
                frames.append(autoencoder.decode(latent).cpu().numpy())
            if probability > STOP_AT:
                break
        change = np.abs(original - frames[-1]).mean(1, keepdims=True)
        changes.append(change / max(change.max(), 1e-12))
    saliency = np.mean(changes, axis=0)
    return saliency / max(saliency.max(), 1e-12)


def one_by_one(classifier, autoencoder, image, **options) -> torch.Tensor:
    """`class_agnostic_saliency` of one image, with a search of its own for each class."""
    changes = []
    for k in range(NUM_CLASSES):
        target = torch.tensor([k], device=image.device)
        result = latent_counterfactual(classifier, autoencoder, image, target, **options)
        changes.append(scale_to_one((image - result.counterfactual).abs().mean(1, keepdim=True)))
    return scale_to_one(torch.stack(changes).mean(0))


if __name__ == "__main__":
    run_script(main)
