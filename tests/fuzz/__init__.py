"""Bad input on purpose: options and files that make no sense, to every verb, and requests to the server.

The promise: exit code 2, one line on standard error that names the cause, nothing half-written, within seconds and
within memory; or the command works after all. `python -m tests.fuzz --cases 20000 --keep verdicts.jsonl` prints counts,
and goes on where it was left.
"""
