"""The prior of a latent stage: a conditional density under uniform noise."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..bitstream.range_coder import StreamDecoder, StreamEncoder, check_strings
from ..bitstream.symbols import SymbolCoder
from ..fingerprint import Fingerprint
from ..quantization.dither import dither as draw_dither
from ..quantization.lattice import LATTICE as N
from ..quantization.lattice import from_lattice, split_dither
from ..quantization.rounding import Rounding
from .coding_order import CODING_ORDER, subset
from .scale_table import ScaleTable
from .tables import TabledEntropyModel

__all__ = ["ContextModel", "UniformNoiseConditional", "log_span"]

SCALE_SPAN = (0.02, 16.0)  # default span of the scale table, in units of Delta
TAIL_QUANTILE = 1e-4


class UniformNoiseConditional(TabledEntropyModel):
    r"""Conditional model of values under additive uniform noise of width 1.

    The counterpart of :class:`~compressai.entropy_models.GaussianConditional` for uniform
    noise. In training the noise is added. In evaluation universal quantization (Ziv 1985;
    Agustsson and Theis, "Universally Quantized Neural Compression", NeurIPS 2020) produces
    the same noise while it codes integers. All quantities are in units of the noise's width
    Delta.

    Values lie on a lattice of N = 32 points per unit. Encoder and decoder draw a dither
    ``j + f``, j an integer in [-N/2, N/2) and f a fraction in [0, 1). With the location
    ``M = round(N means + f)``, the symbol is ``k = round(inputs - (M - f - j) / N)``, the
    value is ``(Z - f) / N`` with ``Z = k N + M - j``, and the probability of k is

        P(k | j, scale) = G(k - j / N + 1/2) - G(k - j / N - 1/2).

    Args:
        prior_type: G, ``"logistic"`` or ``"normal"`` (``"gaussian"`` is the same).

    Attributes:
        quantiles: a low, the middle and a high quantile of the natural logarithm of the
            scales in training, ``[3]``, learned by :meth:`loss`. The scale table of
            :meth:`update` spans the outer two.
    """

    quantiles: Tensor
    scale_table: Tensor

    def __init__(self, prior_type: str = "logistic"):
        super().__init__()
        if prior_type not in ("logistic", "normal", "gaussian"):
            raise ValueError(f"no such prior_type: {prior_type!r}")
        self.prior_type = prior_type
        self.quantiles = nn.Parameter(log_span(*SCALE_SPAN))
        self.register_buffer("scale_table", torch.empty(0, dtype=torch.float32))
        self._log_scales = torch.empty(0, dtype=torch.float32)

    def forward(
        self, inputs: Tensor, scales: Tensor, means: Tensor, dither: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add noise to values, and return them with their likelihoods.

        Args:
            inputs: values, any shape, in units of the noise's width.
            scales: standard deviations of G, same shape, positive.
            means: locations of G, same shape.
            dither: from :func:`.dither.dither`, broadcast to that shape. By default the
                noise is drawn from PyTorch's generator.

        Returns:
            values with the noise, and their likelihoods in (0, 1].
        """
        if dither is None:
            outputs = self.quantize(inputs, "noise")
        else:
            Z = self.quantize_universally(inputs, means, dither)
            outputs = from_lattice(Z, dither, inputs.dtype)
        if self.training:
            self.observe(scales)
        return outputs, self.likelihoods(outputs, scales, means)

    def likelihoods(self, outputs: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the likelihoods of all values of a stage, in (0, 1]."""
        return self.likelihood(outputs, scales, means)

    def likelihood(self, outputs: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the density of G convolved with U(-1/2, 1/2), stable in the tails."""
        log_p = self.log_likelihood(outputs - means, scales)
        return self.likelihood_lower_bound(log_p.exp())

    def log_likelihood(self, v: Tensor, scales: Tensor) -> Tensor:
        """Return the logarithm of that density at distance v from the location."""
        if self.prior_type == "logistic":
            s = scales * (math.sqrt(3) / math.pi)
            # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a))
            log_p = F.logsigmoid((v + 0.5) / s) + F.logsigmoid((0.5 - v) / s)
            return log_p + torch.log(-torch.expm1(-1 / s))
        v = -v.abs()
        # past 30 deviations the density is negligible, and gradients would overflow
        log_a = torch.special.log_ndtr(((v + 0.5) / scales).clamp(min=-30))
        log_b = torch.special.log_ndtr(((v - 0.5) / scales).clamp(min=-31))
        return log_a + torch.log(-torch.expm1(log_b - log_a))

    def observe(self, scales: Tensor) -> None:
        """Store scales for :meth:`loss`."""
        self._log_scales = scales.detach().float().log().flatten()

    def loss(self) -> Tensor:
        """Return the quantile (pinball) loss of ``quantiles`` on the last stored scales."""
        if not self._log_scales.numel():
            return 0 * self.quantiles.sum()
        levels = self.quantiles.new_tensor([TAIL_QUANTILE, 0.5, 1 - TAIL_QUANTILE])
        error = self._log_scales.type_as(self.quantiles)[:, None] - self.quantiles
        return torch.maximum(levels * error, (levels - 1) * error).mean(0).sum()

    # ---- tables ----

    def update(self, force: bool = False) -> bool:
        """Build the integer tables.

        Args:
            force: build them again if they exist.

        Returns:
            whether they were built.

        Raises:
            ValueError: the quantiles are not finite.
        """
        if self.has_tables and not force:
            return False
        low, _, high = self.quantiles.detach().double().tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"quantiles must be finite, got {low} and {high}")
        table = ScaleTable.spanning(self.prior_type, low, high)
        device = self.quantiles.device
        self.scale_table = torch.from_numpy(table.scales.copy()).to(device)
        self._set_tables(table.cdf, table.length, table.offset, device)
        return True

    @property
    def table(self) -> ScaleTable:
        """The integer tables.

        Raises:
            ValueError: :meth:`update` was not called.
        """
        self._check_cdf_size()
        if "table" not in self._derived:
            buffers = self.scale_table, self._quantized_cdf, self._cdf_length, self._offset
            self._derived["table"] = ScaleTable(*(b.cpu().numpy() for b in buffers))
        return self._derived["table"]

    def fingerprint(self) -> Fingerprint:
        """Yield the tables."""
        return self.table.fingerprint()

    def build_indexes(self, scales: Tensor, rounding: Rounding = Rounding()) -> Tensor:
        """Return the indexes of the nearest scales in the table, by logarithm, uint8.

        Args:
            scales: standard deviations of G, any shape.
            rounding: rounds to integers, see :mod:`.rounding`.
        """
        self._check_cdf_size()
        low, high = self.scale_table[[0, -1]].double().log().tolist()
        last = len(self.scale_table) - 1
        position = (scales.log() - low) * (last / (high - low))
        index = rounding.round(position.clamp(-0.25, last + 0.25))
        # a damaged rounding log may point beyond the table
        return index.clamp(0, last).to(torch.uint8)

    def locate(
        self, means: Tensor, dither: Tensor, rounding: Rounding = Rounding()
    ) -> Tensor:
        """Return the lattice points M nearest to ``means``, int32."""
        _, f = split_dither(dither.to(means.device))
        return rounding.round(means * N + f)

    def quantize_universally(self, inputs: Tensor, means: Tensor, dither: Tensor) -> Tensor:
        """Return the lattice points Z of the values with their noise, int32."""
        return self._universal_quantize(inputs, self.locate(means, dither), dither)

    @staticmethod
    def _universal_quantize(inputs: Tensor, M: Tensor, dither: Tensor) -> Tensor:
        j, f = split_dither(dither.to(M.device))
        k = (inputs - ((M - j) - f.to(inputs.dtype)) / N).round().to(torch.int32)
        return k * N + (M - j)

    # ---- coding ----

    def compress(
        self, inputs: Tensor, indexes: Tensor, means: Tensor, seed: int = 0
    ) -> list[bytes]:
        """Encode a batch of values without a model around, one string for each.

        Args:
            inputs: values, ``[B, 3, H, W]``, in units of the noise's width.
            indexes: from :meth:`build_indexes`, same shape.
            means: locations, same shape.
            seed: seed of the dither.

        Returns:
            B strings.
        """
        dither = draw_dither(seed, 0, tuple(inputs.shape[1:]))
        M = self.locate(means, dither)
        strings = []
        for b in range(len(inputs)):
            encoder = StreamEncoder()
            Z = self.code(encoder, inputs[b], indexes[b], M[b], dither)
            encoder.end_stage(Z.cpu().numpy())
            strings += encoder.segments()
        return strings

    def decompress(
        self, strings: list[bytes], indexes: Tensor, means: Tensor, seed: int = 0
    ) -> Tensor:
        """Decode the strings of :meth:`compress`, and return the values with their noise.

        Args:
            strings: B strings.
            indexes: from :meth:`build_indexes`, ``[B, 3, H, W]``.
            means: locations, same shape.
            seed: seed of the dither.

        Raises:
            ValueError: the number of strings or a shape differs from that of ``indexes``.
            DamagedStringError: a string is damaged.
        """
        check_strings([strings], 1)
        if len(strings) != len(indexes) or indexes.shape != means.shape:
            raise ValueError(
                f"expected {len(indexes)} strings and means {list(indexes.shape)}, got "
                f"{len(strings)} and {list(means.shape)}"
            )
        dither = draw_dither(seed, 0, tuple(means.shape[1:]))
        M = self.locate(means, dither)
        outputs = []
        for b, string in enumerate(strings):
            decoder = StreamDecoder([string])
            Z = self.code(decoder, None, indexes[b], M[b], dither)
            decoder.end_stage(Z.cpu().numpy())
            outputs.append(from_lattice(Z, dither, means.dtype))
        return torch.stack(outputs)

    def code(
        self,
        coder: SymbolCoder,
        inputs: Tensor | None,
        indexes: Tensor,
        M: Tensor,
        dither: Tensor,
        noise: float = 0.0,
    ) -> Tensor:
        """Code the values of one picture.

        Args:
            coder: encoder, decoder or rate estimator.
            inputs: values, ``[3, H, W]``, in units of the noise's width, or None to decode
                them.
            indexes: scale indexes, same shape.
            M: lattice points of the locations, same shape.
            dither: the dither, same shape.
            noise: values that a truncated bitstream lacks are set to their location plus
                this share of their dither.

        Returns:
            Z, the lattice points of the values with their noise, int32.
        """
        residual = np.zeros(tuple(M.shape), np.int32)  # k N - j
        if inputs is not None:
            residual = (self._universal_quantize(inputs, M, dither) - M).cpu().numpy()
        j = split_dither(dither)[0].cpu().numpy()
        context = self.context_model(indexes.cpu().numpy())
        for g in range(len(CODING_ORDER)):
            r, j_g = subset(residual, g), subset(j, g)
            d, i = context.entropy_parameters(coder, g, None if inputs is None else r)
            k_d, j_d = _moved(j_g, d)
            k = None if inputs is None else ((r + j_g) // N - k_d).reshape(-1)
            coded = self.table.code(coder, k, i.reshape(-1), j_d.reshape(-1))
            if inputs is None:
                k, is_coded = (values.reshape(r.shape) for values in coded)
                missing = d - np.rint(noise * j_g).astype(np.int32)
                r[...] = np.where(is_coded, (k + k_d) * N - j_g, missing)
            context.on_decoded(g, r)
        return torch.from_numpy(residual).to(M.device) + M

    def context_model(self, indexes: np.ndarray) -> "ContextModel":
        """Return the context model of one picture, see :class:`ContextModel`.

        Args:
            indexes: scale indexes from the network, ``[3, H, W]``.
        """
        return ContextModel(indexes)


def log_span(low: float, high: float) -> Tensor:
    """Return the natural logarithms of a low, the geometric mean and a high scale."""
    ends = math.log(low), math.log(high)
    return torch.tensor([ends[0], sum(ends) / 2, ends[1]], dtype=torch.float32)


class ContextModel:
    """Entropy parameters of a subset of values, given the subsets before it.

    This class uses no context: the parameters come from the denoiser alone.

    Args:
        indexes: scale indexes from the denoiser, ``[3, H, W]``.
    """

    def __init__(self, indexes: np.ndarray):
        self.indexes = indexes

    def entropy_parameters(
        self, coder: SymbolCoder, g: int, residual: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the location shift and the scale index of each value of a subset.

        Args:
            coder: codes the side information that the parameters depend on.
            g: number of the subset.
            residual: the residuals k N - j of the subset, or None to decode them.

        Returns:
            shifts d in lattice points, int32, and indexes into the scale table.
        """
        indexes = subset(self.indexes, g)
        return np.zeros(indexes.shape, np.int32), indexes

    def on_decoded(self, g: int, residual: np.ndarray) -> None:
        """Use the residuals k N - j of subset g as context of the next subsets."""


def _moved(j: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of symbols, and the new offsets, if the location moves by d.

    P(k | j, d) is the entry of table (j + d) mod N at k - (j + d) div N.
    """
    moved = j.astype(np.int32) + d + N // 2
    return moved // N, moved % N - N // 2
