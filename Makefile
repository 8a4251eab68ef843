# What can be done here. `make demo` and `make test` do all of the set-up themselves.
.DEFAULT_GOAL := help
.PHONY: help demo test test-containers check accuracy setup tools image up down

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Build, recognise a picture over gRPC, show that its quota survives a killed Redis
	@cargo build --bin img2text
	@scripts/demo target/debug/img2text

test: setup tools ## Run every test, on real Redis, real Tesseract and real clients
	cargo test

test-containers: setup tools image ## Prove persistence with the real containers (needs Docker)
	cargo build --bin img2text
	tests/containers/run target/debug/img2text

check: setup ## Check the format of the code, and lint it
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

accuracy: setup ## Compare what is read with the truth, beside plain Tesseract
	cargo bench --bench accuracy

setup: ## Install the system packages that are missing
	@scripts/setup

tools: target/tools/.installed ## Install the clients that the tests call (from PyPI, below target/)

target/tools/.installed: tests/requirements.txt
	@echo "Installing the clients that the tests call"
	@python3 -m venv --clear target/tools
	@target/tools/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

compose := docker-compose --file deploy/compose.yaml --env-file deploy/.env

image: ## Build the container image
	docker build --tag img2text .

up: deploy/.env ## Start img2text and its Redis in containers
	$(compose) up --detach --build

down: deploy/.env ## Stop the containers; the accounts stay in their volume
	$(compose) down

deploy/.env:
	@umask 077 && echo "REDIS_PASSWORD=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > $@
	@echo "Wrote $@ with a new password for Redis"
