"""`hetsched explain`: the program it poses is the one that was decided, its alternatives cost what it says."""

from __future__ import annotations

import itertools
import json

import jsonschema
import numpy as np
import pytest

from hetsched.cli import main
from hetsched.explain.again import before
from hetsched.explain.layer import explained
from hetsched.explain.posed import posed
from hetsched.explain.story import story
from hetsched.runlog import read_run
from tests.runlog.made import schema, simulated

RUNS = {"own": (), "verify": ("--verify", "3"), "lru": ("--strategy", "on-demand-lru")}


@pytest.fixture(scope="module", params=RUNS, ids=list(RUNS))
def log(request, tmp_path_factory):
    return read_run(simulated(tmp_path_factory.mktemp("explained"), *RUNS[request.param]))


def places_of(log, count=12):
    """Layers spread over the run, and some that fetched."""
    spread = np.linspace(0, len(log.layers) - 1, count).astype(int).tolist()
    fetched = [place for place, row in enumerate(log.layers) if "f" in row.lane or "i" in row.lane]
    return sorted({*spread, *fetched[:: max(1, len(fetched) // 4)]})


def test_documents_are_of_the_schema(log):
    validator = jsonschema.Draft202012Validator(schema("explain-1.json"))
    for place in places_of(log, 4):
        row = log.layers[place]
        document = explained(log, row.step, row.layer)
        validator.validate(json.loads(json.dumps(document, allow_nan=False)))
    for expert in range(8):
        validator.validate(json.loads(json.dumps(story(log, 1, expert), allow_nan=False)))


def test_told_again_the_scheduler_decides_as_it_did(log):
    known = before(log, len(log.layers) - 1)
    assert known.agreed == known.decided == len(log.layers) - 1


def test_the_judge_finds_what_was_predicted(log):
    """Where a solver was asked, the posed program's makespan of what was done is the logged prediction."""
    if not log.header.solver:
        pytest.skip("this policy poses no program")
    for place in places_of(log):
        row = log.layers[place]
        program = posed(row, before(log, place))
        assert program.problem.makespan_s(program.chosen_N) == pytest.approx(row.predicted_s, abs=2e-9)
        assert len(program.victims) == len(program.problem.victim_price_V)


def test_the_optimum_is_the_least_of_all_choices(log):
    for place in places_of(log, 4):
        row = log.layers[place]
        program = posed(row, before(log, place))
        every = (np.array(choice, np.int8) for choice in itertools.product((0, 1, 2), repeat=program.problem.size))
        least_s = min(program.problem.objective_s(choice_N) for choice_N in every)
        rows = {one["name"]: one for one in explained(log, row.step, row.layer)["alternatives"]}
        assert rows["optimum"]["objective_s"] == pytest.approx(least_s, abs=1e-12)
        if log.header.solver:
            assert rows["chosen"]["objective_s"] == pytest.approx(least_s, abs=2e-9)
        assert rows["all-cpu"]["lanes"] == "c" * len(row.experts)
        assert rows["static"]["objective_s"] == pytest.approx(program.problem.incumbent_s)


def test_each_flip_changes_one_expert(log):
    row = log.layers[-1]
    document = explained(log, row.step, row.layer)
    chosen = next(one for one in document["alternatives"] if one["name"] == "chosen")
    for flip in document["flips"]:
        place = row.experts.index(flip["expert"])
        differing = [i for i in range(len(row.experts)) if flip["lanes"][i] != chosen["lanes"][i]]
        assert differing == [place]
        assert flip["costs_s"] == pytest.approx(flip["objective_s"] - chosen["objective_s"])


def test_stories_account_for_every_demand_and_copy(log):
    stories = [story(log, layer, expert) for layer in range(3) for expert in range(8)]
    stats = log.end.stats
    assert sum(told["demanded"] for told in stories) == stats["active"]
    assert sum(told["lanes"]["r"] + told["lanes"]["h"] for told in stories) == stats["hits"]
    assert sum(stay["hits"] for told in stories for stay in told["stays"]) == stats["hits"]
    assert sum(told["copies"] for told in stories) == stats["demanded_fetches"] + stats["prefetches"]
    gone = [stay for told in stories for stay in told["stays"] if stay["until_step"] is not None]
    assert len(gone) == stats["evictions"]
    for told in stories:
        moments = [(stay["from_step"], stay["until_step"]) for stay in told["stays"]]
        assert all(until is None or begin <= until for begin, until in moments)
        assert all(until is not None for _, until in moments[:-1])


def test_prose_says_what_was_done(log_path, capsys):
    assert main(["explain", str(log_path), "--step", "60", "--layer", "1"]) == 0
    said = capsys.readouterr().out
    for words in ("Step 60, layer 1 (decode, 1 token)", "simulated: no model ran", "what was done is the optimum"):
        assert words in said
    assert main(["explain", str(log_path), "--layer", "1", "--expert", "0"]) == 0
    assert "Asked for in" in capsys.readouterr().out


def test_one_expert_of_a_layer(log_path, run_log, capsys):
    row = run_log.layers[run_log.place(60, 1)]
    absent = next(expert for expert in range(8) if expert not in row.experts)
    assert main(["explain", str(log_path), "--step", "60", "--layer", "1", "--expert", str(row.experts[0])]) == 0
    assert f"Alone done otherwise: expert {row.experts[0]}" in capsys.readouterr().out
    assert main(["explain", str(log_path), "--step", "60", "--layer", "1", "--expert", str(absent)]) == 0
    assert f"Expert {absent} was not asked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--step", "9999", "--layer", "0"], "which holds steps 0 to 119"),
        (["--step", "0", "--layer", "9"], "layer 9 is not in 0..2"),
        (["--layer", "9", "--expert", "0"], "layer 9 is not in 0..2"),
        (["--layer", "0", "--expert", "8"], "expert 8 is not in 0..7"),
        (["--step", "0", "--layer", "0", "--expert", "8"], "expert 8 is not in 0..7"),
        (["--layer", "0"], "--step or --expert is missing"),
    ],
)
def test_numbers_that_are_not_there(asked, said, log_path, capsys):
    assert main(["explain", str(log_path), *asked]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
