# The everyday commands; `make help` lists them. The build itself is CMake's: see CMakePresets.json.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 600
CMAKE := .deps/bin/cmake
CTEST := .deps/bin/ctest
PYTHON := .deps/venv/bin/python
# CUDA=OFF builds without the CUDA device and fetches no CUDA compiler.
CUDA ?= ON
# TENSORRT=OFF builds without the TensorRT backend and fetches no headers of it.
TENSORRT ?= $(CUDA)
on = $(filter-out OFF off 0,$(1))
CUDA_GROUP := $(if $(call on,$(CUDA)),cuda $(if $(call on,$(TENSORRT)),tensorrt))
CONFIGURE = $(CMAKE) -DMILLRACE_CUDA=$(CUDA) -DMILLRACE_TENSORRT=$(TENSORRT)

.PHONY: help
help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'
	@echo "  Variables: JOBS=$(JOBS) CUDA=$(CUDA) TENSORRT=$(TENSORRT) FUZZ_SECONDS=$(FUZZ_SECONDS)"

.PHONY: demo
demo: build  ## Runs the digits model over its held-out images
	@tools/demo.sh

.PHONY: deps-build deps-test deps-clients
deps-build:
	@python3 tools/deps/fetch.py build $(CUDA_GROUP)
deps-test:
	@python3 tools/deps/fetch.py build $(CUDA_GROUP) test
deps-clients:
	@python3 tools/deps/fetch.py clients

.PHONY: build
build: deps-build  ## Builds the released program, build/millrace
	@$(CONFIGURE) --preset release -DMILLRACE_TESTS=OFF > /dev/null
	@$(CMAKE) --build --preset release --parallel $(JOBS) --target millrace

.PHONY: dev
dev: deps-test
	@$(CONFIGURE) --preset dev > /dev/null
	@$(CMAKE) --build --preset dev --parallel $(JOBS)

.PHONY: test
test: dev deps-clients  ## Builds and runs every test (preset dev)
	$(CTEST) --preset dev --parallel $(JOBS)
	$(PYTHON) -m pytest tests/python

.PHONY: gpu-test
gpu-test: deps-test  ## Builds and runs the suites that need a GPU (SANITIZE=1: under compute-sanitizer); MILLRACE_TENSORRT names TensorRT's folder
	@$(CONFIGURE) --preset dev > /dev/null
	@$(CMAKE) --build --preset dev --parallel $(JOBS) --target gpu_suite millrace
	@test -f build/gpu-variants/labels.json || $(PYTHON) tests/gpu/variants.py prepare
	@$(CMAKE) --install build/dev --component library --prefix build/gpu/installed > /dev/null
	@tests/gpu/run.py --bin build/dev/bin $(if $(SANITIZE),--sanitize --jobs $(JOBS))

.PHONY: check-models
check-models: deps-test  ## Writes every model of the benchmarks, in FP32 and FP16, and checks it with ONNX Runtime (4 GB of memory)
	@for model in mlp resnet50 bert-base-128 bert-base-384 yolov4-416 yolov4-608; do \
	  $(PYTHON) tools/models/write.py $$model --output build/models; \
	  $(PYTHON) tools/models/write.py $$model --output build/models --fp16; \
	  $(PYTHON) tools/models/check.py build/models/$$model.onnx build/models/$$model-fp16.onnx; \
	  rm build/models/$$model.onnx build/models/$$model-fp16.onnx; \
	done

# SOAK: more arguments, such as --devices 0,1 --option precision=fp16 or a model.
MINUTES ?= 9
.PHONY: gpu-soak
gpu-soak: deps-test  ## Runs load with random sizes, cancels and reloads for MINUTES minutes (9)
	@$(CONFIGURE) --preset dev > /dev/null
	@$(CMAKE) --build --preset dev --parallel $(JOBS) --target gpu_soak
	@build/dev/bin/gpu_soak --minutes $(MINUTES) $(SOAK)

.PHONY: sanitize
sanitize: sanitize-asan sanitize-tsan  ## Runs every test under ASan with UBSan, then under TSan

# LABELS, a regular expression, limits the run to those suites; .ci/run sets it.
.PHONY: sanitize-asan sanitize-tsan
sanitize-asan sanitize-tsan: sanitize-%: deps-test
	@$(CONFIGURE) --preset $* > /dev/null
	@$(CMAKE) --build --preset $* --parallel $(JOBS) --target $(if $(LABELS),core_suites,all)
	$(CTEST) --preset $* --parallel $(JOBS) $(if $(LABELS),--label-regex '$(LABELS)')

.PHONY: fuzz
fuzz: deps-test  ## Runs every fuzz target for FUZZ_SECONDS seconds (clang 16)
	@python3 tools/deps/fetch.py fuzz
	@$(CMAKE) --preset fuzz > /dev/null
	@$(CMAKE) --build --preset fuzz --parallel $(JOBS) --target fuzzers
	@tools/fuzz.sh $(FUZZ_SECONDS)

.PHONY: bench
bench: deps-test  ## Builds and runs the benchmarks, and records them in docs/benchmarks/ (CELLS="..." runs some)
	@$(CONFIGURE) --preset release -DMILLRACE_TESTS=ON > /dev/null
	@$(CMAKE) --build --preset release --parallel $(JOBS) --target millrace benchmarks
	@$(PYTHON) bench/run.py $(CELLS)

.PHONY: bundle
bundle: build  ## Makes build/bundle, a folder that runs on another Linux machine
	@rm -rf build/bundle
	@$(CMAKE) --install build/release --component program --prefix build/bundle > /dev/null
	@cd build/bundle && bin/millrace --version && du -sh .

.PHONY: deps-lint
deps-lint: deps-test
	@python3 tools/deps/fetch.py lint

.PHONY: lint
lint: deps-lint  ## Checks formatting, include directions and clang-tidy; changes nothing
	@git ls-files -co --exclude-standard -- '*.h' '*.cpp' '*.cu' | xargs .deps/bin/clang-format --dry-run --Werror
	@python3 tools/check_includes.py
	@$(CONFIGURE) --preset dev > /dev/null
	@tools/tidy.sh

.PHONY: format
format: deps-lint  ## Formats the sources in place
	@git ls-files -co --exclude-standard -- '*.h' '*.cpp' '*.cu' | xargs .deps/bin/clang-format -i

.PHONY: clean
clean:  ## Removes build/ (and keeps .deps/)
	rm -rf build
