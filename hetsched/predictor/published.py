"""The architecture of MoE-Beyond (arXiv 2508.17137): an encoder over tokens, asked for one layer at a time.

A token's vector (2048 numbers) and the layer's embedding (512) go through a linear map to 512, four encoder layers of
eight heads and 2048 inner units, and a linear map to a sigmoid for every expert. About 14 million weights.

The paper gives it the router's own input of the same layer, and lets it see later tokens. Under the protocol `honest`
the vector is the layer's before, attention is causal, and ids alone will do: their embeddings, of the layer before in
this token and of the same layer in the token before, stand for the vector. `published` needs hidden states.

Shapes: S sequences, W tokens, L layers, E experts, D numbers of a vector, C numbers inside the encoder.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ..traces.split import sequence_starts
from ..traces.trace import RoutingTrace
from .means import one_hot

VECTOR, LAYER_VECTOR, INNER, HEADS, FFN, ENCODERS = 2048, 512, 512, 8, 2048, 4
CONTEXT = 128  # tokens of a sequence that are seen at once
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01
PROTOCOLS = ("honest", "published")


class PublishedNet(torch.nn.Module):
    """The encoder. `hidden`: numbers of a hidden state, 0 for ids; `inner`: numbers inside (smaller in tests)."""

    learning_rate, weight_decay = LEARNING_RATE, WEIGHT_DECAY

    def __init__(
        self, layers: int, experts: int, *, hidden: int = 0, inner: int = INNER, seed: int = 0, protocol: str = "honest"
    ) -> None:
        super().__init__()
        self.layers, self.hidden, self.causal = layers, hidden, protocol == "honest"
        scale = inner / INNER
        vector, ffn = hidden or int(VECTOR * scale), int(FFN * scale)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer_embedding = torch.nn.Embedding(layers, int(LAYER_VECTOR * scale))
            if not hidden:
                self.ids_LFD = torch.nn.Parameter(torch.randn(layers, 2 * experts, vector))
            self.into = torch.nn.Linear(vector + int(LAYER_VECTOR * scale), inner)
            encoder = torch.nn.TransformerEncoderLayer(inner, HEADS, ffn, dropout=0.0, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(encoder, ENCODERS, enable_nested_tensor=False)
            self.out = torch.nn.Linear(inner, experts)

    def forward(self, vectors_SWD: torch.Tensor, layer_S: torch.Tensor, real_SW: torch.Tensor) -> torch.Tensor:
        """Logits [S, W, E] of one layer for each sequence; places that are not `real_SW` are seen by none."""
        embedded = self.layer_embedding(layer_S)[:, None].expand(-1, vectors_SWD.shape[1], -1)
        x_SWC = self.into(torch.cat([vectors_SWD, embedded], dim=-1))
        mask = torch.ones(x_SWC.shape[1], x_SWC.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        seen_SWC = self.encoder(x_SWC, mask=mask, src_key_padding_mask=~real_SW, is_causal=self.causal)
        logits_SWE: torch.Tensor = self.out(seen_SWC)
        return logits_SWE

    def logits(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits [S, W, E] of a batch of PublishedBatches."""
        vectors, layer_S, real_SW = batch[1:]
        if not self.hidden:
            vectors = torch.bmm(vectors, self.ids_LFD[layer_S])
        return self.forward(vectors, layer_S, real_SW)

    def loss(self, batch: tuple[torch.Tensor, ...], random: np.random.Generator) -> torch.Tensor:
        """Cross-entropy over the real places, the paper's masked loss."""
        return self.score(batch)

    def score(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The same."""
        real = batch[3]
        return binary_cross_entropy_with_logits(self.logits(batch)[real], batch[0][real])


class PublishedBatches:
    """Pieces of sequences, one layer each, of `spans` of tokens; `batch(pieces)` as PublishedNet.logits takes them."""

    size = 4  # pieces of a batch

    def __init__(self, trace: RoutingTrace, *, hidden: bool, protocol: str = "honest") -> None:
        self._trace, self._hidden, self._protocol = trace, hidden, protocol
        starts_S = sequence_starts(trace)
        runs = [
            (first, min(first + CONTEXT, int(end)))
            for begin, end in pairwise(starts_S)
            for first in range(int(begin), int(end), CONTEXT)
        ]
        self.pieces = [(first, end, layer) for first, end in runs for layer in range(trace.num_layers)]
        self.spans = np.array([piece[:2] for piece in self.pieces])

    def batch(self, pieces: Any) -> tuple[torch.Tensor, ...]:
        """Chosen [S, W, E], vectors or counts of ids, layers [S], and which places are real [S, W]."""
        taken = [self.pieces[int(i)] for i in pieces]
        longest = max(end - first for first, end, _ in taken)
        chosen = np.zeros((len(taken), longest, self._trace.num_experts), np.float32)
        real = np.zeros((len(taken), longest), bool)
        vectors = []
        for s, (first, end, layer) in enumerate(taken):
            chosen[s, : end - first] = one_hot(self._trace.experts_TLK[first:end, layer, None], chosen.shape[2])[:, 0]
            real[s, : end - first] = True
            vector_WD = self._vectors(first, end, layer)
            vectors.append(np.pad(vector_WD, ((0, longest - len(vector_WD)), (0, 0))))
        layer_S = torch.tensor([layer for _, _, layer in taken])
        return torch.from_numpy(chosen), torch.from_numpy(np.stack(vectors)), layer_S, torch.from_numpy(real)

    def _vectors(self, first: int, end: int, layer: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What is told of each token: a hidden state, or shares of ids [W, 2E] of the layer and the token before."""
        trace = self._trace
        source = layer if self._protocol == "published" else layer - 1
        if self._hidden:
            assert trace.hidden_TLH is not None
            known = trace.hidden_TLH[first:end, max(source, 0)].astype(np.float32)
            return known if source >= 0 else np.zeros_like(known)
        here_WE = one_hot(trace.experts_TLK[first:end, max(source, 0), None], trace.num_experts)[:, 0]
        same_WE = one_hot(trace.experts_TLK[first:end, layer, None], trace.num_experts)[:, 0]
        earlier_WE = np.concatenate([np.zeros_like(same_WE[:1]), same_WE[:-1]])
        told_WF = np.concatenate([here_WE * (source >= 0), earlier_WE], axis=1) / trace.top_k
        return told_WF.astype(np.float32)
