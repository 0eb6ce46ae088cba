"""Files: read as written, every fault found with its place, damage and pickles refused, replaced atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces import archive
from hetsched.traces.trace import FORMAT, load_trace, report, save_trace
from tests.traces.made import made, same, saved

TRACES = Path(os.environ.get("HETSCHED_TRACES", Path(__file__).parents[2].parent / "shared" / "traces"))


def stored(path: Path, *, compress: bool = False, **changes: Any) -> Path:
    """A good trace's arrays, some of them changed or (None) left out, written by numpy."""
    arrays = {**made().arrays(), **changes}
    write = np.savez_compressed if compress else np.savez
    write(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def meta(**changes: Any) -> np.ndarray[Any, Any]:
    """A good meta object, some fields changed or (None) left out."""
    fields = {"format": FORMAT, "num_experts": 8, "top_k": 2, "layers": [0, 1, 2], "model": "m", **changes}
    return np.array(json.dumps({key: value for key, value in fields.items() if value is not None}))


def changed(name: str, place: Any, value: Any) -> dict[str, Any]:
    """One array of the good trace with one entry changed."""
    array = made().arrays()[name].copy()
    array[place] = value
    return {name: array}


@pytest.mark.parametrize("compress", [False, True])
def test_a_trace_is_read_as_it_was_saved(tmp_path: Path, compress: bool) -> None:
    """All arrays, the optional ones too, and the meta object; numpy reads the file as well."""
    weights = np.random.default_rng(1).random((40, 3, 2)).astype(np.float16)
    trace = made(weights_TLK=weights, step_T=np.arange(40, dtype=np.int32), meta={"model": "m", "own": [1, {"a": 2}]})
    save_trace(tmp_path / "t.npz", trace, compress=compress)
    again = load_trace(tmp_path / "t.npz")
    assert same(trace, again)
    assert again.meta == {"format": FORMAT, "num_experts": 8, "top_k": 2, "layers": [0, 1, 2], **trace.meta}
    with np.load(tmp_path / "t.npz", allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["experts"], trace.experts_TLK)
    assert os.listdir(tmp_path) == ["t.npz"]


@pytest.mark.parametrize("fortran", [False, True])
def test_files_that_numpy_wrote_are_mapped(tmp_path: Path, fortran: bool) -> None:
    """Members at odd places of the archive, and in column order."""
    experts = made().experts_TLK
    path = stored(tmp_path / "t.npz", experts=np.asfortranarray(experts) if fortran else experts)
    trace = load_trace(path)
    assert not trace.experts_TLK.flags.writeable
    np.testing.assert_array_equal(trace.experts_TLK, experts)


def test_our_files_are_mapped_at_aligned_places(tmp_path: Path) -> None:
    trace = load_trace(saved(tmp_path / "t.npz"))
    for array in (trace.experts_TLK, trace.sequence_T, trace.phase_T):
        assert not array.flags.writeable
        assert array.ctypes.data % archive.ALIGN_BYTES == 0


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (saved(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"meta": meta(top_k=None, layers=None, model=None)}, []),
    ({"meta": meta(layers=3)}, []),
    ({"sequence": None, "phase": None}, ["'sequence'", "'phase'"]),
    (changed("experts", (7, 2, 1), 8), ["ids outside 0..7 .*: 1, first 8 at token 7, layer 2, choice 1"]),
    (changed("experts", (7, 2, 1), -1), ["first -1 at token 7"]),
    (changed("experts", (slice(5, 8), 1), 3), ["twice .*: 3, first token 5, layer 1"]),
    (changed("sequence", 30, 0), ["sequence decreases: 1, first 0 at token 30"]),
    (changed("sequence", 0, -2), ["sequence has negative numbers: 1"]),
    (changed("phase", slice(3, 6), 9), ["phase .*: 3, first 9 at token 3"]),
    ({"weights": np.full((40, 3, 2), np.nan, np.float16)}, ["weights .*: 240"]),
    ({"weights": np.ones((40, 3), np.float16)}, ["weights has shape"]),
    ({"weights": np.ones((40, 3, 2))}, ["weights is float64"]),
    ({"step": np.arange(40, dtype=np.int32)[::-1]}, ["step decreases: 39"]),
    ({"kept": np.ones(40, np.uint8)}, []),
    ({"kept": np.ones(40, bool)}, ["kept is bool"]),
    ({"kept": np.ones(39, np.uint8)}, ["kept has shape"]),
    ({"kept": np.repeat(np.array([1, 3], np.uint8), 20)}, ["kept .* 0, 1: 20, first 3 at token 20"]),
    ({"kept": np.repeat(np.array([1, 0], np.uint8), 20)}, ["kept has 20 rejected tokens, but no array 'step'"]),
    ({"kept": np.zeros(40, np.uint8), "step": np.arange(40, dtype=np.int32)}, []),
    ({"experts": np.zeros((40, 3, 2))}, ["experts is float64"]),
    ({"experts": np.zeros((40, 3), np.int16)}, ["experts is int16"]),
    ({"experts": np.zeros((0, 3, 2), np.int16)}, ["experts is empty"]),
    ({"sequence": np.zeros(40)}, ["sequence is float64"]),
    ({"sequence": np.zeros((), np.int32)}, ["sequence has shape"]),
    ({"phase": np.ones(39, np.uint8)}, ["phase has shape"]),
    ({"meta": np.array("{")}, ["meta is not JSON"]),
    ({"meta": np.array("[]")}, ["expected a JSON object"]),
    ({"meta": np.array("{}")}, ["meta.num_experts is None", "meta.format is None"]),
    ({"meta": np.zeros(3)}, ["meta is float64"]),
    ({"meta": meta(num_experts=True)}, ["meta.num_experts is True"]),
    ({"meta": meta(num_experts=1 << 20)}, ["meta.num_experts is 1048576"]),
    ({"meta": meta(format="other/2")}, ["meta.format is 'other/2'"]),
    ({"meta": meta(top_k=3)}, ["meta.top_k is 3, but experts has 2"]),
    ({"meta": meta(layers=[0, 1])}, ["meta.layers names 2 layers, but experts has 3"]),
    ({"meta": meta(layers=[0, 2, 1])}, ["meta.layers is not ascending"]),
    ({"meta": meta(layers="all")}, ["meta.layers is 'all'"]),
    ({"meta": meta(model=3)}, ["meta.model is 3"]),
    ({"meta": meta(repeats_allowed="yes")}, ["meta.repeats_allowed"]),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("changes", "wanted"), FAULTS)
def test_every_fault_is_reported(tmp_path: Path, changes: dict[str, Any], wanted: list[str], compress: bool) -> None:
    """The report has exactly these lines, and load_trace raises the first."""
    import re

    path = stored(tmp_path / "t.npz", compress=compress, **changes)
    found = report(path)
    assert len(found) == len(wanted), found
    for line, pattern in zip(found, wanted, strict=True):
        assert re.search(pattern, line), line
    if wanted:
        with pytest.raises(InputError, match=wanted[0]):
            load_trace(path)
    else:
        load_trace(path)


def test_several_faults_are_counted(tmp_path: Path) -> None:
    """load_trace names the first and says how many there are besides."""
    changes = {**changed("experts", 3, 9), **changed("sequence", 30, 0), "meta": meta(top_k=5)}
    path = stored(tmp_path / "t.npz", **changes)
    assert len(report(path)) == 4  # meta, ids, equal ids, sequences
    with pytest.raises(InputError, match="and 3 more"):
        load_trace(path)


def test_faults_are_found_in_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's end is no blind spot: the report is the same for chunks of one token."""
    from hetsched.traces import checks

    path = stored(tmp_path / "t.npz", **changed("sequence", slice(20, 25), 0), **changed("experts", (39, 2, 1), 50))
    whole = report(path)
    monkeypatch.setattr(checks.chunks, "__defaults__", (1, 1))
    assert report(path) == whole
    assert len(whole) == 2


def test_repeated_ids_where_the_model_has_them(tmp_path: Path) -> None:
    """Allowed by meta.repeats_allowed and by nothing else."""
    twice = changed("experts", (3, 1), 5)
    assert report(stored(tmp_path / "t.npz", **twice))
    assert not report(stored(tmp_path / "t.npz", **twice, meta=meta(repeats_allowed=True)))


def test_pickles_and_damage_are_refused(tmp_path: Path) -> None:
    """No object is ever unpickled, and a file cut short or overwritten is an InputError, not a crash."""
    for compress in (False, True):
        path = stored(tmp_path / "p.npz", experts=np.array([{}], object), compress=compress)
        with pytest.raises(InputError, match="pickle"):
            load_trace(path)
        whole = stored(tmp_path / "t.npz", compress=compress).read_bytes()
        for cut in (0, 10, len(whole) // 2, len(whole) - 3):
            (tmp_path / "cut.npz").write_bytes(whole[:cut])
            with pytest.raises(InputError, match=r"cut\.npz"):
                load_trace(tmp_path / "cut.npz")
        for start in range(0, 400, 20):
            (tmp_path / "bad.npz").write_bytes(whole[:start] + b"\xff" * 20 + whole[start + 20 :])
            try:
                load_trace(tmp_path / "bad.npz")
            except InputError:
                continue


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is not written, and a writer that dies half-way leaves neither damage nor litter."""
    path = saved(tmp_path / "t.npz")
    before = path.read_bytes()
    with pytest.raises(InputError, match="not written"):
        save_trace(path, made(phase_T=np.full(40, 7, np.uint8)))

    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", broken)
    with pytest.raises(KeyboardInterrupt):
        save_trace(path, made(seed=2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.npz"]


def test_an_unwritable_place_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save_trace(tmp_path / "absent" / "t.npz", made())


@pytest.mark.parametrize("name", ["gpt-oss-20b.decode.npz", "deepseek-v2-lite.esft.npz"])
def test_recorded_traces_are_right(name: str) -> None:
    if not (TRACES / name).exists():
        pytest.skip(f"no {name} in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    assert report(TRACES / name) == []
