"""Information-Guided Diffusion Sampling: maximise I(X;Y) + β·H(X|Y) during reverse diffusion."""

import warnings

# guided_diffusion.nn decorates with a name that torch has since moved; nothing a user of this library can act on.
warnings.filterwarnings("ignore", message=r"`torch.cuda.amp.custom_(fwd|bwd)", category=FutureWarning)

__version__ = "0.1.0"
