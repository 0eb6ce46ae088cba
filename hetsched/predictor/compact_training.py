"""The compact predictor in torch: the same formulas as its kernels, for batches of windows of tokens.

Shapes: B windows, W tokens of a window, N = B * W, L layers, E experts, H width of the network, D numbers of a hidden
state of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ..traces.trace import RoutingTrace
from .compact import CHOSEN, LATELY, OWN, REACH, SLOWLY, Compact
from .means import FAST_ROW, MEAN_ROW, SLOW_ROW, WINDOW, one_hot, powers, rates_3T, window_starts

LEAST = 1e-3  # probabilities in log-odds are held between this and one less it, as in the kernels
LOSS_WEIGHTS = (1.0, 0.5, 0.25)  # of the next layer, of one further ahead, of a token of which nothing is known
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05


class CompactNet(torch.nn.Module):
    """A Compact as parameters of the same names."""

    learning_rate, weight_decay = LEARNING_RATE, WEIGHT_DECAY
    embed_4LEH: torch.Tensor
    across_LHH: torch.Tensor
    unseen_LH: torch.Tensor
    before_LH: torch.Tensor
    offset_LH: torch.Tensor
    out_LHE: torch.Tensor
    bias_LE: torch.Tensor
    weight_L3: torch.Tensor
    hidden_LDH: torch.Tensor

    def __init__(self, numbers: Compact) -> None:
        super().__init__()
        for name, array in numbers._asdict().items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(array.copy())))

    def loss(self, batch: tuple[torch.Tensor, ...], random: np.random.Generator) -> torch.Tensor:
        """Cross-entropy of forecasts at three distances, one of them drawn."""
        chosen_NLE = batch[0]
        token_LNH = self._tokens(*batch)
        further = int(random.integers(2, REACH + 1))
        total = torch.zeros(())
        for weight, distance in zip(LOSS_WEIGHTS, (1, further, 0), strict=True):
            logits_NLE = self._logits(batch, self._ahead(token_LNH, distance))
            total = total + weight * binary_cross_entropy_with_logits(logits_NLE, chosen_NLE)
        return total

    def score(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Cross-entropy of the next layer's forecast, for validation."""
        logits_NLE = self._logits(batch, self._ahead(self._tokens(*batch), 1))
        return binary_cross_entropy_with_logits(logits_NLE, batch[0])

    def _tokens(
        self, chosen_NLE: torch.Tensor, means_3NLE: torch.Tensor, hidden_NLD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """h before every layer, with everything known of the layers before, [L, N, H]."""
        chosen_LNH = torch.bmm(chosen_NLE.transpose(0, 1), self.embed_4LEH[CHOSEN])
        if hidden_NLD is not None:
            chosen_LNH = chosen_LNH + torch.bmm(hidden_NLD.transpose(0, 1), self.hidden_LDH)
        flat = -1, chosen_LNH.shape[2]
        token_NH = means_3NLE[FAST_ROW].flatten(1) @ self.embed_4LEH[LATELY].reshape(flat)
        token_NH = token_NH + means_3NLE[SLOW_ROW].flatten(1) @ self.embed_4LEH[SLOWLY].reshape(flat)
        before = [token_NH]
        for l in range(len(chosen_LNH) - 1):
            before.append(torch.addmm(chosen_LNH[l], before[-1], self.across_LHH[l]))
        return torch.stack(before)

    def _ahead(self, token_LNH: torch.Tensor, distance: int) -> torch.Tensor:
        """What stands for h before every layer when the layers known of end so far before it; 0: when none is."""
        unknown_LNH = self.before_LH[:, None].expand_as(token_LNH)
        ahead_LNH = token_LNH
        for _ in range(1, distance):
            ahead_LNH = torch.baddbmm(self.unseen_LH[:-1, None], ahead_LNH[:-1], self.across_LHH[:-1])
            ahead_LNH = torch.cat([unknown_LNH[:1], ahead_LNH])
        known = max(distance, 1)
        return unknown_LNH if distance == 0 else torch.cat([unknown_LNH[:known], ahead_LNH[known:]])

    def _logits(self, batch: tuple[torch.Tensor, ...], token_LNH: torch.Tensor) -> torch.Tensor:
        means_3NLE = batch[1]
        fast_LNH = torch.bmm(means_3NLE[FAST_ROW].transpose(0, 1), self.embed_4LEH[OWN])
        hidden_LNH = torch.relu(token_LNH + fast_LNH + self.offset_LH[:, None])
        own_NLE = self.bias_LE.expand_as(means_3NLE[0])
        for i, row in enumerate((MEAN_ROW, SLOW_ROW, FAST_ROW)):
            own_NLE = own_NLE + self.weight_L3[:, i, None] * torch.logit(means_3NLE[row], eps=LEAST)
        return own_NLE + torch.bmm(hidden_LNH, self.out_LHE).transpose(0, 1)


class CompactBatches:
    """Windows of a trace, of `spans` of tokens; `batch(windows)` gives chosen, means and hidden states."""

    size = 4  # windows of a batch

    def __init__(self, trace: RoutingTrace, *, hidden: bool) -> None:
        self._trace, self._hidden = trace, hidden
        self._starts = window_starts(trace.experts_TLK, trace.num_experts)
        first_B = WINDOW * np.arange(len(self._starts))
        self.spans = np.stack([first_B, first_B + WINDOW], axis=1)

    def batch(self, windows: Any) -> tuple[torch.Tensor, ...]:
        """Chosen [N, L, E], means before each token [3, N, L, E], and hidden states [N, L, D] if they are asked for."""
        parts = [self._window(int(b)) for b in windows]
        chosen, means, *hidden = (list(column) for column in zip(*parts, strict=True))
        return torch.cat(chosen), torch.cat(means, dim=1), *(torch.cat(column) for column in hidden)

    def _window(self, b: int) -> tuple[torch.Tensor, ...]:
        part = slice(b * WINDOW, (b + 1) * WINDOW)
        chosen_WLE = one_hot(self._trace.experts_TLK[part], self._trace.num_experts)
        kept_3W, moved_3WW = powers(rates_3T(part.start, WINDOW))
        start_3LE = self._starts[b].astype(np.float32)
        earlier_WF = chosen_WLE.reshape(WINDOW, -1)[:-1]
        inside_3VF = moved_3WW[:, :-1, :-1] @ earlier_WF  # after each token but the last
        means = np.empty((3, *chosen_WLE.shape), np.float32)
        means[:, 0] = start_3LE
        means[:, 1:] = kept_3W[:, :-1, None, None] * start_3LE[:, None] + inside_3VF.reshape(means[:, 1:].shape)
        made = torch.from_numpy(chosen_WLE), torch.from_numpy(means)
        if not self._hidden:
            return made
        assert self._trace.hidden_TLH is not None
        return *made, torch.from_numpy(self._trace.hidden_TLH[part].astype(np.float32))
