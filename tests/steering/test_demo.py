"""The demo model tells code from prose: its strongest expert's difference lies far beyond its error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetsched.integrations.activation_counts import Prompt, count_activations
from hetsched.machine.demo_geometry import cached_folder
from hetsched.steering.difference import Activations, difference

DEMO = cached_folder()  # the user's own, asked for before tests are given a cache of theirs
CODE = (
    "for name, value in sorted(settings.items()):",
    "return sum(x * x for x in numbers) / len(numbers)",
    "self.assertEqual(parser.parse('a+b'), ['a', '+', 'b'])",
    "if not os.path.exists(folder): os.makedirs(folder)",
    "data = json.loads(response.read().decode('utf-8'))",
    "class Stack(list): push = list.append",
    "import numpy as np; grid = np.zeros((3, 4), dtype=float)",
    "while queue and queue[0].start < now: heapq.heappop(queue)",
)
PROSE = (
    "The lighthouse keeper climbed the stairs every evening at dusk.",
    "In spring the river rises and the meadows lie under water.",
    "She had never liked the old house, but she missed its garden.",
    "Most birds of the northern coast leave before the first storms.",
    "He wrote to his brother that the journey had been long and cold.",
    "Bread was baked on Fridays, and the whole street smelled of it.",
    "The committee met again in June and came to no decision.",
    "Nobody could say when the bell had last been heard.",
)


@pytest.mark.model
@pytest.mark.skipif(not (DEMO / "config.json").is_file(), reason="the demo model is not built: hetsched demo builds it")
def test_code_and_prose_are_told_apart() -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)

    def counted(lines: tuple[str, ...]) -> Activations:
        ids = [tokenizer(line)["input_ids"] for line in lines]
        return count_activations(model, [Prompt(row, np.ones(len(row), bool)) for row in ids])[0]

    found = difference(counted(CODE), counted(PROSE))
    layer, expert = found.ranked()[0]
    assert abs(found.risk_LE[layer, expert]) > 5 * found.error_LE[layer, expert]
    alike = difference(counted(CODE[::2]), counted(CODE[1::2]))
    assert alike.beyond(5.0) < found.beyond(5.0) / 4
