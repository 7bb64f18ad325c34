# make install   a virtual environment in .venv with everything the project needs
# make demo      sets up where needed, makes up a marketplace, trains HSTU without and with prior heads, shows what they
#                recommend, and writes a page of it; everything is kept in demo/ (under 10 minutes on 2 cores)
# make test      sets up where needed, then runs the tests (under 10 minutes on 2 cores)
# make check     formatter, linter, layers of imports and type checker; make format puts right what they can
# make docs-keys writes docs/keys.md from the settings
# make test-slow the longer checks
# make components writes components/ from the options of the apps

RUN = .venv/bin/
SOURCES = torchrec_priors datasets components tests tools

.PHONY: install demo test test-slow check format docs-keys components clean

install: .venv/installed

.venv/installed: pyproject.toml tools/install.sh tools/fbgemm_gpu_on_cpu/pyproject.toml
	@sh tools/install.sh

demo: install
	@$(RUN)python tools/demo.py

test: install
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: install
	$(RUN)python -m pytest -m slow --timeout 3600

check: install
	$(RUN)ruff format --check $(SOURCES)
	$(RUN)ruff check $(SOURCES)
	$(RUN)lint-imports
	$(RUN)mypy

format: install
	$(RUN)ruff format $(SOURCES)
	$(RUN)ruff check --fix $(SOURCES)

docs-keys: install
	$(RUN)python tools/write_keys.py

components: install
	$(RUN)python tools/components.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
