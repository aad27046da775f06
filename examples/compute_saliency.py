"""Saliency maps of a whole data set, kept beside it for train_acat.py (thesis Algorithm 1).

accelerate launch examples/compute_saliency.py --dataset data/ist3 --classifier out/classifier \
    --autoencoder out/autoencoder --output_dir data/ist3_saliency

Any number of processes share the work; what is done is kept, so a run that was stopped goes on when it is repeated.
`--method` is any function of `difffuse_hf.saliency`. A second round (Sec. 5.6.5) is ACAT as the classifier, with the
maps it was trained on as `--saliency`; a third one takes the second's maps in their place (Ch. 7).
"""

import argparse
from contextlib import ExitStack

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from difffuse_hf import ResNetAutoencoder, load_classifier
from difffuse_hf.data.scans import SaliencyStore, load_scans
from difffuse_hf.data.splits import SPLITS
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.io.files import own_folder
from difffuse_hf.saliency.methods import METHODS, WITH_AUTOENCODER, saliency_method
from difffuse_hf.training.arguments import json_options


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "classifier", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--autoencoder", help="needed by " + " and ".join(WITH_AUTOENCODER))
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--options", default="{}", help="of the method, as JSON")
    parser.add_argument("--saliency", help="maps that the classifier itself takes: ACAT's second round")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--batch_size", type=int, default=8, help="slices or scans at a time")
    parser.add_argument("--chunk", type=int, default=32, help="slices or scans in a file; what a kill can cost")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    args = parser.parse_args(argv)
    options = json_options("--options", args.options)
    if args.method in WITH_AUTOENCODER and args.autoencoder is None:
        raise InputError(f"--method {args.method} needs --autoencoder, the folder of a trained one.")

    state = PartialState(cpu=args.cpu)
    classifier = load_classifier(args.classifier).to(state.device)
    autoencoder = None
    if args.method in WITH_AUTOENCODER:
        autoencoder = ResNetAutoencoder.from_pretrained(args.autoencoder).eval().to(state.device)
    method = saliency_method(args.method, classifier, autoencoder, **options)
    classifier.requires_grad_(False)

    settings = {"method": args.method, "options": options, "classifier": args.classifier}
    settings |= {"autoencoder": args.autoencoder, "saliency": args.saliency, "dataset": args.dataset}
    with ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(own_folder(args.output_dir))
        state.wait_for_everyone()  # before anything is written
        for split in args.splits:
            scans = load_scans(args.dataset, split, args.saliency)
            store = SaliencyStore(args.output_dir, split, settings, args.chunk)
            chunks = store.missing(len(scans))[state.process_index :: state.num_processes]
            bar = tqdm(total=sum(map(len, chunks)), desc=split, unit="scan", disable=not state.is_main_process)
            for chunk in chunks:
                maps, keys = [], scans["key"][chunk.start : chunk.stop]
                for start in range(chunk.start, chunk.stop, args.batch_size):
                    batch = scans[start : min(start + args.batch_size, chunk.stop)]
                    given = {"saliency": batch["saliency"].to(state.device)} if args.saliency else {}
                    maps.append(method(batch["pixel_values"].to(state.device), **given).cpu())
                    bar.update(len(maps[-1]))
                store.write(chunk, list(keys), torch.cat(maps))
            bar.close()
            state.wait_for_everyone()
    state.print(f"Saliency maps of {args.dataset} are in {args.output_dir}.")


if __name__ == "__main__":
    run_script(main)
