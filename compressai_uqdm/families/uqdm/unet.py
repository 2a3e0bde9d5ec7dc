"""The published denoiser, a U-Net whose levels all have full resolution.

It follows Kingma et al., "Variational Diffusion Models" (arXiv 2107.00630). Module names
are those of the published weights.
"""

import functools
import math

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...checks import check_choice, check_count, check_number
from ...fingerprint import Fingerprint
from .denoiser import DenoiserConfig
from .diffusion import DiffusionConfig
from .windowed import WindowedDenoiser

__all__ = ["UNet", "UNetConfig"]

# in single precision, whatever PyTorch's default type is
Conv2d = functools.partial(nn.Conv2d, dtype=torch.float32)
GroupNorm = functools.partial(nn.GroupNorm, dtype=torch.float32)
Linear = functools.partial(nn.Linear, dtype=torch.float32)


@dataclass(frozen=True)
class UNetConfig(DenoiserConfig):
    """Configuration of a :class:`UNet`, by default that of ``uqdm-tiny``.

    Names and values are those of the published ``config.json``.

    Args:
        attention_everywhere: whether every block has attention, or only the middle.
        use_fourier_features: append sines and cosines of the input.
        n_attention_heads: heads of each attention block.
        n_channels: colour channels, C.
        embedding_dim: D, the width of the network.
        n_blocks: blocks on the way down; there is one more on the way up.
        norm_groups: groups of every group normalization.
        dropout_prob: dropout probability in residual blocks.
        overlap: overlap of neighbouring 64x64 windows of an image, in pixels, 0..32; the
            published files do not contain it.

    Raises:
        ValueError: a value is out of range.
    """

    family: str = "vdm_unet"
    attention_everywhere: bool = False
    use_fourier_features: bool = True
    n_attention_heads: int = 1
    n_channels: int = 3
    embedding_dim: int = 32
    n_blocks: int = 1
    norm_groups: int = 8
    dropout_prob: float = 0.0
    overlap: int = 16

    def __post_init__(self) -> None:
        check_choice(self, "family", ("vdm_unet",))
        for name in ("n_attention_heads", "n_blocks", "norm_groups", "embedding_dim"):
            check_count(self, name)
        check_count(self, "n_channels", 3, 3)
        check_count(self, "overlap", 0, 32)
        check_number(self, "dropout_prob")
        D = self.embedding_dim
        if D < 2 or D % 2 or D % self.norm_groups or D % self.n_attention_heads:
            raise ValueError(
                "embedding_dim must be even and a multiple of norm_groups "
                f"({self.norm_groups}) and n_attention_heads "
                f"({self.n_attention_heads}), got {D}"
            )
        if not 0 <= self.dropout_prob < 1:
            raise ValueError(f"dropout_prob must be in [0, 1), got {self.dropout_prob}")

    def build(self, diffusion: DiffusionConfig) -> "UNet":
        return UNet(self, diffusion)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, conditioned on the time."""

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig):
        super().__init__()
        groups, dropout = config.norm_groups, config.dropout_prob
        self.net1 = nn.Sequential(
            GroupNorm(groups, in_channels),
            nn.SiLU(),
            Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.cond_proj = Linear(4 * config.embedding_dim, out_channels, bias=False)
        self.net2 = nn.Sequential(
            GroupNorm(groups, out_channels),
            nn.SiLU(),
            *([nn.Dropout(dropout)] if dropout > 0 else []),
            Conv2d(out_channels, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.cond_proj.weight)
        _init_zero(self.net2[-1])
        if in_channels != out_channels:
            self.skip_conv = Conv2d(in_channels, out_channels, 1)

    def forward(self, h: Tensor, cond: Tensor) -> Tensor:
        skip = self.skip_conv(h) if hasattr(self, "skip_conv") else h
        h = self.net1(h) + self.cond_proj(cond)[:, :, None, None]
        return skip + self.net2(h)


class AttentionBlock(nn.Module):
    """Softmax attention over all positions of the window."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        D = config.embedding_dim
        self.n_heads = config.n_attention_heads
        self.layers = nn.Sequential(
            GroupNorm(config.norm_groups, D),
            Conv2d(D, 3 * D, 1),
            nn.Identity(),  # in place of the attention, for the published layer indexes
            Conv2d(D, D, 1),
        )
        _init_zero(self.layers[-1])

    def forward(self, h: Tensor) -> Tensor:
        B, D, H, W = h.shape
        qkv = self.layers[1](self.layers[0](h))
        # B, 3 D, H, W -> B, positions, 3, heads, D / heads: free in channels-last
        qkv = qkv.permute(0, 2, 3, 1).reshape(B, H * W, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)  # B, heads, positions, D / heads
        out = out.transpose(1, 2).reshape(B, H, W, D).permute(0, 3, 1, 2)
        return h + self.layers[3](out)


class Block(nn.Module):
    """A residual block, followed by attention if the configuration has it everywhere."""

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig):
        super().__init__()
        self.resnet_block = ResnetBlock(in_channels, out_channels, config)
        if config.attention_everywhere:
            self.attention_block = AttentionBlock(config)

    def forward(self, h: Tensor, cond: Tensor) -> Tensor:
        h = self.resnet_block(h, cond)
        return self.attention_block(h) if hasattr(self, "attention_block") else h


class UNet(WindowedDenoiser):
    r"""Predicts the noise in a latent, and the scale of the next latent's prior.

    .. code-block:: none

        z ─► fourier ─► conv_in ─► down_blocks ─► mid ─► up_blocks ─► conv_out ─► eps_hat
                                    │ n_blocks     ▲      ▲ n_blocks + 1        scale_factor
                                    └─── skips ────│──────┘
        gamma ─► sinusoids ─► embed_conditioning ──┴─ into every residual block

    Args:
        config: configuration of the network.
        diffusion: configuration of the diffusion.
    """

    def __init__(self, config: UNetConfig, diffusion: DiffusionConfig):
        super().__init__(config.overlap)
        self.config, self.diffusion = config, diffusion
        D, C = config.embedding_dim, config.n_channels
        self.embed_conditioning = nn.Sequential(
            Linear(D, 4 * D), nn.SiLU(), Linear(4 * D, 4 * D), nn.SiLU()
        )
        in_channels = C * 5 if config.use_fourier_features else C
        self.conv_in = Conv2d(in_channels, D, 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Block(D, D, config) for _ in range(config.n_blocks)
        )
        self.mid_resnet_block_1 = ResnetBlock(D, D, config)
        self.mid_attn_block = AttentionBlock(config)
        self.mid_resnet_block_2 = ResnetBlock(D, D, config)
        self.up_blocks = nn.ModuleList(
            Block(2 * D, D, config) for _ in range(config.n_blocks + 1)
        )
        self.conv_out = nn.Sequential(
            GroupNorm(config.norm_groups, D),
            nn.SiLU(),
            Conv2d(D, 2 * C if diffusion.learned_prior_scale else C, 3, padding=1),
        )
        _init_zero(self.conv_out[-1])

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def denoise_windows(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        cond = self.embed_conditioning(self._embed_time(gamma).type_as(z))
        h = torch.cat([z, _fourier(z)], 1) if self.config.use_fourier_features else z
        h = self.conv_in(h.contiguous(memory_format=torch.channels_last))

        skips = []
        for block in self.down_blocks:
            skips.append(h)
            h = self._run(block, h, cond)
        skips.append(h)
        h = self._run(self.mid_resnet_block_1, h, cond)
        h = self._run(self.mid_attn_block, h)
        h = self._run(self.mid_resnet_block_2, h, cond)
        for block in self.up_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], 1), cond)
        h = self.conv_out(h)

        if not self.diffusion.learned_prior_scale:
            return h + z, torch.ones_like(z)
        eps, rest = h.chunk(2, 1)
        return eps + z, F.softplus(rest + math.log(math.e - 1))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _embed_time(self, gamma: Tensor) -> Tensor:
        # sines, then cosines, of 1000 t at D / 2 timescales: [1 or B, D]; the published
        # weights were trained with timescales in single precision
        low, high = self.diffusion.gamma_min, self.diffusion.gamma_max
        t = (gamma.double().reshape(-1, 1) - low) / (high - low)
        n = self.config.embedding_dim // 2
        exponents = torch.linspace(0, 4, n, dtype=torch.float64, device=gamma.device)
        angles = 1000 * t * (10**-exponents).float()
        return torch.cat([angles.sin(), angles.cos()], 1)

    def fingerprint(self) -> Fingerprint:
        # hyperparameters that the shapes of the weights do not determine
        for name in ("n_attention_heads", "norm_groups", "overlap", "use_fourier_features"):
            yield name, np.array(int(getattr(self.config, name)))
        yield "gamma", np.array([self.diffusion.gamma_min, self.diffusion.gamma_max])
        for name, weight in self.state_dict().items():
            yield name, weight.float().cpu().numpy()


def _fourier(z: Tensor) -> Tensor:
    # sines and cosines of z at 2 pi 2^n, n = 5, 6: [B, 4 C, H, W]
    angles = torch.cat([2 * math.pi * 2**n * z for n in (5, 6)], 1)
    return torch.cat([angles.sin(), angles.cos()], 1)


def _init_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
