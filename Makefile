# Everything runs in .venv, which the first target creates. Python 3.10 or newer is all that is needed.
PYTHON ?= python3
BIN := .venv/bin
CLIP := tests/audio/speech_es.flac
DEBS := speex chromium libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins tmux strace \
  g++ cmake pkg-config nlohmann-json3-dev zlib1g-dev portaudio19-dev $(if $(EVERYTHING),firefox-esr)

NODE_MODULES := runtime/js/node_modules

MINUTES ?= 10

.PHONY: demo test debs npm check bench published adapters everything fuzz clean

demo: .venv/base          ## encode and decode a real clip at 1.5, 3 and 6 kbps
	@mkdir -p demo
	@for kbps in 1.5 3 6; do \
	  echo "demo/speech_$${kbps}kbps.wav"; \
	  $(BIN)/edgecodec roundtrip $(CLIP) demo/speech_$${kbps}kbps.wav -b $$kbps -f || exit 1; done
	@echo "Listen to demo/*.wav beside the original, $(CLIP)."

test: .venv/test debs npm ## run all tests: live sound alone, at its own pace, and the others on two processors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/live
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/live

debs:                     ## programs of the machine that some tests need: installed by root on Debian, else named
	@missing=; for deb in $(DEBS); do dpkg -s $$deb >/dev/null 2>&1 || missing="$$missing $$deb"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $$missing; \
	elif [ -n "$$missing" ]; then false; fi || echo "Tests that need programs of$$missing are skipped."

npm:                      ## what tests of runtime/js need, of the versions in its lock file, from the npm registry alone
	@if [ ! $(NODE_MODULES)/.package-lock.json -nt runtime/js/package-lock.json ]; then \
	  cd runtime/js && npm ci --ignore-scripts --no-audit --no-fund; \
	fi || echo "Tests of runtime/js, which need Node 20 and npm packages, are skipped."

check: .venv/test         ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/base         ## speed, latency and memory of the shipped bundle
	$(BIN)/edgecodec bench speech

published: .venv/published ## published weights against the numbers that transformers tests: downloads about 1.5 GB
	$(BIN)/python tests/adapters/published.py

adapters: .venv/test      ## speed of adapted codecs at their real sizes, beside the originals in torch; all kinds of them
	OMP_NUM_THREADS=1 $(BIN)/python tests/adapters/speed.py
	EVERYTHING=1 $(BIN)/python -m pytest tests/export/test_adapted_bundles.py

everything:               ## the tests, with those that take minutes and are left out of `make test`
	EVERYTHING=1 $(MAKE) test

fuzz: .venv/test          ## mutated input for every parser, MINUTES=10 in all; what fails is kept in tests/fuzz/found
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES)

clean:
	rm -rf .venv demo dist build $(NODE_MODULES)

.venv/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "edgecodec needs Python 3.10 or newer"'
	$(PYTHON) -m venv .venv
	touch $@

.venv/base: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/test: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ .venv/base

.venv/published: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hub]' pyarrow
	touch $@ .venv/base
