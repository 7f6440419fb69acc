#!/bin/sh
# Table 2: ImageNette, 256×256, IPC 1, 10, 20, 50, with ResNetAP-10 and ResNet-18.
set -eu
beta_1=0 beta_10=0.1 beta_20=0.1 beta_50=0.5  # ours, not the paper's: put in what step 3 prints
bundle=bundles/imagenette-256
cache=${XDG_CACHE_HOME:-$HOME/.cache}/igds

# 1. Data, prior (2.2 GB) and encoder
python -m igds fetch imagenette --yes
python -m igds fetch adm-256 --yes
python -m igds fetch moco-v2-800

# 2. A bundle of these ten classes, its estimator with the paper's τ, and an independent judge
[ -e "$bundle/card.json" ] || python -m igds import adm "$cache/adm-256/256x256_diffusion.pt" --out "$bundle" \
    --classes n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257
[ -e "$bundle/estimator.safetensors" ] || python -m igds complete "$bundle" --data imagenette \
    --encoder "$cache/moco-v2-800/moco_v2_800ep_pretrain.pth.tar" --tau 0.07
python -m igds complete "$bundle" --data imagenette

# 3. Figure 5: which β for which IPC, on images held out of the training set
python -m igds compare beta --bundle "$bundle" --data imagenette --betas 0 0.1 0.2 0.5 1 --ipc 1 10 20 50 \
    --networks resnetap10 --protocol paper --split validation

# 4. The sets, each image four at half their size, and what networks learn from them
for ipc in 1 10 20 50; do
    eval "beta=\$beta_$ipc"
    python -m igds distil --bundle "$bundle" --ipc "$ipc" --beta "$beta" --solver ddpm --steps 250 --interval 0 1 \
        --at x_prev --reference batch --composite --out "distilled/imagenette-256-ipc$ipc"
    python -m igds evaluate "distilled/imagenette-256-ipc$ipc" --data imagenette --network resnetap10 resnet18 \
        --protocol paper --repeats 3 --out "results/imagenette-256-ipc$ipc"
done
