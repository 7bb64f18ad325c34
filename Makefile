# make install    creates .venv with everything that the project needs
# make demo       generates a marketplace log, trains HSTU with and without prior heads, shows recommendations,
#                 and writes a page of results; all files are in demo/ (under 10 minutes on 2 cores)
# make test       runs the tests (about 5 minutes on 2 cores)
# make test-slow  runs the tests that take longer
# make test-campaigns  runs the tests that take many minutes or hours
# make test-mutants  changes the core in 200 places, and looks whether a test notices
# make test-extras  runs the tests that need Spark, S3, a browser, Redis, Sphinx, Triton, Kubernetes or Ray, in .venv-extras
# make check      runs formatter, linter, import layers and type checker
# make format     runs the formatter and the linter's automatic repairs
# make docs       builds the documentation site in site/, from README.md, docs/ and datasets/; a warning is an error
# make docs-serve builds the site, and shows it at http://127.0.0.1:8080 (PORT=8081 chooses another port)
# make docs-keys  generates docs/keys.md from the settings
# make components generates components/ from the options of the apps
# make clean      removes .venv and the caches of the tools
#
# All but `clean` call `make install` first if needed.

RUN = .venv/bin/
PORT = 8080
SOURCES = torchrec_priors datasets components tests tools docs/site

.PHONY: install demo test test-slow test-campaigns test-mutants test-extras check format docs docs-serve docs-keys \
	components clean

install: .venv/installed

.venv/installed: pyproject.toml tools/install.sh tools/fbgemm_gpu_on_cpu/pyproject.toml
	@sh tools/install.sh

demo: install
	@$(RUN)python tools/demo.py

test: install
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -m "not slow and not campaign" -n 2 --dist worksteal

test-slow: install
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -m "slow and not campaign" -n 2 --dist worksteal --timeout 1200

test-campaigns: install
	$(RUN)python -m pytest -m campaign --timeout 3600

test-mutants: install
	$(RUN)python -m pip install --quiet --disable-pip-version-check 'mutmut>=3.8,<4'
	OMP_NUM_THREADS=1 $(RUN)python tools/mutants.py

test-extras: install
	@sh tools/test_extras.sh

check: install
	$(RUN)ruff format --check $(SOURCES)
	$(RUN)ruff check $(SOURCES)
	$(RUN)lint-imports
	$(RUN)mypy

format: install
	$(RUN)ruff format $(SOURCES)
	$(RUN)ruff check --fix $(SOURCES)

docs: install
	$(RUN)python -m pip install --quiet --disable-pip-version-check 'sphinx>=8.2' 'myst-parser>=4' 'furo>=2024.8.6'
	$(RUN)python -m sphinx --quiet --fail-on-warning --keep-going -c docs/site -d site/.doctrees . site
	@echo "The site: $(CURDIR)/site/index.html"

docs-serve: docs
	@echo "Served at http://127.0.0.1:$(PORT) (Ctrl+C ends it)"
	@$(RUN)python -m http.server $(PORT) --bind 127.0.0.1 --directory site

docs-keys: install
	$(RUN)python tools/write_keys.py

components: install
	$(RUN)python tools/components.py

clean:
	rm -rf mutants site .venv .venv-extras .pytest_cache .mypy_cache .ruff_cache .hypothesis
