# `make demo` and `make test` are all a newcomer needs: each makes .venv where it is missing.
# the first of these that is a Python 3.10 to 3.13; `make PYTHON=…` names another
PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.13 python3.11 python3.10,$(shell \
	$(name) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --use-pep517
ifdef WHEELS  # a folder of wheels that were carried along: no network is needed
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif
CUDA ?= 1
STATUS = @printf '\n== %s\n'

.PHONY: setup demo test test-short test-pythons test-long test-faults test-mpi test-cuda-emulated test-clients lm-eval cuda-compile align lint doctor cuda-check clean

setup: $(VENV)/runtime
	@$(CUDA_TOOLKIT)

# a CUDA toolkit from PyPI, where there is a device that needs one (docs/cuda.md); CUDA=0 does without
CUDA_TOOLKIT = $(if $(filter-out 0,$(CUDA)),$(BIN)/python -m gpt2_jittor.runtime.cuda.wheels)

$(VENV)/runtime: requirements.txt requirements-jittor.txt requirements-cuda.txt
	$(if $(PYTHON),,$(error no Python 3.10 to 3.13 was found: install one, or name it, make $(MAKECMDGOALS) PYTHON=...))
	$(STATUS) "installing what training needs into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-jittor.txt
	@$(CUDA_TOOLKIT)
	@touch $@

$(VENV)/dev: $(VENV)/runtime requirements-dev.txt requirements-cuda-emulation.txt requirements-trackers.txt
	$(STATUS) "installing what tests need (PyTorch, PEFT, pytest) into $(VENV)"
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: $(VENV)/runtime
	$(STATUS) "training gpt2-nano with LoRA on the embedded dialogues"
	@rm -rf runs/demo
	$(BIN)/python train.py --task dailydialog --data-dir sample --model nano --output-dir runs/demo \
		--epochs 8 --learning-rate 3e-3 --lora-r 32 --lora-alpha 64
	$(STATUS) "drawing the loss curves"
	$(BIN)/python plot_loss.py runs/demo
	$(STATUS) "asking: Do you like coffee?"
	$(BIN)/python generate.py --adapter runs/demo --prompt "Do you like coffee?" --greedy

# two processes, each with a part of it; a thread that waits for the others lets them work
WORKERS ?= 2
test: $(VENV)/dev
	$(STATUS) "running the test suite"
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	$(BIN)/lint-imports

# what `make test` does once, in more cases: every recipe, 16-bit runs, full tuning that is interrupted, races
test-long: $(VENV)/dev
	$(STATUS) "running the long tests"
	$(BIN)/python -m pytest -m long

# as `make test` does it, and longer: twenty kills of one run, 500 fuzzed inputs, memory over 5,000 steps
test-faults: $(VENV)/dev
	$(STATUS) "killing, filling, flipping, fuzzing"
	$(BIN)/python -m pytest -m "" -s tests/faults

# what a Python and its numpy decide, on the others that are supported; each has a .venv of its own, compiles a core of
# its own, and is on the PATH or one of pyenv's
PYTHONS ?= 3.10 3.12 3.13
test-pythons: $(PYTHONS:%=test-python-%)
test-python-%:
	@$(MAKE) --no-print-directory VENV=.venv-$* test-short PYTHON="$(firstword $(foreach name,python$* \
		$(wildcard $(HOME)/.pyenv/versions/$*.*/bin/python),$(shell $(name) -c '' 2>/dev/null && echo $(name))))"

# arrays to and from Jittor, parity with PyTorch and PEFT, sessions, training, resuming, the commands
test-short: $(VENV)/dev
	$(STATUS) "running a short suite on $$($(BIN)/python --version)"
	$(BIN)/python -m pytest tests/common tests/runtime tests/model/test_lm.py tests/lora/test_lora.py \
		tests/generation/test_console.py tests/training/test_trainer.py tests/training/test_resume.py \
		tests/commands/test_end_to_end.py

# several processes on the CPU; where there is no Open MPI, pip's goes into .venv
test-mpi: $(VENV)/dev
	$(STATUS) "training in several processes"
	@command -v mpirun >/dev/null && command -v mpicc >/dev/null || \
		$(PIP) -r requirements-mpi.txt
	$(BIN)/python -m pytest -m mpi -rs -s tests/faults/test_mpi.py

# Jittor's CUDA path on a device that g++ emulates; the first run compiles Jittor's core for it, about 5 minutes
test-cuda-emulated: $(VENV)/dev
	$(STATUS) "running what Jittor generates for CUDA, on the CPU"
	$(BIN)/python -m pytest -m "cuda_emulation or not cuda_emulation" -rs -s tests/cuda_emulation

# the server before programs that others wrote, and its page in Debian's or another Chromium, where there is one
test-clients: $(VENV)/dev requirements-clients.txt
	$(STATUS) "asking the server as its clients do"
	$(PIP) -r requirements-clients.txt
	$(BIN)/python -m pytest -m clients -rs tests/serving tests/lora/gguf/test_gguf_llama_cpp.py

# lm-evaluation-harness asks the server and PyTorch the same, of nano and of an adapter (docs/evaluation-harness.md)
JUDGED := runs/lm-eval
lm-eval: $(VENV)/runtime .venv-lm-eval/installed $(JUDGED)/adapter_model.safetensors
	$(STATUS) "judging a served model and PyTorch's"
	$(BIN)/python -m tools.lm_eval.compare --adapter $(JUDGED)

.venv-lm-eval/installed: requirements-lm-eval.txt
	$(STATUS) "installing lm-evaluation-harness into .venv-lm-eval"
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check -r requirements-lm-eval.txt
	@touch $@

$(JUDGED)/adapter_model.safetensors: | $(VENV)/runtime
	$(STATUS) "training an adapter to be judged"
	$(BIN)/python train.py --task dailydialog --data-dir sample --model nano --output-dir $(JUDGED) --max-steps 60

# every CUDA kernel of training and generation, by a real nvcc of CUDA 11 to 13 (nvcc_path, cc_path); needs no GPU
cuda-compile: $(VENV)/dev
	$(STATUS) "compiling for every architecture"
	$(BIN)/python -m tools.cuda.compile
	$(STATUS) "counting bytes"
	$(BIN)/python -m tools.cuda.bytes

# this project beside PyTorch, update for update: curves, differences, times, memory (docs/alignment.md); ends with 1 where
# losses differ. DATA_DIR= is the hub's copy; OPTIONS="--lora-r 4 --device cuda": what train.py takes, too
STEPS ?= 200
TASK ?= dailydialog
MODEL ?= nano
DATA_DIR ?= sample
align: $(VENV)/dev
	$(STATUS) "aligning with PyTorch: $(MODEL) on $(TASK), $(STEPS) updates, without dropout and with it"
	$(BIN)/python -m tools.align --task $(TASK) --model $(MODEL) --steps $(STEPS) \
		$(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(OPTIONS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

doctor: $(VENV)/runtime
	$(BIN)/python -m gpt2_jittor.doctor

# for whoever has a GPU: all that this project would like to know of it, in runs/cuda-check, within ten minutes (QUICK=1:
# five); WHEELS=folder without a network, TORCH_PYTHON=python with PyTorch elsewhere; SIZE=tiny is a rehearsal
SIZE ?= gpt2
cuda-check: $(VENV)/runtime
	@$(MAKE) --no-print-directory $(VENV)/dev || echo "the packages for tests are not complete: what needs them will say so"
	$(STATUS) "checking CUDA: doctor, comparisons with PyTorch, races, a profile"
	$(BIN)/python -m tools.cuda.check --size $(SIZE) $(if $(QUICK),--quick) \
		$(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON))

clean:
	rm -rf .venv .venv-* runs/demo
