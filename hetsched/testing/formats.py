"""Laws that every weight format keeps. Third parties run them on theirs: `for law in LAWS: law(make)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..errors import InputError
from ..formats import Format, Shape, views_of

Make: TypeAlias = Callable[[], Format]
SHAPES: tuple[Shape, ...] = ((16, 512), (40, 1024))
WORST = 0.6  # of the largest weight, that a weight may be off: more than any format of four bits


def parts_lie_apart(make: Make) -> None:
    """Each in the matrix's bytes, behind the one before; together what weight_bits says, padding apart."""
    laid = make()
    for shape in SHAPES:
        end = 0
        for part in laid.parts(shape):
            assert part.begin >= end
            end = part.begin + part.num_bytes
        assert end == laid.num_bytes(shape)
        stored = sum(part.num_bytes for part in laid.parts(shape))
        whole = shape[0] * shape[1] * laid.weight_bits / 8
        assert whole <= stored <= whole + end - stored + 4 * (shape[0] // laid.block[0] + 1) * (shape[1] // 8)


def every_part_has_a_place_in_checkpoints(make: Make) -> None:
    """`stored_as` names them, each by an end of its own."""
    laid = make()
    names = {part.name for part in laid.parts(SHAPES[0])}
    assert names <= set(laid.stored_as)
    assert len(set(laid.stored_as.values())) == len(laid.stored_as)


def packing_stays_near(make: Make) -> None:
    """What is packed and unpacked again has its shape and dtype, and is off by less than WORST of the largest."""
    import torch

    laid = make()
    for shape in SHAPES:
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
        parts = laid.pack(weights)
        found = laid.unpack(parts, shape, torch.float32)
        assert tuple(found.shape) == shape
        assert found.dtype == torch.float32
        assert (found - weights).abs().max() < WORST * weights.abs().max()
        assert torch.nn.functional.cosine_similarity(found.flatten(), weights.flatten(), 0) > 0.98
        assert not laid.unpack(laid.pack(torch.zeros(shape)), shape, torch.float32).any()


def rounding_happens_once(make: Make) -> None:
    """In half precision weights are those in fp32, rounded to the nearest."""
    import torch

    laid, shape = make(), SHAPES[0]
    parts = laid.pack(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    wide = laid.unpack(parts, shape, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(laid.unpack(parts, shape, dtype), wide.to(dtype))


def a_matrix_may_lie_in_a_row_of_bytes(make: Make) -> None:
    """Parts written where the format says so are read there, whatever else the bytes hold."""
    import torch

    laid, shape = make(), SHAPES[0]
    parts = laid.pack(torch.randn(shape, generator=torch.Generator().manual_seed(2)))
    row = torch.full((laid.num_bytes(shape) + 64,), 0xAA, dtype=torch.uint8)
    views = views_of(row, laid, shape)
    for name, view in views.items():
        view.copy_(parts[name].reshape(view.shape))
    expected = laid.unpack(parts, shape, torch.float32)
    assert torch.equal(laid.unpack(views, shape, torch.float32), expected)


def what_it_cannot_store_is_refused(make: Make) -> None:
    """Broken blocks, and parts that belong to another shape or are missing: one line, not a wrong weight."""
    import torch

    laid, shape = make(), SHAPES[0]
    if laid.block[1] > 1 and laid.block[0] == 1:
        _is_refused(lambda: laid.parts((16, laid.block[1] + 1)))
        _is_refused(lambda: laid.pack(torch.zeros(16, laid.block[1] + 1)))
    parts = laid.pack(torch.zeros(shape))
    _is_refused(lambda: laid.unpack(parts, SHAPES[1], torch.float32))
    _is_refused(lambda: laid.unpack({}, shape, torch.float32))
    if laid.block != (1, 1):
        _is_refused(lambda: laid.pack(torch.full(shape, float("inf"))))


def _is_refused(call: Callable[[], object]) -> None:
    said = ""
    try:
        call()
    except InputError as error:
        said = str(error)
    assert said, "took what it cannot store"
    assert "\n" not in said


LAWS: tuple[Callable[[Make], None], ...] = (
    parts_lie_apart,
    every_part_has_a_place_in_checkpoints,
    packing_stays_near,
    rounding_happens_once,
    a_matrix_may_lie_in_a_row_of_bytes,
    what_it_cannot_store_is_refused,
)
