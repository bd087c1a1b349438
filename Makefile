# `make demo` and `make test` are all a newcomer needs: each makes .venv where it is missing.
PYTHON ?= python3.11
BIN := .venv/bin
STATUS = @printf '\n== %s\n'
# WHEELS=folder: packages come from wheels that were carried along, and no network is needed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(if $(WHEELS),--no-index --find-links $(WHEELS))

.PHONY: setup demo test test-long test-faults test-mpi test-cuda-emulated cuda-compile lint doctor cuda-check clean

setup: .venv/runtime

.venv/runtime: requirements.txt
	$(STATUS) "installing what training needs into .venv"
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	@touch $@

.venv/dev: .venv/runtime requirements-dev.txt requirements-cuda-emulation.txt
	$(STATUS) "installing what tests need (PyTorch, PEFT, pytest) into .venv"
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: .venv/runtime
	$(STATUS) "training gpt2-nano with LoRA on the embedded dialogues"
	@rm -rf runs/demo
	$(BIN)/python train.py --task dailydialog --data-dir sample --model nano --output-dir runs/demo \
		--epochs 8 --learning-rate 3e-3
	$(STATUS) "drawing the loss curves"
	$(BIN)/python plot_loss.py runs/demo
	$(STATUS) "asking: Do you like coffee?"
	$(BIN)/python generate.py --adapter runs/demo --prompt "Do you like coffee?" --greedy

test: .venv/dev
	$(STATUS) "running the test suite"
	$(BIN)/python -m pytest
	$(BIN)/lint-imports

# what `make test` does once, in more cases: every recipe, 16-bit runs, full tuning that is interrupted, races
test-long: .venv/dev
	$(STATUS) "running the long tests"
	$(BIN)/python -m pytest -m long

# as `make test` does it, and longer: twenty kills of one run, 500 fuzzed inputs, memory over 5,000 steps
test-faults: .venv/dev
	$(STATUS) "killing, filling, flipping, fuzzing"
	$(BIN)/python -m pytest -m "" -s tests/faults

# two processes on the CPU; where there is no Open MPI, pip's goes into .venv
test-mpi: .venv/dev
	$(STATUS) "training in two processes"
	@command -v mpirun >/dev/null && command -v mpicc >/dev/null || \
		$(PIP) -r requirements-mpi.txt
	$(BIN)/python -m pytest -m mpi -rs -s tests/faults/test_mpi.py

# Jittor's CUDA path on a device that g++ emulates; the first run compiles Jittor's core for it, about 5 minutes
test-cuda-emulated: .venv/dev
	$(STATUS) "running what Jittor generates for CUDA, on the CPU"
	$(BIN)/python -m pytest -m "cuda_emulation or not cuda_emulation" -rs -s tests/cuda_emulation

# every CUDA kernel of training and generation, by a real nvcc of CUDA 11 or 12 (nvcc_path, cc_path); needs no GPU
cuda-compile: .venv/dev
	$(STATUS) "compiling for sm_70 to sm_90"
	$(BIN)/python -m tools.cuda.compile
	$(STATUS) "counting bytes"
	$(BIN)/python -m tools.cuda.bytes

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

doctor: .venv/runtime
	$(BIN)/python -m gpt2_jittor.doctor

# for whoever has a GPU: all that this project would like to know of it, in runs/cuda-check, within ten minutes (QUICK=1:
# five); WHEELS=folder without a network, TORCH_PYTHON=python with PyTorch elsewhere; SIZE=tiny is a rehearsal
SIZE ?= gpt2
cuda-check: .venv/runtime
	@$(MAKE) --no-print-directory .venv/dev || echo "the packages for tests are not complete: what needs them will say so"
	$(STATUS) "checking CUDA: doctor, comparisons with PyTorch, races, a profile"
	$(BIN)/python -m tools.cuda.check --size $(SIZE) $(if $(QUICK),--quick) \
		$(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON))

clean:
	rm -rf .venv runs/demo
