#!/bin/sh
# Table 4: CIFAR-10, 32×32, IPC 10 and 50, with ResNet-18.
set -eu
beta_10=0.1 beta_50=0.5  # ours, not the paper's: put in what step 3 prints
bundle=bundles/cifar10-32
cache=${XDG_CACHE_HOME:-$HOME/.cache}/igds

# 1. Data and encoder
python -m igds fetch cifar10
python -m igds fetch moco-v2-800

# 2. guided-diffusion has no prior for CIFAR-10: one of our own, trained on the training split, with an independent judge;
# then the paper's kind of estimator in place of the one that was trained with it
mkdir -p bundles
python -m igds train all --data cifar10 --size 32 --out "$bundle"
[ -e "$bundle-has-moco" ] || python -m igds complete "$bundle" --data cifar10 \
    --encoder "$cache/moco-v2-800/moco_v2_800ep_pretrain.pth.tar" --tau 0.07
: > "$bundle-has-moco"

# 3. Figure 5: which β for which IPC, on images held out of the training set
python -m igds compare beta --bundle "$bundle" --data cifar10 --betas 0 0.1 0.2 0.5 1 --ipc 10 50 \
    --networks resnet18 --protocol paper --split validation

# 4. The sets, each image four at half their size, and what networks learn from them
for ipc in 10 50; do
    eval "beta=\$beta_$ipc"
    python -m igds distil --bundle "$bundle" --ipc "$ipc" --beta "$beta" --solver ddpm --steps 250 --interval 0 1 \
        --at x_prev --reference batch --composite --out "distilled/cifar10-32-ipc$ipc"
    python -m igds evaluate "distilled/cifar10-32-ipc$ipc" --data cifar10 --network resnet18 \
        --protocol paper --repeats 3 --out "results/cifar10-32-ipc$ipc"
done
