# What can be done here. `make demo` and `make test` do all of the set-up themselves.
.DEFAULT_GOAL := help
.PHONY: help demo test test-containers check accuracy setup tools supply-chain image up token monitoring down

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Build, recognise a picture over gRPC, show that its quota survives a killed Redis
	@cargo build --bin img2text
	@scripts/demo target/debug/img2text

test: setup tools ## Run every test, on real Redis, real Tesseract and real clients
	cargo test

# The client is the program that `make test` builds: with other features it would be built once more.
test-containers: setup tools image ## Prove persistence with the real containers (needs Docker and root)
	cargo test --no-run --test promises
	tests/containers/run target/debug/img2text

check: setup ## Check the format of the code, and lint it
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

supply-chain: setup tools ## Check licences, sources and use of the dependencies; their known weaknesses, where that list can be had
	@target/tools/bin/cargo-deny check licenses bans sources
	@target/tools/bin/cargo-shear
	@if timeout 60 target/tools/bin/cargo-deny fetch db >/dev/null 2>&1; then \
	  target/tools/bin/cargo-deny check advisories; \
	else \
	  echo "skipped: known weaknesses (RustSec's list of them cannot be reached)"; \
	fi

accuracy: setup ## Compare what is read with the truth, beside plain Tesseract
	cargo bench --bench accuracy

setup: ## Install the system packages that are missing
	@scripts/setup

tools: target/tools/.installed target/tools/bin/promtool ## Install what the tests call (from PyPI and Debian, below target/)

target/tools/.installed: tests/requirements.txt
	@echo "Installing the clients that the tests call"
	@python3 -m venv --clear target/tools
	@target/tools/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# After the others: installing them empties the directory.
target/tools/bin/promtool: target/tools/.installed
	@echo "Fetching promtool"
	@scripts/promtool $@

compose := docker-compose --file deploy/compose.yaml --env-file deploy/.env

image: ## Build the container image
	@docker build --tag img2text . >&2

# What is shown goes to stderr, and to stdout only a token that was made: a script can take it.
up: image deploy/.env deploy/config/callers.toml ## Start img2text and its Redis in containers; shows a token the first time
	@$(compose) up --detach >&2

token: image ## Make a token for one more caller: make token NAME=bot SCOPE=recognize,quota.read
	@deploy/token "$(NAME)" "$(SCOPE)"

monitoring: up ## Start Prometheus and Grafana beside them
	@grep -q '^GRAFANA_PASSWORD=' deploy/.env || \
	  echo "GRAFANA_PASSWORD=$$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')" >>deploy/.env
	@$(compose) --profile monitoring up --detach >&2
	@echo "Grafana: http://127.0.0.1:3000, user admin, password GRAFANA_PASSWORD in deploy/.env" >&2

down: deploy/.env ## Stop the containers; the accounts stay in their volume
	$(compose) --profile monitoring down

deploy/.env:
	@umask 077 && echo "REDIS_PASSWORD=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > $@
	@echo "Wrote $@ with a new password for Redis" >&2

deploy/config/callers.toml: | image
	@echo "The token of the first caller, operator, who may do everything; it is shown this once:" >&2
	@deploy/token operator recognize,quota.read,quota.spend,quota.admin,storage
