#!/usr/bin/env bash
# Chapters 4 and 5 from nothing, on synthetic cohorts: data, classifiers, maps, ACAT and its competitors, tables.
#
#     examples/reproduce.sh smoke|night|full OUT ANATOMIES
#
# smoke: does everything run? its figures mean nothing. night: 96 x 80 pixels, three seeds, for two cores and a night.
# full: the thesis's sizes and epochs, for GPUs. ANATOMIES is a folder of at least three label maps to draw heads on
# (SynthSeg's training_seg_*.nii.gz): the splits are by anatomy, and the built-in ICBM152 is only one.
# What is finished is kept: after an interrupt, repeat the command. LAUNCH="accelerate launch" uses several GPUs.
set -euo pipefail
size=$1
mkdir -p "$2"
out=$(realpath "$2")
anatomies=$(realpath "${3:?the third argument is the folder of label maps}")
cd "$(dirname "$0")/.."
launch=${LAUNCH:-python}
case $size in
smoke)
    subjects=24 seeds="0" image="48 40" lung="48" epochs=1 stages="1 1 1" counts="8" steps=2 masks=20 checks=1
    narrow="--channels 8 8 16 16" pools="--num_pools 3" autoencoder="--channels 8 16 16 --strides 2 2 1 --max_steps 20" ;;
night)
    subjects=300 seeds="0 1 2" image="96 80" lung="96" epochs=20 stages="30 10 10" counts="50 100 200" steps=10 masks=200 checks=2
    narrow="--channels 16 32 64 128" pools="--num_pools 4" autoencoder="--channels 16 32 32 --strides 2 2 1 --max_steps 3000" ;;
full)
    subjects=1000 seeds="0 1 2" image="500 400" lung="128" epochs=100 stages="100 50 50" counts="50 100 200 300 400 500"
    steps=20 masks=1000 checks=4 narrow="" pools="" autoencoder="" ;;
*) echo "The size is smoke, night or full, got $size." >&2 && exit 2 ;;
esac
# Random changes of a scan and learning rates of the three stages: few scans need more of both than the thesis's.
[ "$size" = full ] && rates="" || rates="--stage_learning_rates 1e-3 5e-4 1e-4 --dropout 0.2"
[ "$size" = full ] && changes="" || changes="--shift_augmentation 2 --rotation_augmentation 8 --zoom_augmentation 0.08 --intensity_augmentation 0.05"
[ "$size" = full ] && window="" || window="--window 15 60" # HU; few scans need the contrast
[ "$size" = full ] && device=() || device=(--cpu)
# What glibc gives back to the system after each step costs the next one up to a third of its time.
export MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=100000000
loop=("${device[@]}" --report_to none --batch_size 4 --resume_from_checkpoint latest)
counterfactual="{\"num_steps\": $steps, \"step_rule\": \"proximal\", \"step_growth\": 1.5, \"reference\": \"reconstruction\"}"

# The methods of each chapter: name in the tables | flags of the script.
classifiers() { # pixels
    [ "$cohort" = mosmed ] || echo "ResNet-18|--backbone resnet18 $narrow" # there it is the baseline itself
    echo "ResNet-50|--backbone resnet50 $narrow"
    [ "$size" = full ] && vit='"patch_size": 25' swin='' ||
        vit='"patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4' \
        swin=', "window_size": 4, "embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]'
    local attention="--learning_rate 3e-4 --warmup_steps 200" # transformers do not start at the CNNs' rate
    echo "ViT|$attention --backbone vit --backbone_kwargs {\"img_size\":[${1/ /,}],${vit// /}}"
    echo "Swin|$attention --backbone swin_tiny_patch4_window7_224 --backbone_kwargs {\"img_size\":[${1/ /,}]${swin// /}}"
}
competitors='ACAT|--method acat
SMIC|--method smic
SalClassNet|--method salclassnet
HSM|--method hsm
SpAtt|--method spatt
SeAtt|--method seatt
ACAT, no fusion|--options {"fusion":false}
ACAT, no slice attention|--options {"slice_attention":false}
ACAT, early stage alone|--options {"attention_stages":[1]}
ACAT, no residual|--options {"residual":false}
dropout instead of attention|--options {"attention":"dropout"}'

# Data: one cohort of each kind, dealt anew to train, validation and test for every seed.
python datasets_scripts/make_phantom.py "$out/stroke" --layout ist3 --subjects $subjects --anatomies "$anatomies"
difffuse preprocess "$out/stroke/dicom" "$out/stroke/scans" --linkage --image-size $image $window
python datasets_scripts/make_phantom.py "$out/lungs" --layout mosmed --subjects $subjects
for seed in $seeds; do
    [ -e "$out/ist3/$seed/data/README.md" ] ||
        python datasets_scripts/prepare_ist3.py "$out/stroke/scans" "$out/ist3/$seed/data" --split_seed "$seed"
    [ -e "$out/mosmed/$seed/data/README.md" ] ||
        python datasets_scripts/prepare_mosmed.py "$out/lungs" "$out/mosmed/$seed/data" --split_seed "$seed" --image_size $lung
done

for cohort in ist3 mosmed; do
    [ $cohort = ist3 ] && pixels=$image base="--backbone half_brain $pools --stage_epochs $stages $rates" ||
        pixels="$lung $lung" base="--backbone resnet18 $narrow --epochs ${stages%% *}"
    for seed in $seeds; do
        here=$out/$cohort/$seed
        train=(--dataset "$here/data" --seed "$seed" $changes "${loop[@]}")
        from=(--classifier "$here/baseline" --saliency "$here/saliency" --epochs $epochs)

        # Chapter 4: the classifier that the others start from, and those it is compared with (Table 4.2).
        $launch examples/train_classifier.py $base "${train[@]}" --output_dir "$here/baseline"
        classifiers "$pixels" | while IFS='|' read -r name flags; do
            [ -e "$here/$name/training.json" ] || $launch examples/train_classifier.py $flags --epochs ${stages%% *} \
                "${train[@]}" --output_dir "$here/$name" </dev/null
        done

        # Chapter 5: maps of every scan; ACAT, its competitors and its ablations (Table 5.1, Secs. 5.6.7 and 5.6.9).
        [ -e "$here/autoencoder/config.json" ] || $launch examples/train_autoencoder.py $autoencoder \
            --dataset "$here/data" --seed "$seed" "${loop[@]}" --output_dir "$here/autoencoder"
        maps=(examples/compute_saliency.py --dataset "$here/data" --classifier "$here/baseline" "${device[@]}")
        $launch "${maps[@]}" --autoencoder "$here/autoencoder" --options "$counterfactual" --output_dir "$here/saliency"
        $launch "${maps[@]}" --method gradient --output_dir "$here/gradient maps"
        while IFS='|' read -r name flags; do
            [ -e "$here/$name/training.json" ] || $launch examples/train_acat.py $flags "${from[@]}" "${train[@]}" \
                --output_dir "$here/$name" </dev/null
        done <<<"$competitors"
        [ -e "$here/ACAT, gradient maps/training.json" ] || $launch examples/train_acat.py "${from[@]}" "${train[@]}" \
            --saliency "$here/gradient maps" --output_dir "$here/ACAT, gradient maps"

        # Limited data (Table 5.5).
        [ $cohort = ist3 ] && for count in $counts; do
            $launch examples/train_classifier.py $base "${train[@]}" --train_scans "$count" \
                --output_dir "$here/baseline of $count"
            [ -e "$here/ACAT of $count/training.json" ] || $launch examples/train_acat.py "${from[@]}" "${train[@]}" \
                --classifier "$here/baseline of $count" --train_scans "$count" --output_dir "$here/ACAT of $count"
        done
    done

    # Tables and figures.
    rows=() curve=() runs=() second=()
    for seed in $seeds; do
        here=$out/$cohort/$seed
        rows+=(--method baseline "$here/baseline" "$here/data")
        while IFS='|' read -r name _; do
            rows+=(--method "$name" "$here/$name" "$here/data" "$here/saliency")
        done < <(classifiers "$pixels" && echo "$competitors")
        rows+=(--method "ACAT, gradient maps" "$here/ACAT, gradient maps" "$here/data" "$here/gradient maps")
        [ $cohort = ist3 ] && for count in $counts; do
            curve+=(--curve baseline "$count" "$here/baseline of $count" "$here/data")
            curve+=(--curve ACAT "$count" "$here/ACAT of $count" "$here/data" "$here/saliency")
        done
        runs+=(--run "$here/baseline" "$here/autoencoder" "$here/data")
        second+=(--acat "$here/ACAT" "$here/saliency")
    done
    tables=$out/$cohort/tables
    python examples/evaluate_classification.py "${rows[@]}" "${curve[@]}" --cohort $cohort --output_dir "$tables"
    python examples/evaluate_saliency.py "${runs[@]}" "${second[@]}" --randomise $checks --noise_std 0.1 --output_dir "$tables" \
        --options "{\"class_agnostic_saliency\": $counterfactual, \"rise\": {\"num_masks\": $masks}}"
    python examples/plot_latent_paths.py --classifier "$here/baseline" --autoencoder "$here/autoencoder" \
        --dataset "$here/data" --limit 16 --output_dir "$tables"
done
echo "Tables and figures are in $out/ist3/tables and $out/mosmed/tables; all of them are of synthetic scans."
