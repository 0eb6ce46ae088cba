"""The two curves of routing against recorded traces: what popular experts meet, and how many a prompt makes active."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hetsched.estimate import hit_share
from hetsched.estimate.active import active_in_prompt
from hetsched.estimate.placement import USUAL_SKEW
from hetsched.machine import gallery

TRACES = Path(os.environ.get("HETSCHED_TRACES", Path(__file__).parents[2].parent / "shared" / "traces"))
IDS = npt.NDArray[np.int64]
LOW_SKEW = 1.25  # DeepSeek-V2-Lite, where the second half is of other tasks than the first
HIGH_SKEW = 2.3  # gpt-oss-20b
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


def recorded(name: str) -> tuple[IDS, IDS]:
    """Experts of each token and layer, and the sequence of each token; skips where there is no such trace."""
    path = TRACES / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    with np.load(path, allow_pickle=False) as file:
        return file["experts"].astype(np.int64), file["sequence"].astype(np.int64)


def met(experts_TLK: IDS, counted_T: npt.NDArray[np.bool_], num_experts: int, share: float) -> float:
    """Demand of the other tokens that the most frequent experts of the counted ones meet, averaged over layers."""
    met_L = []
    for layer in range(experts_TLK.shape[1]):
        seen, asked = (
            np.bincount(experts_TLK[those, layer].ravel(), minlength=num_experts) for those in (counted_T, ~counted_T)
        )
        hot = np.argsort(-seen)[: round(share * num_experts)]
        met_L.append(asked[hot].sum() / asked.sum())
    return float(np.mean(met_L))


@pytest.mark.parametrize(
    ("name", "experts", "alike", "skew"),
    [
        ("gpt-oss-20b.decode", 32, False, HIGH_SKEW),
        ("deepseek-v2-lite.esft", 64, False, LOW_SKEW),
        ("deepseek-v2-lite.esft", 64, True, USUAL_SKEW),
    ],
)
def test_popular_experts_meet_what_the_curve_says(name: str, experts: int, alike: bool, skew: float) -> None:
    """Counted on half of the sequences, scored on the other: halves one after the other, or every second sequence."""
    experts_TLK, sequence_T = recorded(name)
    order_T = np.unique(sequence_T, return_inverse=True)[1]
    counted_T = order_T % 2 == 0 if alike else order_T < (order_T.max() + 1) // 2
    for share in SHARES:
        assert hit_share(share, skew) == pytest.approx(met(experts_TLK, counted_T, experts, share), abs=0.06)


@pytest.mark.parametrize(
    ("name", "model"), [("gpt-oss-20b.decode", "gpt-oss-20b"), ("deepseek-v2-lite.esft", "deepseek-v2-lite")]
)
def test_prompts_make_as_many_experts_active_as_the_curve_says(name: str, model: str) -> None:
    """Within a seventh of all experts, for the first 8, 32 and 64 tokens of the first 40 sequences."""
    experts_TLK, sequence_T = recorded(name)
    geometry = gallery.model(model)
    for tokens in (8, 32, 64):
        active = []
        for sequence in np.unique(sequence_T)[:40]:
            text_TLK = experts_TLK[sequence_T == sequence][:tokens]
            if len(text_TLK) == tokens:
                active += [len(np.unique(text_TLK[:, layer])) for layer in range(experts_TLK.shape[1])]
        expected = active_in_prompt(geometry, tokens)
        assert expected == pytest.approx(np.mean(active), abs=geometry.num_experts / 7)
