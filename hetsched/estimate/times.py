"""Times: what a token takes, part by part."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Times:
    """Seconds a token, all layers together.

    `dense`: weights outside the routed experts. `attention`: over the context. `gpu_experts`, `cpu_experts`: routed
    experts by where they are computed. `link`: weights copied to the GPU. `round_trips`: activations to the CPU and
    back. `host`: the engine's own code, while nothing computes. `head`: logits, and what comes once a step.
    `hidden`: of all these, what runs while something else does.
    """

    dense_s: float = 0.0
    attention_s: float = 0.0
    gpu_experts_s: float = 0.0
    cpu_experts_s: float = 0.0
    link_s: float = 0.0
    round_trips_s: float = 0.0
    host_s: float = 0.0
    head_s: float = 0.0
    hidden_s: float = 0.0
    has_gpu: bool = True

    @property
    def total_s(self) -> float:
        """Seconds from one token to the next."""
        return sum(self.parts.values()) - self.hidden_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, of one user."""
        return 1.0 / self.total_s

    @property
    def parts(self) -> dict[str, float]:
        """Each part in seconds by its name, in the order of a layer."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def lanes(self) -> dict[str, float]:
        """Seconds in which each lane is busy. Without a GPU the dense part is the CPU's."""
        gpu_s = self.gpu_experts_s
        rest_s = self.dense_s + self.attention_s + self.head_s
        gpu_s, cpu_s = (gpu_s + rest_s, 0.0) if self.has_gpu else (gpu_s, rest_s)
        return {
            "GPU": gpu_s,
            "CPU": cpu_s + self.cpu_experts_s,
            "LINK": self.link_s + self.round_trips_s,
            "host": self.host_s,
        }

    @property
    def bottleneck(self) -> str:
        """The lane that is busy longest: GPU, CPU, LINK or host."""
        lanes = self.lanes
        return max(lanes, key=lambda name: lanes[name])

    def times(self, factor: float) -> Times:
        """So many times the same work."""
        return replace(self, **{name: getattr(self, name) * factor for name in (*PARTS, "hidden_s")})

    def over(self, count: float) -> Times:
        """The same work, divided by so many tokens."""
        return self.times(1 / count)

    def plus(self, other: Times) -> Times:
        """Both, one after the other."""
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in (*PARTS, "hidden_s")})


PARTS = tuple(f.name for f in fields(Times) if f.name.endswith("_s") and f.name != "hidden_s")
