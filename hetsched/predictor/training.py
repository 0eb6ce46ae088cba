"""Training a predictor on a trace: early stopping on sequences it does not learn from, scores on ones held out.

The same trace, options and seed give the same file, killed in between or not: the order of batches follows from the
seed and the epoch, and a checkpoint holds the rest. A limit in minutes ends that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..files import check_file
from ..traces.split import tokens
from ..traces.trace import RoutingTrace
from .checkpoint import Arrays, checkpoint_path, numbers_of, read_checkpoint, write_checkpoint
from .compact import WIDTH, untrained
from .compact_training import CompactBatches, CompactNet
from .evaluation import scored, shape_of
from .parts import FIT_SEQUENCES, Parts, parts, trace_digest
from .published import INNER, PublishedBatches, PublishedNet
from .store import Stored, save

CHECKPOINT_S = 30.0
SCORED_TOKENS = 2000  # held-out ones, for the scores in the file; 'hetsched predictor eval' takes all of them
WARM_UP = 100  # steps over which the learning rate rises
LATEST = 100_000  # tokens that are learned from at most, the last ones
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Options:
    """How to train. `width`: numbers inside the network, None for the architecture's own. `minutes`: of this run."""

    architecture: str = "compact"
    seed: int = 0
    epochs: int = 20
    patience: int = 3
    minutes: float | None = None
    fit_sequences: float = FIT_SEQUENCES
    hidden: bool = False
    protocol: str = "honest"
    width: int | None = None


def train(
    trace: RoutingTrace, path: str | Path, options: Options, progress: Progress = lambda done, total, text: None
) -> dict[str, Any]:
    """Train and write a predictor; its metadata. Unfinished work of the same arguments is gone on with.

    Raises InputError for a trace that is too short or lacks what the options need, or a place that cannot be written.
    """
    path = Path(path)
    check_file(path)
    _check(trace, options)
    divided = parts(trace, options.fit_sequences)
    training = Training(trace, divided, path, options)
    numbers, told = training.run(progress)
    meta = {**training.identity, "model": str(trace.meta.get("model", "")), "split_by": divided.by, "training": told}
    held_out = tokens(divided.held_out, slice(0, SCORED_TOKENS))
    figures = scored(path, Stored(meta, numbers), "learned", divided.fit, held_out, lambda done, total: None)
    meta["held_out"] = {name: figure for name, figure in figures.items() if name != "recall_by_layer"}
    save(path, meta, numbers)
    checkpoint_path(path).unlink(missing_ok=True)
    return meta


def _identity(trace: RoutingTrace, options: Options) -> dict[str, Any]:
    return {
        "architecture": options.architecture,
        "layers": trace.num_layers,
        "num_experts": trace.num_experts,
        "top_k": trace.top_k,
        "width": options.width or (WIDTH if options.architecture == "compact" else INNER),
        "hidden": trace.width if options.hidden else 0,
        "protocol": options.protocol,
        "seed": options.seed,
        "epochs": options.epochs,
        "patience": options.patience,
        "fit_sequences": options.fit_sequences,
        "trace": trace_digest(trace),
    }


class Training:
    """One training: its network, batches and place in the course of things. `identity`: what must be equal to go on."""

    def __init__(self, trace: RoutingTrace, divided: Parts, path: Path, options: Options) -> None:
        fit, validation = _latest(divided)
        self.options, self.path = options, path
        is_compact = options.architecture == "compact"
        self.identity = _identity(trace, options)
        width, hidden = self.identity["width"], self.identity["hidden"]
        self.net: Any
        self.batches: Any
        if is_compact:
            self.net = CompactNet(untrained(shape_of(trace), options.seed, width=width, hidden=hidden))
            self.batches = CompactBatches(fit, hidden=options.hidden)
        else:
            shape = trace.num_layers, trace.num_experts
            self.net = PublishedNet(*shape, hidden=hidden, inner=width, seed=options.seed, protocol=options.protocol)
            self.batches = PublishedBatches(fit, hidden=options.hidden, protocol=options.protocol)
        spans = self.batches.spans
        self.learned, self.stopping = (
            np.flatnonzero(m) for m in (spans[:, 1] <= validation, spans[:, 0] >= validation)
        )
        if not (len(self.learned) and len(self.stopping)):
            raise InputError(
                f"{fit.num_tokens} tokens are too few to learn from and to stop by; record more, or raise the share "
                "that is learned from (--fit-sequences)"
            )
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=self.net.learning_rate, weight_decay=self.net.weight_decay
        )
        self.at: dict[str, Any] = {"steps": 0, "best_epoch": 0, "best_score": math.inf}
        self.best: Arrays = {}

    def run(self, progress: Progress) -> tuple[Arrays, dict[str, Any]]:
        """Train to the end, or until nothing gets better or time is up: the best numbers, and what became of it."""
        found = read_checkpoint(self.path, self.identity, self.net, self.optimiser)
        if found is not None:
            self.at, self.best = found
            self.at["best_score"] = math.inf if self.at["best_score"] is None else self.at["best_score"]
        size = self.batches.size
        per_epoch = -(-len(self.learned) // size)
        total = per_epoch * self.options.epochs
        begin_s = saved_s = time.monotonic()
        while self.at["steps"] < total and not self._is_over(per_epoch):
            epoch, i = divmod(self.at["steps"], per_epoch)
            order = np.random.default_rng((self.options.seed, epoch)).permutation(self.learned)
            self._step(order[i * size : (i + 1) * size], self.at["steps"] / total)
            self.at["steps"] += 1
            is_late = self.options.minutes is not None and time.monotonic() - begin_s > 60 * self.options.minutes
            if self.at["steps"] % per_epoch == 0 or is_late:
                self._judge(epoch + 1)
            if self.at["steps"] % per_epoch == 0 or time.monotonic() - saved_s > CHECKPOINT_S:
                self._keep()
                saved_s = time.monotonic()
            best = self.at["best_score"]
            score = "" if math.isinf(best) else f", {best:.4f} nats"
            progress(self.at["steps"], total, f"epoch {epoch + 1}{score}")
            if is_late:
                break
        return self.best, {**self.at, "epochs": self.at["steps"] / per_epoch}

    def _step(self, chosen: Any, done: float) -> None:
        """One step of AdamW on a batch; the rate rises at first, then falls as a cosine."""
        steps = self.at["steps"]
        rate = self.net.learning_rate * min(1.0, (steps + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.net.train()
        loss = self.net.loss(self.batches.batch(chosen), np.random.default_rng((self.options.seed, steps, 1)))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def _judge(self, epoch: int) -> None:
        """Score what is not learned from, and keep the numbers if they are the best."""
        self.net.eval()
        sums, size = [0.0, 0], self.batches.size
        with torch.inference_mode():
            for i in range(0, len(self.stopping), size):
                part = self.stopping[i : i + size]
                sums[0] += len(part) * float(self.net.score(self.batches.batch(part)))
                sums[1] += len(part)
        score = sums[0] / sums[1]
        if score < self.at["best_score"]:
            self.at |= {"best_epoch": epoch, "best_score": score}
            self.best = numbers_of(self.net)
        elif not math.isfinite(score):
            raise InputError("training has come to numbers that are not finite; try another --seed")

    def _is_over(self, per_epoch: int) -> bool:
        """Whether nothing has got better for too many epochs."""
        since: int = self.at["steps"] // per_epoch - self.at["best_epoch"]
        return since >= self.options.patience + (not self.best)

    def _keep(self) -> None:
        unfinished = {**self.at, "best_score": self.at["best_score"] if self.best else None}
        write_checkpoint(self.path, {**self.identity, "unfinished": unfinished}, self.net, self.optimiser, self.best)


def _latest(divided: Parts) -> tuple[RoutingTrace, int]:
    """The last tokens of a long trace that are learned from, and where what stops the learning begins in them."""
    skipped = max(divided.fit.num_tokens - LATEST, 0)
    return tokens(divided.fit, slice(skipped, None)), max(divided.validation - skipped, 0)


def _check(trace: RoutingTrace, options: Options) -> None:
    """Raise InputError for options that do not go together, or not with the trace."""
    if options.hidden and not trace.width:
        raise InputError("the trace has no hidden states; record it with 'hetsched trace record --hidden'")
    if options.protocol == "published" and not (options.architecture == "published" and options.hidden):
        raise InputError(
            "--protocol published tells the answer's own input: it needs --architecture published and --hidden"
        )
