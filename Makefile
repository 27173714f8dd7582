# The way in: `make test` from a bare Debian 12 machine installs what is missing, builds and tests. CMake does the work.
#
#   make deps     Debian packages (deploy/packages.txt; make test takes packages-test.txt too)
#   make build    everything into build/release (PRESET=dev, asan or tsan for another)
#   make test     build, then every test; ctest's summary comes last
#   make fuzz     every fuzz target for FUZZ_SECONDS=60; make test does 5
#   make torture  build, then the long forms of tests/torture (hours)
#   make bench-quick   build, then the engine's speed as shares of the BLAS's, against the committed baseline
#   make package  build, then a Debian package in build/package
#   make image    a Docker image, mnemosyne:0.1.0 (deploy/Dockerfile)
#   make demo     build, then a server, a book and questions about it
#   make format   clang-format over our sources
#   make lint     clang-tidy over our sources, buf over the proto
#   make clean    remove build/

PRESET ?= release
FUZZ_SECONDS ?= 60
JOBS ?= $(shell nproc)
SOURCES = git ls-files --cached --others --exclude-standard
# A second clone on one machine compiles from the cache, when there is one.
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)

.PHONY: deps build fuzzers test fuzz torture bench-quick demo package image format lint clean
.DEFAULT_GOAL := build

deps:
	@deploy/install_packages.sh

build: deps
	@cmake --preset $(PRESET)
	@cmake --build --preset $(PRESET) -j $(JOBS)

# Clang's, in a tree of their own: build/fuzz.
fuzzers: deps
	@cmake --preset fuzz
	@cmake --build --preset fuzz -j $(JOBS)

test: build fuzzers
	@deploy/install_packages.sh --list=packages-test.txt
	@ctest --preset $(PRESET) -j $(JOBS)

fuzz: fuzzers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) ctest --preset fuzz -j $(JOBS)

torture: build
	@MNEMOSYNE_TORTURE=1 ctest --preset $(PRESET) -L torture --verbose

bench-quick: build
	@build/$(PRESET)/bin/mnemo-bench engine --models=models/recall,models/babilong --nokinds --repeats=3 --json=build/$(PRESET)/engine.jsonl
	@bench/compare.py bench/results/engine.jsonl build/$(PRESET)/engine.jsonl

demo: build
	@python3 deploy/demo.py build/$(PRESET)/bin $(SEED)

package: build
	@deploy/install_packages.sh file
	@cpack -G DEB --config build/$(PRESET)/CPackConfig.cmake -B build/package

image:
	@docker build -f deploy/Dockerfile -t mnemosyne:0.1.0 .

format:
	@deploy/install_packages.sh clang-format
	@$(SOURCES) '*.cc' '*.h' | xargs -r clang-format -i

# In a tree of its own, without precompiled headers: clang-tidy does not read GCC's. Only the protos' code is built. What
# includes LibTorch 1.13's headers is left out: clang does not compile them as C++20.
lint: deps
	@deploy/install_packages.sh clang-tidy
	@cmake --preset lint
	@cmake --build --preset lint -j $(JOBS)
	@$(SOURCES) 'core/*.cc' 'server/*.cc' 'client/*.cc' 'bench/*.cc' ':!core/model' | \
	  xargs -r -n 1 -P $(JOBS) clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p build/lint
	@if command -v npm >/dev/null; then npm exec --yes --package=@bufbuild/buf -- buf lint; \
	  else echo 'no npm: buf lint was not run'; fi

clean:
	@rm -rf build
