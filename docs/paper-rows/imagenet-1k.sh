#!/bin/sh
# ImageNet-1K, which section 5.1 names without a row: here 64×64, IPC 10 and 50, ResNet-18. Images stay in memory: 16 GB.
# IMAGENET is its folder, with train/ and val/ and a folder for each WordNet id in both; image-net.org gives it on request.
set -eu
beta_10=0.1 beta_50=0.5  # ours, not the paper's: put in what step 3 prints
bundle=bundles/imagenet-1k-64
cache=${XDG_CACHE_HOME:-$HOME/.cache}/igds
: "${IMAGENET:?say where ImageNet is: IMAGENET=FOLDER sh docs/paper-rows/imagenet-1k.sh}"

# 1. Prior (1.2 GB) and encoder
python -m igds fetch adm-64 --yes
python -m igds fetch moco-v2-800

# 2. A bundle whose classes are named by WordNet id, as the folders are; its estimator with the paper's τ; a judge
mkdir -p bundles
grep -v '^#' assets/imagenet-classes.txt | cut -d ' ' -f 1 > bundles/imagenet-wnids.txt
[ -e "$bundle/card.json" ] || python -m igds import adm "$cache/adm-64/64x64_diffusion.pt" --out "$bundle" \
    --names bundles/imagenet-wnids.txt
[ -e "$bundle/estimator.safetensors" ] || python -m igds complete "$bundle" --data "$IMAGENET" \
    --encoder "$cache/moco-v2-800/moco_v2_800ep_pretrain.pth.tar" --tau 0.07
python -m igds complete "$bundle" --data "$IMAGENET"

# 3. Figure 5: which β for which IPC, on images held out of the training set
python -m igds compare beta --bundle "$bundle" --data "$IMAGENET" --betas 0 0.1 0.2 0.5 1 --ipc 10 50 \
    --networks resnet18 --protocol paper --split validation

# 4. The sets, each image four at half their size, and what networks learn from them
for ipc in 10 50; do
    eval "beta=\$beta_$ipc"
    python -m igds distil --bundle "$bundle" --ipc "$ipc" --beta "$beta" --solver ddpm --steps 250 --interval 0 1 \
        --at x_prev --reference batch --composite --out "distilled/imagenet-1k-64-ipc$ipc"
    python -m igds evaluate "distilled/imagenet-1k-64-ipc$ipc" --data "$IMAGENET" --network resnet18 \
        --protocol paper --repeats 3 --out "results/imagenet-1k-64-ipc$ipc"
done
