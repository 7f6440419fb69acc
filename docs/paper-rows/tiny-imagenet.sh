#!/bin/sh
# Table 3: Tiny ImageNet, 64×64, IPC 1, 10, 50, with ConvNet-4 and ResNet-18.
set -eu
beta_1=0 beta_10=0.1 beta_50=0.5  # ours, not the paper's: put in what step 3 prints
bundle=bundles/tiny-imagenet-64
cache=${XDG_CACHE_HOME:-$HOME/.cache}/igds

# 1. Data, prior (1.2 GB) and encoder
python -m igds fetch tiny-imagenet
python -m igds fetch adm-64 --yes
python -m igds fetch moco-v2-800

# 2. Of ImageNet's 1,000 labels those of Tiny ImageNet's 200 classes, under the names that its own files give them
mkdir -p bundles
python - "$cache/tiny-imagenet" bundles/tiny-imagenet <<'PYTHON'
import sys
from pathlib import Path

from igds.imagenet import imagenet_classes

folder, stem = Path(sys.argv[1]), sys.argv[2]
own = (folder / "wnids.txt").read_text(encoding="utf-8").split()
lines = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
words = dict(line.split("\t", 1) for line in lines if "\t" in line)
first = {wnid: words.get(wnid, wnid).split(",")[0].strip() for wnid in own}
double = {name for name in first.values() if list(first.values()).count(name) > 1}
names = {wnid: f"{name} ({wnid})" if name in double else name for wnid, name in first.items()}
Path(f"{stem}-names.txt").write_text("".join(f"{names.get(wnid, wnid)}\n" for wnid in imagenet_classes()), encoding="utf-8")
labels = list(imagenet_classes())
Path(f"{stem}-labels.txt").write_text("".join(f"{labels.index(wnid)}\n" for wnid in own))
PYTHON

# ... a bundle of them, its estimator with the paper's τ, and an independent judge
[ -e "$bundle/card.json" ] || python -m igds import adm "$cache/adm-64/64x64_diffusion.pt" --out "$bundle" \
    --names bundles/tiny-imagenet-names.txt --classes $(cat bundles/tiny-imagenet-labels.txt)
[ -e "$bundle/estimator.safetensors" ] || python -m igds complete "$bundle" --data tiny-imagenet \
    --encoder "$cache/moco-v2-800/moco_v2_800ep_pretrain.pth.tar" --tau 0.07
python -m igds complete "$bundle" --data tiny-imagenet

# 3. Figure 5: which β for which IPC, on images held out of the training set
python -m igds compare beta --bundle "$bundle" --data tiny-imagenet --betas 0 0.1 0.2 0.5 1 --ipc 1 10 50 \
    --networks convnet4 --protocol paper --split validation

# 4. The sets, each image four at half their size, and what networks learn from them
for ipc in 1 10 50; do
    eval "beta=\$beta_$ipc"
    python -m igds distil --bundle "$bundle" --ipc "$ipc" --beta "$beta" --solver ddpm --steps 250 --interval 0 1 \
        --at x_prev --reference batch --composite --out "distilled/tiny-imagenet-64-ipc$ipc"
    python -m igds evaluate "distilled/tiny-imagenet-64-ipc$ipc" --data tiny-imagenet --network convnet4 resnet18 \
        --protocol paper --repeats 3 --out "results/tiny-imagenet-64-ipc$ipc"
done
