# attune: targets are documented by "make help".
PYTHON ?= python3
RELEASE = build/release
TEST = build/test

all: build/attune ## release build at build/attune

help: ## this list
	@grep -E '^[a-z][a-z -]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+)[^#]*## /  make \1\t/' | expand -t 24

setup: ## install the Debian packages that are missing (with sudo when not root)
	@tools/setup.sh build

$(RELEASE)/build.ninja:
	@tools/setup.sh build
	meson setup $(RELEASE) --buildtype=debugoptimized -Doptimization=3

build/attune: FORCE $(RELEASE)/build.ninja
	@ninja -C $(RELEASE)
	@ln -sfn release/attune build/attune

$(TEST)/build.ninja:
	@tools/setup.sh test
	meson setup $(TEST) -Dtests=true -Dwerror=true -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1

cuda: build/attune ## libattune_cuda.so for NVIDIA GPUs, beside the program (needs nvcc 13)
	@tools/build_cuda.sh $(RELEASE)

dist: ## build/attune-VERSION-linux-ARCH.tar.gz: program, libattune_cuda.so and the libraries that they need (nvcc 13; tools/dist.sh none does without)
	@tools/setup.sh build
	@tools/dist.sh

test: $(TEST)/build.ninja build/attune ## everything that needs neither a GPU nor PyTorch, under ASan and UBSan
	@ninja -C $(TEST)
	@tools/run_tests.py $(TEST)

PARITY = build/venv-parity

$(PARITY)/requirements.txt: tests/parity/requirements.txt
	@tools/setup.sh test
	rm -rf $(PARITY)
	python3 -m venv $(PARITY)
	$(PARITY)/bin/pip install -q -r $<
	@cp $< $@

parity: build/attune $(PARITY)/requirements.txt ## the same numbers as PyTorch, transformers, PEFT and TRL, compared live
	@$(PARITY)/bin/python tests/parity/run.py $(if $(SEED),--seed $(SEED))

build/venv-%/requirements.txt: tests/track/requirements-%.txt
	@tools/setup.sh test
	rm -rf build/venv-$*
	python3 -m venv build/venv-$*
	build/venv-$*/bin/pip install -q -r $<
	@cp $< $@

PEERS = mlflow2 mlflow3 wandb tensorboard

track: build/attune build/venv/installed.txt $(PEERS:%=build/venv-%/requirements.txt) ## what jobs are told to, against the real ones: MLflow's servers 2.x and 3.x, W&B's client, TensorBoard's reader
	ATTUNE_BIN=$(CURDIR)/build/attune WANDB_PYTHON=$(CURDIR)/build/venv-wandb/bin/python \
		TENSORBOARD_PYTHON=$(CURDIR)/build/venv-tensorboard/bin/python \
		MLFLOW_PYTHON=$(CURDIR)/build/venv-mlflow2/bin/python build/venv/bin/pytest -q -s tests/track
	ATTUNE_BIN=$(CURDIR)/build/attune MLFLOW_PYTHON=$(CURDIR)/build/venv-mlflow3/bin/python build/venv/bin/pytest -q -s tests/track/test_mlflow.py

build/venv-hub/requirements.txt: tests/hub/requirements.txt
	@tools/setup.sh test
	rm -rf build/venv-hub
	python3 -m venv build/venv-hub
	build/venv-hub/bin/pip install -q -r $<
	@cp $< $@

hub: build/attune build/venv-hub/requirements.txt $(PARITY)/requirements.txt ## models from and to a fake Hugging Face Hub, which the real client has proven
	ATTUNE_BIN=$(CURDIR)/build/attune PEERS_PYTHON=$(CURDIR)/$(PARITY)/bin/python build/venv-hub/bin/pytest -q tests/hub

build/venv/installed.txt: tests/requirements.txt
	@tools/setup.sh test
	rm -rf build/venv
	python3 -m venv build/venv
	build/venv/bin/pip install -q -r $<
	@cp $< $@

demo: build/attune ## start a server, fine-tune the bundled model through the API, show before and after
	@tools/setup.sh demo
	@python3 tools/demo.py

bench: build/attune ## tokens/s of two model shapes, products against the peak loop
	@bench/run.sh

bench-http: build/attune ## latency of job GETs at a constant rate, alone and beside a training job and a 2 GB upload
	@python3 bench/http_load.py

fuzz: ## a processor minute of libFuzzer per target (SECONDS_EACH=60), added to tests/fuzz/log.csv
	@tools/setup.sh fuzz
	@tools/fuzz.py --seconds $(or $(SECONDS_EACH),60) --log

fault: build/attune ## servers and trainers killed at every point (make test takes a sample)
	@tools/setup.sh test
	@ATTUNE_FAULT_FULL=1 tools/run_tests.py $(TEST) --only fault

TSAN = build/tsan

$(TSAN)/build.ninja:
	@tools/setup.sh test
	meson setup $(TSAN) -Dtests=true -Db_sanitize=thread -Db_lundef=false -Doptimization=1

tsan: $(TSAN)/build.ninja ## unit tests, the API's tests, servers and trainers under ThreadSanitizer; a report ends its process and fails its test
	@ninja -C $(TSAN)
	@TSAN_OPTIONS=halt_on_error=1 tools/run_tests.py $(TSAN) --only unit
	@TSAN_OPTIONS=halt_on_error=1 ATTUNE_BIN=$(CURDIR)/$(TSAN)/attune tools/run_tests.py $(TSAN) --only api

slow: build/attune ## slowhttptest's three attacks with 900 connections beside a healthy client, six minutes
	@tools/setup.sh slow
	@python3 tests/fault/slow_clients.py

SCHEMATHESIS = build/venv-schemathesis

$(SCHEMATHESIS)/requirements.txt: tests/schemathesis/requirements.txt
	@tools/setup.sh test
	rm -rf $(SCHEMATHESIS)
	python3 -m venv $(SCHEMATHESIS)
	$(SCHEMATHESIS)/bin/pip install -q -r $<
	@cp $< $@

schemathesis: $(TEST)/build.ninja $(SCHEMATHESIS)/requirements.txt ## 20,000 requests and more made from docs/openapi.yaml (EXAMPLES=400 SEED=1)
	@ninja -C $(TEST) attune
	@$(SCHEMATHESIS)/bin/python tests/schemathesis/run.py --examples $(or $(EXAMPLES),400) --seed $(or $(SEED),1)

base-model: build/attune ## make the bundled base model anew: text, tokenizer, training
	@tools/base_model.sh

check: ## include allow-list, length of lines, both compilers without warnings
	@tools/setup.sh check
	@tools/check.sh

clean: ## remove build/
	rm -rf build

FORCE:
.PHONY: all help setup dist test parity demo bench bench-http fuzz fault slow tsan schemathesis base-model check clean FORCE track hub
