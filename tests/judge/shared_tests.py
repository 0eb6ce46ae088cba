"""The tests that transformers' models share, on a tiny model of each judged architecture.

Collected by `python -m tests.judge` alone, which puts transformers' tests on the path as the package `theirs`. Pytest
makes a class of each test mixin; what their own tester of causal models gives to it, `Tester` gives here.
"""

from __future__ import annotations

import unittest
from typing import Any

import torch
import transformers
from theirs.test_modeling_common import ModelTesterMixin, ids_tensor
from transformers import PreTrainedConfig

from tests.architectures.tiny import tiny_config

from . import JUDGED


class Tester:
    """A tiny model's config and inputs: 2 sequences of 7 tokens."""

    batch_size, seq_length, is_training = 2, 7, True

    def __init__(self, kind: type[PreTrainedConfig]) -> None:
        self._kind = kind
        config = self.get_config()
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.num_hidden_layers
        self.num_attention_heads = config.num_attention_heads
        self.vocab_size = config.vocab_size

    def get_config(self) -> PreTrainedConfig:
        """The config."""
        return tiny_config(self._kind, {})

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        """The config, and what a forward pass takes."""
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _case(name: str) -> type[unittest.TestCase]:
    model = getattr(transformers, f"{name}Model")
    causal = getattr(transformers, f"{name}ForCausalLM")

    def set_up(self: Any) -> None:
        self.model_tester = Tester(model.config_class)

    known = {
        "all_model_classes": (model, causal),
        "pipeline_model_mapping": {},
        "test_all_params_have_gradient": False,  # experts that no token was routed to have none
        "setUp": set_up,
    }
    return type(f"Test{name}", (ModelTesterMixin, unittest.TestCase), known)


globals().update({f"Test{name}": _case(name) for name in JUDGED})
