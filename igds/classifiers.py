"""The independent classifier: trained on real images only and never used for guidance, so that it can judge."""

from torch import Tensor, nn

from igds.encoders import EncoderConfig, residual_trunk


class ImageClassifier(nn.Module):
    """Logits (n, K) of images in [-1, 1], and the features (n, widths[-1]) in which distances are measured."""

    def __init__(self, config: EncoderConfig, num_classes: int):
        super().__init__()
        self.config = config
        self.trunk = residual_trunk(config)
        self.head = nn.Linear(config.widths[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
