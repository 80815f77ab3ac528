"""What stands where pruning took a layer out, or made it narrower than its class can express.

Imported inside functions only, as torch is.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253  (these are torch modules)
import torch.nn.functional as F  # noqa: N812, TID253  (its usual name)
from torch import nn  # noqa: TID253


class Passed(nn.Module):
    """Where a whole block was: answers its first input.

    returns: 0 where the block answered one tensor; else the length of its tuple, whose other items
    are None.
    """

    def __init__(self, returns: int) -> None:
        super().__init__()
        self.returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's input, in the form of the block's answer."""
        first = args[0] if args else next(iter(kwargs.values()))
        return (first, *[None] * (self.returns - 1)) if self.returns else first


class NarrowAttention(nn.Module):
    """`nn.MultiheadAttention` with fewer heads of the same size: its width is theirs, not E.

    The weights keep their names: in_proj_weight (3 · heads · size, E), in_proj_bias, and out_proj
    (heads · size → E). Answers (output, None): weights averaged over heads are not computed.
    """

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = whole.embed_dim, whole.num_heads
        self.head_dim, self.dropout = whole.head_dim, whole.dropout
        self.batch_first = whole.batch_first
        # nn.TransformerEncoderLayer asks for this before its fused path, which knows no narrow one.
        self._qkv_same_embed_dim = False
        self.in_proj_weight = whole.in_proj_weight
        self.in_proj_bias = whole.in_proj_bias
        self.out_proj = whole.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """(batch, length, E) each, or (length, batch, E) unless batch_first."""
        given = (query, key, value)
        if not self.batch_first:
            given = (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
        inner = self.num_heads * self.head_dim
        biases = self.in_proj_bias
        q, k, v = (
            F.linear(
                each,
                self.in_proj_weight[part * inner : (part + 1) * inner],
                None if biases is None else biases[part * inner : (part + 1) * inner],
            )
            .view(each.shape[0], each.shape[1], self.num_heads, self.head_dim)
            .transpose(1, 2)
            for part, each in enumerate(given)
        )
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_bias(attn_mask, key_padding_mask, q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None


def _bias(
    mask: torch.Tensor | None, padding: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """What is added to the scores (batch, heads, L, S): a true value of a mask hides a place."""
    parts = []
    if mask is not None:
        parts.append(_added(mask, dtype))
    if padding is not None:
        parts.append(_added(padding, dtype)[:, None, None, :])
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
