#!/usr/bin/env bash
# Chapter 6 from nothing, on synthetic cohorts: data, all networks, every method of Table 6.1 tuned and scored.
#
#     examples/reproduce_anomaly.sh smoke|evening|full OUT ANATOMIES [CASES]
#
# smoke: does everything run? its figures mean nothing. evening: 48 x 48 pixels of 4 mm, three seeds, for two cores and
# an evening. full: the thesis's sizes and iterations, for GPUs. The networks learn FLAIR and T1 of gliomas (BraTS layout),
# so that the same ones can be scored on white-matter hyperintensities (WMH layout), which they have never seen.
# ANATOMIES is a folder of at least three label maps (SynthSeg's training_seg_*.nii.gz); the splits are by anatomy, dealt
# anew for every seed. CASES is a folder of BraTS cases of your own, to be scored by the same networks. What is finished
# is kept: after an interrupt, repeat the command. JOBS=2 in the environment trains two networks at a time, for machines
# with that many cores (with OMP_NUM_THREADS=1) to spare.
set -euo pipefail
size=$1
mkdir -p "$2"
out=$(realpath "$2")
anatomies=$(realpath "${3:?the third argument is the folder of label maps}")
cases=${4:+$(realpath "$4")}
cd "$(dirname "$0")/.."
launch=${LAUNCH:-python}
noisy="--block_out_channels 16 32 64 64 --layers_per_block 1 --attention_levels 1 --attention_head_dim 16 --norm_num_groups 8"
case $size in
smoke)
    subjects=14 elsewhere=3 morphology=1 seeds="0" pixels=32 mm=6 steps=3 gan=2 limit=4 inference=3 repaint="6 2 2"
    unet="--block_out_channels 8 16 --layers_per_block 1 --attention_levels 1 --norm_num_groups 4" noisy="$unet --attention_head_dim 8"
    dae="--channels 8 16 16" fanogan="--sample_size 32 --width 8 --batch_size 4" narrow="--channels 8 8 8 8" latent="--channels 8 8 8"
    counterfactual='{"reference": "reconstruction", "num_steps": 2, "step_rule": "proximal"}' ;;
evening)
    subjects=84 elsewhere=24 morphology=3 seeds="0 1 2" pixels=48 mm=4 steps=900 gan=300 limit=16 inference=12 repaint="12 4 4"
    unet="--block_out_channels 16 32 64 96 --layers_per_block 1 --attention_levels 1 --norm_num_groups 8"
    dae="--channels 16 32 64 96" narrow="--channels 16 32 64 128" latent="--channels 16 32 64 --strides 2 1 1"
    fanogan="--sample_size 48 --width 12 --batch_size 16 --critic_steps 2 --learning_rate 2e-4 --encoder_steps 900 --encoder_learning_rate 2e-4"
    counterfactual='{"reference": "reconstruction", "num_steps": 16, "step_rule": "proximal", "step_growth": 1.5}' ;;
full)
    subjects=1000 elsewhere=110 morphology="" seeds="0 1 2" pixels=256 mm=1 steps=60000 gan=500000 limit=200 inference="" repaint="250 10 10"
    unet="" noisy="" dae="" fanogan="" narrow="" latent="" counterfactual='{"num_steps": 20}' ;;
*) echo "The size is smoke, evening or full, got $size." >&2 && exit 2 ;;
esac
if [ "$size" = full ]; then
    device=() common=() recipe=() dae_steps=67200 noisy_steps=150000 classifier_steps=$steps
else
    device=(--cpu) common=(--batch_size 16) dae_steps=$steps noisy_steps=$steps classifier_steps=$((4 * steps / 3))
    recipe=(--learning_rate 8e-4 --lr_scheduler cosine --warmup_steps 100 --ema_decay 0.995 --max_grad_norm 1)
fi
[ "$size" = smoke ] && common=(--batch_size 4)
export MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=100000000  # see README, Speed

# Data
cut="--image_size $pixels --pixel_spacing_mm $mm --slice_margin 0 --min_foreground 0.08"
[ "$size" = full ] && cut=""
python datasets_scripts/make_phantom.py "$out/glioma" --layout brats2021 --subjects $subjects --anatomies "$anatomies"
python datasets_scripts/make_phantom.py "$out/hyperintensities" --layout wmh --subjects $elsewhere --anatomies "$anatomies"
[ -e "$out/wmh/README.md" ] ||
    python datasets_scripts/prepare_wmh.py "$out/hyperintensities" "$out/wmh" --split test $cut
foreign=("$out/wmh")
if [ -n "$cases" ]; then
    foreign+=("$out/cases")
    [ -e "$out/cases/README.md" ] || python datasets_scripts/prepare_brats2021.py "$cases" "$out/cases" \
        --split test --modalities flair t1 $cut
fi
for seed in $seeds; do
    [ -e "$out/$seed/data/README.md" ] || python datasets_scripts/prepare_brats2021.py "$out/glioma" \
        "$out/$seed/data" --modalities flair t1 --split_seed "$seed" $cut
done

# Networks, methods
set -m  # a process group for each job, so that an interrupt can be passed on to all of it
running=()
trap 'for job in "${running[@]}"; do kill -TERM -- "-$job" 2>/dev/null || true; done; wait' EXIT
pooled() { # a command, in the background while there are fewer than JOBS of them
    "$@" &
    running+=($!)
    [ ${#running[@]} -lt "${JOBS:-1}" ] || one_more
}
one_more() { # waits until one has ended well
    while :; do
        for job in "${!running[@]}"; do
            kill -0 "${running[job]}" 2>/dev/null && continue
            wait "${running[job]}"
            unset "running[job]"
            return
        done
        sleep 1
    done
}
finish() { while [ ${#running[@]} -gt 0 ]; do one_more; done; }
once() { # seed, output, script, flags
    local seed=$1 folder=$out/$1/$2 script=$3
    shift 3
    [ -e "$folder/done" ] && return
    $launch "examples/$script.py" "$@" --dataset "$out/$seed/data" --seed "$seed" --report_to none \
        --resume_from_checkpoint latest "${device[@]}" --output_dir "$folder" && touch "$folder/done"
}
for seed in $seeds; do
    pooled once $seed classifier train_classifier --backbone resnet18 $narrow --max_steps $classifier_steps \
        --balance_classes --learning_rate 1e-3 "${common[@]}"
    pooled once $seed autoencoder train_autoencoder $latent --max_steps $classifier_steps "${common[@]}"
done
for seed in $seeds; do
    diffusion="train_diffusion $unet --max_steps $steps ${common[*]} ${recipe[*]}"
    pooled once $seed healthy $diffusion
    pooled once $seed simplex $diffusion --noise simplex --max_timestep 800
    pooled once $seed conditional $diffusion --class_conditional
    pooled once $seed noisy_classifier train_noisy_classifier $noisy --max_steps $noisy_steps --balance_classes "${common[@]}"
    pooled once $seed denoising_ae train_denoising_ae $dae --max_steps $dae_steps "${common[@]}"
    pooled once $seed fanogan train_fanogan $fanogan --max_steps $gan
done
finish
assemble() { # seed
    local here=$out/$1
    python examples/assemble_competitors.py --dataset "$here/data" --output_dir "$here/methods" \
        --classifier "$here/classifier" --autoencoder "$here/autoencoder" --diffusion "$here/healthy" \
        --simplex "$here/simplex" --conditional "$here/conditional" --noisy_classifier "$here/noisy_classifier" \
        --denoising_autoencoder "$here/denoising_ae" --fanogan "$here/fanogan" --limit $limit --seed "$1" \
        --percentile_over foreground ${morphology:+--morphology_size $morphology} \
        --saliency_options "$counterfactual" --repaint_steps $repaint ${inference:+--num_inference_steps $inference}
}
for seed in $seeds; do pooled assemble "$seed"; done
finish

# Table 6.1, Figs. 6.6 and 6.7
all=()
for seed in $seeds; do all+=(--all "$out/$seed/methods" "$out/$seed/data"); done
python examples/evaluate_anomaly.py "${all[@]}" --out_of_domain "${foreign[@]}" --classifier "$out/0/classifier" \
    --cohort brats --out_of_domain_cohort wmh --limit $((3 * limit / 2)) --output_dir "$out/tables"
python examples/sweep_noise_and_threshold.py --model "$out/0/methods/Dif-fuse" --dataset "$out/0/data" --seeds 1 \
    --limit $limit --output_dir "$out/sweep" ${inference:+--options "{\"num_inference_steps\": $inference, \"display_steps\": 0}"} \
    $([ "$size" = smoke ] && echo --noise_levels 100 500 --percentiles 80 90 --num_samples 1 2)
echo "Tables and figures are in $out/tables and $out/sweep; all of them are of synthetic scans."
