"""The logistic distribution in floats, for training and for adaptation by an encoder."""

import torch

from torch import Tensor

__all__ = ["log_mass"]


def log_mass(u: Tensor, v: Tensor) -> Tensor:
    """Return the logarithm of the logistic's mass between u < v, stable in the tails.

    The gradient does not vanish where u and v are almost equal.

    Args:
        u: lower ends, finite, in units of the logistic's scale.
        v: upper ends, finite, same shape and unit.
    """
    # F(v) - F(u) = F(v) F(-u) (1 - e^(u - v)), F the logistic function. Of x = v and -u,
    #     log F(x) = (x - |x|) / 2 - log(1 + e^-|x|),
    # and 1 - e^-d = 2 t / (1 + t), t = tanh(d / 2): log1p and expm1 are ten times as slow.
    size_u, size_v = u.abs(), v.abs()
    t = torch.tanh((v - u).clamp(min=1e-6) / 2)
    beyond = (1 + torch.exp(-size_u)) * (1 + torch.exp(-size_v))
    return (v - u - size_u - size_v) / 2 + torch.log(2 * t / ((1 + t) * beyond))
