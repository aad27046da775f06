#!/usr/bin/env bash
# The embedded demo checkpoint, from label maps to model folder: synthetic subjects only. Some two hours on two cores.
#
#     examples/make_demo_model.sh ANATOMIES OUT
#
# ANATOMIES holds SynthSeg's training_seg_01..14.nii.gz. Ten anatomies train, two validate, two test; none is in two.
set -euo pipefail
anatomies=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
here=$(realpath "$(dirname "$0")/..")
options=(--cpu --report_to none)

declare -A members=([train]="01 03 04 06 07 08 09 11 13 14" [validation]="02 10" [test]="05 12")
declare -A seeds=([train]=100 [validation]=200 [test]=300)
declare -A subjects=([train]=80 [validation]=12 [test]=16)
for split in train validation test; do
    mkdir -p "$out/anatomies/$split"
    for number in ${members[$split]}; do
        ln -sf "$anatomies/training_seg_$number.nii.gz" "$out/anatomies/$split/"
    done
    difffuse phantom "$out/phantom/$split" --subjects "${subjects[$split]}" --seed "${seeds[$split]}" \
        --anatomies "$out/anatomies/$split"
    python "$here/datasets_scripts/prepare_brats2021.py" "$out/phantom/$split" "$out/slices" --split "$split" \
        --image_size 96 --pixel_spacing_mm 2 --slice_margin 0 --min_foreground 0.08
done

for network in classifier autoencoder diffusion; do
    python "$here/examples/train_$network.py" --preset demo --dataset "$out/slices" --output_dir "$out/$network" \
        --resume_from_checkpoint latest "${options[@]}"
done
python "$here/examples/assemble_pipeline.py" --dataset "$out/slices" --classifier "$out/classifier" \
    --autoencoder "$out/autoencoder" --diffusion "$out/diffusion" --output_dir "$out/model" --dtype float16 \
    --preset fast --percentile 95 --anomaly_channels 0 --morphology_size 3 --limit 60 \
    --saliency_options '{"reference": "reconstruction", "num_steps": 6, "step_size": 0.03}' \
    --training_data "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg."
python "$here/examples/assemble_competitors.py" --dataset "$out/slices" --classifier "$out/classifier" \
    --autoencoder "$out/autoencoder" --diffusion "$out/diffusion" --methods ACAT DDIM-DDPM --num_inference_steps 10 \
    --anomaly_channels 0 --morphology_size 3 --output_dir "$out/methods" \
    --saliency_options '{"reference": "reconstruction", "num_steps": 6, "step_size": 0.03}'
methods=()
for seed in 0 1 2; do
    methods+=(--all "$out/methods" "$out/slices" --method Dif-fuse "$out/model" "$out/slices")
done
python "$here/examples/evaluate_anomaly.py" "${methods[@]}" --limit 30 --output_dir "$out/evaluation"
