# Everything that this repository does from a fresh clone. Every target installs what it needs by itself.
#
#   make demo    render a small video set, pre-train on it, inpaint clips that were not trained on (about 10 minutes)
#   make test    lint and all tests, on the CPU (those in a browser where chromium is installed)
#   make lint    lint alone
#   make venv    the environment alone; again only after setup.py or constraints.txt changed
#   make clean   remove the environment and the caches; what you trained stays
#
#   make venv PYTHON=python3.12     another interpreter
#   make test WORKERS=8             more test processes

.PHONY: demo test lint venv clean
.DELETE_ON_ERROR:

VENV := .venv
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
WORKERS ?= 2

# The first interpreter that starts; one that is only a name (a version manager's shim) does not answer --version.
INTERPRETERS := python3.11 python3.12 python3.13 python3
PYTHON ?= $(firstword $(foreach name,$(INTERPRETERS),$(if $(shell $(name) --version 2>/dev/null),$(name))))

# PyPI's torch for Linux brings gigabytes of CUDA libraries, so machines without an NVIDIA GPU are offered PyTorch's
# index of CPU builds, for torch alone. No retries: where that index cannot be reached, pip goes on with the others.
GPUS = $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
TORCH_INDEX = $(if $(filter 0,$(GPUS)),--retries 0 --extra-index-url https://download.pytorch.org/whl/cpu)

demo: $(STAMP)
	$(VENV)/bin/python tools/demo.py

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .

venv: $(STAMP)

# torch first and by itself: the index of CPU builds is for it alone, and nothing after it may replace it. timm last and
# alone: it asks for torchvision, which has to stay absent, and the one test that compares with timm does without.
$(STAMP): setup.py pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed (found: '$(PYTHON)'): install one, or name it with PYTHON=..."; exit 1; }
	@test -x $(VENV)/bin/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing torch, then everything else (one to several minutes, once)"
	@$(PIP) install --quiet -c constraints.txt $(TORCH_INDEX) torch
	@$(PIP) install --quiet -c constraints.txt -e ".[demo,page,dev]"
	@$(PIP) install --quiet -c constraints.txt --no-deps timm
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
