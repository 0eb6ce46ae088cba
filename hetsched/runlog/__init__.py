"""Run logs: what was asked, decided and measured, layer by layer, as JSON lines. No torch here.

Schema "hetsched-run-log/1" (hetsched/schemas/run-log-1.json). Every line is an object with a "kind". Seconds are floats
on the run's own clock: 0 at its beginning, the sum of what layers and steps took (as in stats()["total_s"]), so that
what a user does between two calls of generate() takes none. A log that was cut short has no end line.

    header    line 1: "schema", "hetsched" (version), "date",
              "clock": "emulated" | "simulated" | "measured",
              "model": {"name", "layers", "experts", "top_k", "hidden", "ffn", "dtype", "expert_bytes", "matrices",
                        "bias", "dense_params", "other_params", "experts_by_layer": [...] | null},
              "timed_as": the same of the model whose seconds were taken, or null,
              "machine": {"name", "title", "profile": {a hetsched-profile/1}},
              "policy", "solver", "forecaster" ("" for none), "slots", "capacity_bytes" (of all slots), "lossless",
              "resident": [[experts] of each layer], before the first step,
              "popularity": [[tokens of each expert] of each layer], known beforehand, or null
    layer     one of a step, in order: "step", "layer", "phase": "prefill" | "decode" | "verify" | "unknown",
              "tokens", "new_request",
              "begin_s", "end_s": apart by "dense_s", "host_s" (0 where the wall's seconds contain it), "decide_s" and
                        "measured_s", in that order,
              "predicted_s", "measured_s": from the decision to the end of the last lane,
              "beside_s": looking ahead beside the lanes, "stall_s": of the GPU lane,
              "busy": {"gpu", "cpu", "link"} seconds, the dense part in "gpu", "copied": [copies found
                        to have arrived, the link's seconds for them],
              "experts": active ones, ascending, "counts": tokens of each,
              "lane": a letter for each, on the GPU "r" resident, "i" on its way, "f" fetched; on the CPU "c" absent,
                        "h" here, on the GPU, and computed there all the same, "x" after it failed elsewhere; "r" and
                        "h" are hits,
              "solver": what is known of its answer, "" where none was asked, "slots": how many there are,
              "moves": [kind, layer, expert, slot, [layer, expert] that it displaces | null, gain_s | null], kind
                        "fetch" (demanded), "prefetch" or "draft" (set out before this layer, between steps),
              "evicts": [[layer, expert]],
              "link": [free_s, [[layer, expert, left_s] under way]] as the copy engine stood at the decision, null where
                        nobody was; who was and is no longer has arrived
    event     "at_s", "step", "layer" | null, "name": "fault" | "guard" | "resize" | "reload" | "lost", "text"
    resident  "step", "experts": [[ids] of each layer] that held slots before this step, those under way included;
              every 64 steps, after a resize, and at the end
    end       "steps", "layers", "tokens", "seconds", "dropped": layers that found no room, "dropped_lines": other
              lines that found none, "stats": what stats() says

Bounded: layers are kept until the file has max_bytes (64 MiB unless told otherwise), the first ones; later ones are
counted in the end line. Other lines have an eighth as much beside them.

    log = read_run(path)  # a RunLog: header, layers, events, frames, end (None: cut short); InputError in one line
"""

from .lines import SCHEMA, End, Event, Frame, Header, Layer, Link, Move
from .reading import RunLog, read_run

__all__ = ["SCHEMA", "End", "Event", "Frame", "Header", "Layer", "Link", "Move", "RunLog", "read_run"]
