"""The logistic distribution in floats, for training and for what encoders fit."""

import torch
import torch.nn.functional as F

from torch import Tensor

__all__ = ["log_mass"]


def log_mass(u: Tensor, v: Tensor) -> Tensor:
    """Logarithm of the mass of the logistic of scale 1 between u < v, stable in the tails.

    Its gradient is kept where the two are all but equal.
    """
    # sigmoid(v) - sigmoid(u) = sigmoid(v) sigmoid(-u) (1 - e^(u - v))
    difference = torch.log(-torch.expm1((u - v).clamp(max=-1e-6)))
    return F.logsigmoid(v) + F.logsigmoid(-u) + difference
