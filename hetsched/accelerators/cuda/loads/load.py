"""What a format brings to the decode kernels: one device function that reads a few of its weights."""

from __future__ import annotations

from typing import NamedTuple


class Load(NamedTuple):
    """CUDA C with CHUNK and load_block(matrix, stored, row, column, weights), which unpacks CHUNK weights of one row.

    `matrix`: the address of its first part, a multiple of 64 bytes; `column`: a multiple of CHUNK. Weights are what
    Format.unpack gives in fp32, but for rounding where a product is added to.
    """

    source: str
    chunk: int

    def reads(self, columns: int) -> bool:
        """Whether rows of so many weights are whole chunks."""
        return columns % self.chunk == 0


def load(chunk: int, constants: dict[str, int], body: str, types: str = "") -> Load:
    """The function from its body, which has names for its constants."""
    named = "".join(f"constexpr int {name} = {value};\n" for name, value in {"CHUNK": chunk, **constants}.items())
    head = "DEVICE void load_block(const byte* matrix, const Stored& stored, int row, int column, float* weights) {"
    return Load(f"\n{types}{named}{head}{body}}}\n", chunk)
