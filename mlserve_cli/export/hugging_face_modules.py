"""Modules around a Hugging Face network: tensors in by name, and a dict of tensors out.

They are made inside functions, since torch is imported nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError, first_line

if TYPE_CHECKING:
    import torch

    from mlserve_cli.export.hugging_face_tasks import Module

_KEPT = ("logits", "last_hidden_state", "pooler_output")
"""Of what a network answers; hidden states and attentions of every layer are for research."""


def text(network: torch.nn.Module, *, shares: bool) -> torch.nn.Module:
    """Token ids (batch, sequence) → the network's outputs; with `shares`, sigmoids of its logits.

    That is for several labels at once, of which each is true or not by itself.
    """
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> dict[str, torch.Tensor]:
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                given["token_type_ids"] = token_type_ids
            answer = _kept(self.network(**given))
            return {"scores": answer["logits"].sigmoid()} if shares else answer

    return Text().eval()


def picture(network: torch.nn.Module) -> torch.nn.Module:
    """Pixels (batch, channels, height, width) → the network's outputs."""
    import torch

    class Picture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return _kept(self.network(pixel_values=pixel_values))

    return Picture().eval()


def sentence(network: torch.nn.Module, folder: Path, modules: Sequence[Module]) -> torch.nn.Module:
    """Token ids (batch, sequence) → "embedding" (batch, size): what sentence-transformers answers.

    Raises `DefinitionError` for a kind of pooling or of dense layer that is not known.
    """
    import torch

    modes = pooling_modes(folder / modules[1].path)
    after = [
        _dense(folder / module.path) if module.kind == "Dense" else None for module in modules[2:]
    ]

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.after = torch.nn.ModuleList(each for each in after if each is not None)

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> dict[str, torch.Tensor]:
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                given["token_type_ids"] = token_type_ids
            tokens = self.network(**given).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            value = torch.cat([_POOLED[mode](tokens, mask) for mode in modes], dim=-1)
            dense = iter(self.after)
            for each in after:
                value = next(dense)(value) if each is not None else _unit(value)
            return {"embedding": value}

    return Sentence().eval()


def pooling_modes(folder: Path) -> list[str]:
    """How tokens become one vector, by the names of sentence-transformers."""
    from mlserve_cli.export.hugging_face import CONFIG, read_json

    config = read_json(folder / CONFIG)
    named = config.get("pooling_mode")
    if named:
        found = [named] if isinstance(named, str) else list(named)
    else:
        found = [
            key.removeprefix("pooling_mode_")
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    known = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    modes = [known.get(each, each) for each in found]
    unknown = [each for each in modes if each not in _POOLED]
    if unknown or not modes:
        raise DefinitionError(
            f"'{folder / CONFIG}' pools by {', '.join(unknown) or 'nothing'}, "
            "which cannot be exported.",
            hint=f"it can be {', '.join(_POOLED)}",
        )
    order = list(_POOLED)
    return sorted(modes, key=order.index)  # the order in which sentence-transformers joins them


def _first(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0]


def _largest(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(mask == 0, -1e9).amax(1)


def _mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _mean_sqrt(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt()


_POOLED = {"cls": _first, "max": _largest, "mean": _mean, "mean_sqrt_len_tokens": _mean_sqrt}


def _unit(value: torch.Tensor) -> torch.Tensor:
    # As torch.nn.functional.normalize, whose floor is 1e-12.
    unit: torch.Tensor = value / value.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def _dense(folder: Path) -> torch.nn.Module:
    """A Dense part: a linear layer and its activation."""
    import torch

    from mlserve_cli.export.hugging_face import CONFIG, read_json

    config = read_json(folder / CONFIG)
    name = str(config.get("activation_function", "")).rpartition(".")[2]
    if name not in ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid"):
        raise DefinitionError(f"'{folder / CONFIG}' has the activation '{name}'.")
    try:
        from safetensors.torch import load_file

        linear = torch.nn.Linear(
            int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True))
        )
        weights = load_file(folder / "model.safetensors")
        linear.load_state_dict({key.removeprefix("linear."): weights[key] for key in weights})
    except Exception as error:  # a missing file or key, a shape that does not fit
        raise DefinitionError(
            f"the dense layer in '{folder}' cannot be read: {first_line(error)}.",
            hint="its weights must be safetensors",
        ) from error
    return torch.nn.Sequential(linear, getattr(torch.nn, name)())


def _kept(answer: Any) -> dict[str, torch.Tensor]:
    found = {name: answer[name] for name in _KEPT if answer.get(name) is not None}
    if "logits" in found:
        return {"logits": found["logits"]}
    return found
