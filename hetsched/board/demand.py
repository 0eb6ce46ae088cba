"""A layer's demand from router ids: who is active, ascending, and with how many tokens.

Shapes: T tokens, K top-k, E experts of a layer, N active ones.
"""

from __future__ import annotations

from typing import Any

from ..jit import compiled_lean
from . import ACTIVE, Board


@compiled_lean
def list_demand(board: Board, ids_TK: Any, here: int) -> None:
    """Put it on the board. Ids of `here` or more are nobody's."""
    if len(ids_TK) == 1:
        _list_one_token(board, ids_TK[0], here)
        return
    tokens_E = board.mark_E
    tokens_E[:] = 0
    for t in range(ids_TK.shape[0]):
        for k in range(ids_TK.shape[1]):
            e = ids_TK[t, k]
            if 0 <= e < here:
                tokens_E[e] += 1
    active = 0
    for e in range(len(tokens_E)):
        if tokens_E[e]:
            board.active_N[active], board.tokens_N[active] = e, tokens_E[e]
            active += 1
    board.at[ACTIVE] = active


@compiled_lean
def _list_one_token(board: Board, ids_K: Any, here: int) -> None:
    """One token's few ids, each put in its place: looking at all experts would take longer."""
    active_N, tokens_N, active = board.active_N, board.tokens_N, 0
    for k in range(len(ids_K)):
        e, place = ids_K[k], active
        if not 0 <= e < here:
            continue
        while place > 0 and active_N[place - 1] > e:
            place -= 1
        if place > 0 and active_N[place - 1] == e:
            tokens_N[place - 1] += 1
            continue
        for i in range(active, place, -1):
            active_N[i], tokens_N[i] = active_N[i - 1], tokens_N[i - 1]
        active_N[place], tokens_N[place] = e, 1
        active += 1
    board.at[ACTIVE] = active
