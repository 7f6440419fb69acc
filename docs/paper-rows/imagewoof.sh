#!/bin/sh
# Table 1: ImageWoof, 256×256, IPC 1, 10, 20, 50, 100, with ConvNet-6, ResNetAP-10 and ResNet-18.
set -eu
beta_1=0 beta_10=0.1 beta_20=0.1 beta_50=0.5 beta_100=0.5  # ours, not the paper's: put in what step 3 prints
bundle=bundles/imagewoof-256
cache=${XDG_CACHE_HOME:-$HOME/.cache}/igds

# 1. Data, prior (2.2 GB) and encoder
python -m igds fetch imagewoof --yes
python -m igds fetch adm-256 --yes
python -m igds fetch moco-v2-800

# 2. A bundle of these ten classes, its estimator with the paper's τ, and an independent judge
[ -e "$bundle/card.json" ] || python -m igds import adm "$cache/adm-256/256x256_diffusion.pt" --out "$bundle" \
    --classes n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 n02099601 n02105641
[ -e "$bundle/estimator.safetensors" ] || python -m igds complete "$bundle" --data imagewoof \
    --encoder "$cache/moco-v2-800/moco_v2_800ep_pretrain.pth.tar" --tau 0.07
python -m igds complete "$bundle" --data imagewoof

# 3. Figure 5: which β for which IPC, on images held out of the training set
python -m igds compare beta --bundle "$bundle" --data imagewoof --betas 0 0.1 0.2 0.5 1 --ipc 1 10 20 50 100 \
    --networks resnetap10 --protocol paper --split validation

# 4. The sets, each image four at half their size, and what networks learn from them
for ipc in 1 10 20 50 100; do
    eval "beta=\$beta_$ipc"
    python -m igds distil --bundle "$bundle" --ipc "$ipc" --beta "$beta" --solver ddpm --steps 250 --interval 0 1 \
        --at x_prev --reference batch --composite --out "distilled/imagewoof-256-ipc$ipc"
    python -m igds evaluate "distilled/imagewoof-256-ipc$ipc" --data imagewoof --network convnet6 resnetap10 resnet18 \
        --protocol paper --repeats 3 --out "results/imagewoof-256-ipc$ipc"
done
