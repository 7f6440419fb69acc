"""Information-Guided Diffusion Sampling: maximise I(X;Y) + β·H(X|Y) during reverse diffusion."""

import warnings

__version__ = "0.1.0"

# guided_diffusion.nn decorates with a name that torch has since moved; nothing a user of this library can act on.
warnings.filterwarnings("ignore", message=r"`torch.cuda.amp.custom_(fwd|bwd)", category=FutureWarning)

from igds.bundle import Bundle, embedded_bundles, load_bundle, save_bundle
from igds.estimator import Estimate, VariationalEstimator, estimate
from igds.priors.base import Denoised, Prior
from igds.priors.empirical import EmpiricalPrior
from igds.priors.mixture import MixturePrior
from igds.priors.unet import UNetConfig, UNetPrior
from igds.runs import Record, Run
from igds.sampling import BatchState, ClassBatch, Guidance, Step, paired, sample, sample_progressive
from igds.schedule import Schedule

__all__ = [
    "BatchState",
    "Bundle",
    "ClassBatch",
    "Denoised",
    "EmpiricalPrior",
    "Estimate",
    "Guidance",
    "MixturePrior",
    "Prior",
    "Record",
    "Run",
    "Schedule",
    "Step",
    "UNetConfig",
    "UNetPrior",
    "VariationalEstimator",
    "embedded_bundles",
    "estimate",
    "load_bundle",
    "paired",
    "sample",
    "sample_progressive",
    "save_bundle",
]
