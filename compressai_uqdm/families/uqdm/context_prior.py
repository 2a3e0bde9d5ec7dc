r"""The context prior: what is decoded of a stage corrects the prior of the rest of it.

UQDM's prior takes the values of a stage as independent given z_t. They are not: what the
network missed at one value it missed at its neighbours and in the other channels. As in
autoregressive and checkerboard context models (Minnen et al. 2018, He et al. 2021),
a small network sees what was decoded of earlier groups (:mod:`.coding_order`) and moves the
prior of the next one: by d lattice points, and to another entry of the scale table. Its
last layer is refitted to the picture (:mod:`.head_adaptation`).

Its arithmetic is in integers (:mod:`compressai_uqdm.integer`), so that it is the same
everywhere.
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

from ...bitstream.parameter_updates import tables as steps_tables
from ...bitstream.symbols import RateEstimator, SymbolCoder
from ...entropy_models import head_adaptation
from ...entropy_models.coding_order import CODING_ORDER, subset
from ...entropy_models.uniform_noise import ContextModel, UniformNoiseConditional
from ...fingerprint import Fingerprint
from ...integer.arithmetic import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    WEIGHT_BITS,
    IntegerNetwork,
    activate,
    check_sums,
    rounded_shift,
    row_chunks,
)
from ...quantization.lattice import LATTICE
from ...settings import exact_floats

__all__ = ["ContextConditional", "ContextPrior"]

INPUTS = 9  # three colour channels of two residuals and the log scale
WIDTH = 16  # hidden channels
KERNEL = 5

INPUT_BITS, INPUT_MAX = 6, 255
"""Fractional bits of inputs, and their largest magnitude."""

SHIFT_MAX = 8.0  # bound of the location's shift, in units of the noise's width
LOG_SCALE_MAX = 2.0  # bound of the change of the logarithm (base 2) of the scale

REFITTED_FROM = 2048
"""Values of a group whose last layer may be refitted. For fewer it hardly ever pays, and
that it does not would have to be sent."""

_TABLE_BITS = 12
_SUM_BITS = HIDDEN_BITS + WEIGHT_BITS  # fractional bits of outputs


class ContextPrior(IntegerNetwork):
    r"""The context network of one stage.

    .. code-block:: none

        residuals, decoded so far ─┐  5x5 conv         1x1         1x1
        log scales, all channels ──┴────────► 16 ReLU ────► 16 ReLU ───┬► log scale change
                                        └───────────── linear ─────────┴► location shift

    Residuals come twice, as they are and divided by the standard deviation that the
    prior gives them; the shift is multiplied by that of its value. Every group has
    weights of its own. Where nothing is decoded yet, and outside the image, residuals
    are 0.

    Attributes:
        conv: weights of the convolution, ``[12, 16 + 1, 9, 5, 5]``, int32; the last
            output is the linear path.
        conv_bias: ``[12, 16 + 1]``.
        mix, mix_bias: weights of the second layer, ``[12, 16, 16]`` and ``[12, 16]``.
        head, head_bias: weights of the outputs, ``[12, 2, 16]`` and ``[12, 2]``.
    """

    conv: Tensor
    conv_bias: Tensor
    mix: Tensor
    mix_bias: Tensor
    head: Tensor
    head_bias: Tensor

    def __init__(self) -> None:
        super().__init__(shapes())

    def check(self) -> None:
        check_sums("conv", (self.conv.flatten(2), INPUT_MAX), bias=self.conv_bias)
        check_sums("mix", (self.mix, HIDDEN_MAX), bias=self.mix_bias)
        check_sums("head", (self.head, HIDDEN_MAX), bias=self.head_bias)

    def fractional_bits(self, name: str) -> int:
        if name.endswith("bias"):
            return WEIGHT_BITS + (INPUT_BITS if name == "conv_bias" else HIDDEN_BITS)
        return WEIGHT_BITS

    def forward(self, inputs: np.ndarray, g: int) -> tuple[np.ndarray, np.ndarray]:
        """Run the network at the values of one group.

        Args:
            inputs: residuals and log scales as of :class:`ContextTables`, with a border
                of two zeros all around, ``[9, H + 4, W + 4]``, float32.
            g: number of the group.

        Returns:
            hidden activations, int16, ``[16, h, w]`` of the group; and the shift in units
            of the standard deviation and the change of the log scale, int64 with 15
            fractional bits, ``[2, h, w]``.
        """
        _, (row, column) = CODING_ORDER[g]
        plane = torch.from_numpy(inputs)[None, :, row:, column:]
        weights = [buffer[g].cpu().float() for buffer in self.buffers()]
        with exact_floats():
            hidden, out = self._run(plane, *weights)
        return hidden.numpy(), out.numpy()

    @staticmethod
    def _run(
        plane: Tensor,
        conv: Tensor,
        conv_bias: Tensor,
        mix: Tensor,
        mix_bias: Tensor,
        head: Tensor,
        head_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        seen, outputs = [], []
        height, width = ((side - KERNEL) // 2 + 1 for side in plane.shape[2:])
        for rows in row_chunks(height, width):
            band = plane[:, :, 2 * rows.start : 2 * (rows.stop - 1) + KERNEL]
            sums = F.conv2d(band, conv, conv_bias, stride=2)[0]
            hidden = activate(sums[:-1], INPUT_BITS + WEIGHT_BITS).flatten(1)
            hidden = torch.addmm(mix_bias[:, None], mix, hidden)
            hidden = activate(hidden, HIDDEN_BITS + WEIGHT_BITS)
            out = torch.addmm(head_bias[:, None], head, hidden).to(torch.int64)
            out = out.reshape(2, *sums.shape[1:])
            out[0] += sums[-1].to(torch.int64) << (HIDDEN_BITS - INPUT_BITS)
            outputs.append(out)
            seen.append(hidden.to(torch.int16).reshape(WIDTH, *sums.shape[1:]))
        return torch.cat(seen, 1), torch.cat(outputs, 1)


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a context network."""
    n = len(CODING_ORDER)
    return {
        "conv": (n, WIDTH + 1, INPUTS, KERNEL, KERNEL),
        "conv_bias": (n, WIDTH + 1),
        "mix": (n, WIDTH, WIDTH),
        "mix_bias": (n, WIDTH),
        "head": (n, 2, WIDTH),
        "head_bias": (n, 2),
    }


class ContextTables:
    """Integer tables, by entry of the scale table, for what surrounds the network.

    Args:
        scale_table: standard deviations of the prior, ascending, float32.
    """

    def __init__(self, scale_table: Tensor):
        scales = scale_table.cpu().numpy().astype(np.float64)
        self.deviation = np.sqrt(scales * scales + 1 / 12)  # with the uniform noise
        one = 1 << INPUT_BITS
        unit = (one << _TABLE_BITS) / LATTICE
        self._inverse = np.rint(unit / self.deviation).astype(np.int32)
        self._points = np.rint(LATTICE * self.deviation * 256).astype(np.int64)
        log_scales = np.rint(np.log2(scales) * one)
        self._log_scales = log_scales.clip(-INPUT_MAX, INPUT_MAX).astype(np.float32)
        per_entry = math.log2(scales[-1] / scales[0]) / (len(scales) - 1)
        self._entries = round(2**8 / per_entry)
        self._last = len(scales) - 1
        self._log_logistic = np.log(scales * (math.sqrt(3) / math.pi))

    def residuals(self, residual: np.ndarray, indexes: np.ndarray) -> np.ndarray:
        """Residuals k N - j as inputs, in units of their deviation and of 2 Delta."""
        # no product reaches 2^31
        scaled = residual.clip(-(1 << 16), 1 << 16) * self._inverse[indexes]
        normalized = rounded_shift(scaled, _TABLE_BITS)
        inputs = np.stack([normalized, residual]).clip(-INPUT_MAX, INPUT_MAX)
        return inputs.astype(np.float32)

    def log_scales(self, indexes: np.ndarray) -> np.ndarray:
        """Logarithms of scales as inputs."""
        return self._log_scales[indexes]

    def apply(
        self, outputs: np.ndarray, indexes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of :class:`ContextPrior` as lattice points d and new indexes."""
        shift, change = outputs
        d = rounded_shift(shift * self._points[indexes], _SUM_BITS + 8)
        limit = int(SHIFT_MAX * LATTICE)
        largest = int(LOG_SCALE_MAX * (1 << _SUM_BITS))
        entries = change.clip(-largest, largest) * self._entries
        index = indexes + rounded_shift(entries, _SUM_BITS + 8)
        return (
            d.clip(-limit, limit).astype(np.int32),
            index.clip(0, self._last).astype(np.uint8),
        )

    def cells(
        self,
        residual: np.ndarray,
        outputs: np.ndarray,
        indexes: np.ndarray,
    ) -> head_adaptation.CodingTargets:
        """Values, ``[m]``, as the network places them, in units of the noise's width.

        G counts as logistic, of its deviation, for all that they serve is a fit.
        """
        values = torch.from_numpy(residual / LATTICE)
        units = torch.from_numpy(self.deviation[indexes])
        log_scales = torch.from_numpy(self._log_logistic[indexes])
        move, log_factor = torch.from_numpy(outputs).double() / (1 << _SUM_BITS)
        log_unit = math.log(2)
        return head_adaptation.CodingTargets(
            below=values - 0.5,
            above=values + 0.5,
            known=None,
            locations=move * units,
            units=units,
            log_scales=log_scales + log_factor * log_unit,
            log_unit=log_unit,
            limits=(-SHIFT_MAX, SHIFT_MAX),
        )


class PictureContext(ContextModel):
    """The context model of one stage of one picture."""

    def __init__(self, indexes: np.ndarray, context: ContextPrior, tables: ContextTables):
        super().__init__(indexes)
        # all groups run on the CPU, wherever the denoiser does
        self.context, self.tables = copy.deepcopy(context).cpu(), tables
        border = KERNEL // 2
        sides = (side + 2 * border for side in indexes.shape[1:])
        self._inputs = np.zeros((INPUTS, *sides), np.float32)
        inside = self._inputs[:, border:-border, border:-border]
        self._normalized, self._residuals = inside[:3], inside[3:6]
        inside[6:] = tables.log_scales(indexes)

    def entropy_parameters(
        self, coder: SymbolCoder, g: int, residual: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        indexes = subset(self.indexes, g)
        if not indexes.size:
            return super().entropy_parameters(coder, g, residual)
        hidden, out = (a.reshape(len(a), -1) for a in self.context(self._inputs, g))
        i, steps = indexes.reshape(-1), None
        if len(i) >= REFITTED_FROM:
            if residual is not None:
                some = slice(None, None, every := head_adaptation.stride(len(i)))
                cells = self.tables.cells(residual.reshape(-1)[some], out[:, some], i[some])
                steps = head_adaptation.adapt_head(hidden[:, some], cells, every)
            steps, all_there = head_adaptation.code(coder, steps, WIDTH)
            if all_there:
                out += head_adaptation.head_delta(steps, hidden, _SUM_BITS)
        d, i = self.tables.apply(out, i)
        return d.reshape(indexes.shape), i.reshape(indexes.shape)

    def on_decoded(self, g: int, residual: np.ndarray) -> None:
        indexes = subset(self.indexes, g)
        normalized, as_it_is = self.tables.residuals(residual, indexes)
        subset(self._normalized, g)[...] = normalized
        subset(self._residuals, g)[...] = as_it_is


class ContextConditional(UniformNoiseConditional):
    """A :class:`UniformNoiseConditional` that sees what is decoded of its stage.

    The values and their noise are the same; only their prior is another. Before
    :meth:`update` there is no scale table and the context stays out. What is sent of a
    network's last layer is shared among the likelihoods of its group.

    Args:
        prior_type: G, ``"logistic"`` or ``"normal"``.
        context: the network, by default one that corrects nothing.
    """

    def __init__(self, prior_type: str = "logistic", context: ContextPrior | None = None):
        super().__init__(prior_type)
        self.context = context or ContextPrior()

    def likelihoods(self, outputs: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """As of :class:`UniformNoiseConditional`, ``[B, 3, H, W]``."""
        if not self.has_tables:
            return super().likelihoods(outputs, scales, means)
        indexes = self.build_indexes(scales.detach())
        residuals = ((outputs - means).detach() * LATTICE).round().to(torch.int32)
        table = self.scale_table.double().log()
        shifts, ratios = torch.zeros_like(means), torch.ones_like(scales)
        of_layer = torch.ones_like(scales)
        for b in range(len(outputs)):
            i, r = indexes[b].cpu().numpy(), residuals[b].cpu().numpy()
            context, rate = self.context_model(i), RateEstimator()
            d, i_d, p = np.zeros_like(r), i.copy(), np.ones(r.shape)
            for g in range(len(CODING_ORDER)):
                r_g = subset(r, g)
                if not r_g.size:
                    continue
                subset(d, g)[...], subset(i_d, g)[...] = context.entropy_parameters(
                    rate, g, r_g
                )
                context.on_decoded(g, r_g)
                subset(p, g)[...] = np.exp(np.log(rate.take()).sum() / r_g.size)
            shifts[b] = torch.from_numpy(d).to(means) / LATTICE
            change = table[torch.from_numpy(i_d).long()] - table[indexes[b].cpu().long()]
            ratios[b] = change.exp().to(scales)
            of_layer[b] = torch.from_numpy(p)
        return self.likelihood(outputs, scales * ratios, means + shifts) * of_layer

    def fingerprint(self) -> Fingerprint:
        yield from super().fingerprint()
        for name, weight in self.context.fingerprint():
            yield f"context.{name}", weight
        yield "steps", steps_tables().astype(np.int64)

    def context_model(self, indexes: np.ndarray) -> PictureContext:
        return PictureContext(indexes, self.context, ContextTables(self.scale_table))
