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
from ..quantization.rounding import Guard
from .coding_order import CODING_ORDER, subset
from .scale_table import ScaleTable
from .tables import TabledEntropyModel

__all__ = ["ContextModel", "UniformNoiseConditional", "log_span"]

SCALE_SPAN = (0.02, 16.0)  # default span of the scale table, in units of the noise
TAIL_QUANTILE = 1e-4


class UniformNoiseConditional(TabledEntropyModel):
    r"""Conditional model of values under additive uniform noise of width 1.

    The counterpart of :class:`~compressai.entropy_models.GaussianConditional` where
    rounding is not a stand-in for noise: in training the noise is added, in evaluation
    universal quantization (Ziv 1985; Agustsson and Theis 2020) gives the same noise
    while it sends integers. All quantities are in units of the noise's width Delta.

    Values stand on a lattice of N = 32 points per unit. With a dither ``j + f`` that
    the decoder knows, j an integer in [-N/2, N/2) and f a fraction, and the location
    ``M = round(N means + f)``, the symbol is ``k = round(inputs - (M - f - j) / N)``,
    the value ``(Z - f) / N`` with ``Z = k N + M - j``, and the probability of k

        P(k | j, scale) = G(k - j / N + 1/2) - G(k - j / N - 1/2).

    Args:
        prior_type: G, ``"logistic"`` or ``"normal"`` (``"gaussian"`` is the same).

    Attributes:
        quantiles: a low, the middle and a high quantile of the natural logarithm of
            the scales seen in training, ``[3]``, learned by :meth:`loss`;
            :meth:`update` spans its scale table by the outer two.
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
        """Values under noise and their likelihoods.

        Args:
            inputs: values, any shape, in units of the noise's width.
            scales: standard deviations of G, same shape, positive.
            means: locations of G, same shape.
            dither: as of :func:`.dither.dither`, broadcast to that shape; the noise is
                drawn afresh where absent.

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
        """Likelihoods of all values of a stage, in (0, 1]."""
        return self.likelihood(outputs, scales, means)

    def likelihood(self, outputs: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Density of G convolved with U(-1/2, 1/2), stable in the tails."""
        log_p = self.log_likelihood(outputs - means, scales)
        return self.likelihood_lower_bound(log_p.exp())

    def log_likelihood(self, v: Tensor, scales: Tensor) -> Tensor:
        """The logarithm of that density, at v from the location."""
        if self.prior_type == "logistic":
            s = scales * (math.sqrt(3) / math.pi)
            # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a))
            log_p = F.logsigmoid((v + 0.5) / s) + F.logsigmoid((0.5 - v) / s)
            return log_p + torch.log(-torch.expm1(-1 / s))
        v = -v.abs()
        # past 30 deviations nothing is left, and gradients would overflow
        log_a = torch.special.log_ndtr(((v + 0.5) / scales).clamp(min=-30))
        log_b = torch.special.log_ndtr(((v - 0.5) / scales).clamp(min=-31))
        return log_a + torch.log(-torch.expm1(log_b - log_a))

    def observe(self, scales: Tensor) -> None:
        """Take note of scales, for :meth:`loss`."""
        self._log_scales = scales.detach().float().log().flatten()

    def loss(self) -> Tensor:
        """Quantile (pinball) loss of ``quantiles`` on the scales last seen in training."""
        if not self._log_scales.numel():
            return 0 * self.quantiles.sum()
        levels = self.quantiles.new_tensor([TAIL_QUANTILE, 0.5, 1 - TAIL_QUANTILE])
        error = self._log_scales.type_as(self.quantiles)[:, None] - self.quantiles
        return torch.maximum(levels * error, (levels - 1) * error).mean(0).sum()

    # ---- tables ----

    def update(self, force: bool = False) -> bool:
        """Build the integer tables.

        Args:
            force: build them anew where they exist.

        Returns:
            whether they were built.
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

    def build_indexes(self, scales: Tensor, guard: Guard = Guard()) -> Tensor:
        """Index into the scale table, uint8, of the entry nearest in the logarithm."""
        self._check_cdf_size()
        low, high = self.scale_table[[0, -1]].double().log().tolist()
        last = len(self.scale_table) - 1
        position = (scales.log() - low) * (last / (high - low))
        index = guard.round(position.clamp(-0.25, last + 0.25))
        # a damaged list may point beyond the table
        return index.clamp(0, last).to(torch.uint8)

    def locate(self, means: Tensor, dither: Tensor, guard: Guard = Guard()) -> Tensor:
        """The lattice point M, int32, nearest to ``means``."""
        _, f = split_dither(dither.to(means.device))
        return guard.round(means * N + f)

    def quantize_universally(self, inputs: Tensor, means: Tensor, dither: Tensor) -> Tensor:
        """Z, int32, the lattice points of the values with their noise."""
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
        """Code a batch of values on their own, a string each.

        Args:
            inputs: values, ``[B, 3, H, W]``, in units of the noise's width.
            indexes: as of :meth:`build_indexes`, same shape.
            means: locations, same shape.
            seed: seed of the dither.

        Returns:
            a string for each of the B.
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
        """Inverse of :meth:`compress`: the values with their noise, as ``means``.

        Raises:
            ValueError: strings and indexes do not match, or a string is damaged.
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
            indexes: indexes into the scale table, same shape.
            M: lattice points of the locations, same shape.
            dither: the dither, same shape.
            noise: where a bitstream is truncated, the missing values are at their location,
                plus this share of their dither.

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
            found = self.table.code(coder, k, i.reshape(-1), j_d.reshape(-1))
            if inputs is None:
                k, there = (values.reshape(r.shape) for values in found)
                missing = d - np.rint(noise * j_g).astype(np.int32)
                r[...] = np.where(there, (k + k_d) * N - j_g, missing)
            context.on_decoded(g, r)
        return torch.from_numpy(residual).to(M.device) + M

    def context_model(self, indexes: np.ndarray) -> "ContextModel":
        """Return the context model of one picture, see :class:`ContextModel`."""
        return ContextModel(indexes)


def log_span(low: float, high: float) -> Tensor:
    """Natural logarithms of the ends of a span of scales, with their middle between."""
    ends = math.log(low), math.log(high)
    return torch.tensor([ends[0], sum(ends) / 2, ends[1]], dtype=torch.float32)


class ContextModel:
    """Entropy parameters of a subset of values, given the subsets before it.

    This one has no context: the parameters are those of the network alone.

    Args:
        indexes: scale indexes that the network gives, ``[3, H, W]``.
    """

    def __init__(self, indexes: np.ndarray):
        self.indexes = indexes

    def entropy_parameters(
        self, coder: SymbolCoder, g: int, residual: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the location's shift and the scale index of each value of a subset.

        Args:
            coder: codes the side information that the parameters depend on.
            g: number of the subset.
            residual: the residuals k N - j of the subset, None to decode.

        Returns:
            shifts d in lattice points, int32, and indexes into the scale table.
        """
        indexes = subset(self.indexes, g)
        return np.zeros(indexes.shape, np.int32), indexes

    def on_decoded(self, g: int, residual: np.ndarray) -> None:
        """Take in the residuals k N - j of a subset."""


def _moved(j: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What symbols and the dither become where the location moves by d.

    P(k | j, d) is the entry of table (j + d) mod N at k - (j + d) div N.
    """
    moved = j.astype(np.int32) + d + N // 2
    return moved // N, moved % N - N // 2
