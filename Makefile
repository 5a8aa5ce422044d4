# Each clone builds in a directory of its own: clones that share one take each other's crates for
# their own. What is dear, RocksDB, is compiled once for all clones (scripts/rocksdb.sh).
export CARGO_TARGET_DIR ?= $(CURDIR)/target

# What `make setup` found out: where libclang is, when that is not obvious, and where RocksDB is.
EXPORTS := $(CARGO_TARGET_DIR)/setup/exports
CARGO = . "$(EXPORTS)" && cargo
XTASK = "$(CARGO_TARGET_DIR)/release/xtask"

# The profile of everything that tests run: with debug assertions (Cargo.toml).
TESTED = --profile tested

# The load of `make faults`, and how many of a hundred of its requests have a fault.
FAULT_REQUESTS ?= 100000
FAULT_PERCENT ?= 1

# `make fuzz`: how many inputs each property is tried with, for how long each target runs, and which (all).
FUZZ_CASES ?= 20000
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=

# How many steps a history of `make soak` has: each of its requests is held against the whole store.
HISTORY_STEPS ?= 2000
# What the clients of `make soak` are, and how long they run.
SOAK_SECONDS ?= 3600
SOAK_GROUPS ?= 200
SOAK_CLIENTS ?= 2000

# The end-to-end tests by name: selecting their package instead would build everything again with its features.
END_TO_END = --test end_to_end
# Every other test program.
OTHERS = --lib --bins --test '[!e]*' --test 'e[!n]*'
# End-to-end tests in which the engine makes no difference: lies, faults on the way, tokens. They run
# on RocksDB; `make soak` runs them on PostgreSQL too.
ON_ANY_ENGINE = lying faults:: key_consistency:: unlinkability:: wallet:: views:: errors:: command_line:: sdk:: home:: strangers:: \
    refusals:: consent:: copies:: observed:: push:: samples:: damage::an_issuer damage::a_gateway

.DEFAULT_GOAL := help
.PHONY: help setup build programs stack demo test test-crates test-processes test-postgres python kotlin bindings have-python web-sdk test-web-sdk web web-build test-web interop bench compare lint fuzz soak faults bare clean

help:
	@echo 'make demo    the system at work: five users, a crash, removals, what each operator saw'
	@echo 'make test    set-up, build and every test'
	@echo 'make interop a second client, in TypeScript, talks with mimimi (fetches Node.js)'
	@echo 'make web     a messenger in the browser, with services on loopback, until Ctrl-C'
	@echo 'make test-web  its tests: types, units, Chromium on a fake SDK and on services'
	@echo 'make stack   relay, gateway, delivery service and issuer on loopback, until Ctrl-C;'
	@echo '             STORE=postgres: on a PostgreSQL server of its own instead of RocksDB'
	@echo 'make bench   what messages, reads and commits cost the service, a token at issuance and'
	@echo '             redemption, an unknown group, a request through relay and gateway, and'
	@echo '             a message and a file everybody on their whole path, and streams at the servers alone'
	@echo 'make compare  that message here and on ejabberd, in the clear (Debian, network, python3)'
	@echo 'make python  the SDK for Python: the wheel, and its tests against services on this machine'
	@echo 'make kotlin  the same, and programs in Kotlin on a JVM (Java, and the compiler from PyPI)'
	@echo 'make web-sdk  the SDK for browsers, as WebAssembly (Debian as root; or rustup and clang)'
	@echo 'make test-web-sdk  two pages in Chromium talk through services on this machine'
	@echo 'make bindings  writes those for Kotlin and Swift (bindings/generated)'
	@echo 'make lint    formatting, clippy, dependency rules, licences, claims'
	@echo 'make fuzz    decoders and parsers against random input: ten minutes each, guided by coverage'
	@echo 'make soak    what `make test` samples, whole: long histories, lies, games, both engines'
	@echo 'make faults  100,000 requests through relay and gateway, with faults, changes of keys'
	@echo '             and restarts meanwhile'
	@echo 'make build   all binaries;  make setup   what a build needs;  make clean'
	@echo 'make bare    `make test` on a fresh Debian tree (root; scripts/try-bare.sh has options)'

setup:
	@sh scripts/setup.sh "$(EXPORTS)"

build: setup
	$(CARGO) build --release --workspace --bins

programs: setup
	$(CARGO) build $(TESTED) --workspace --bins --examples

stack: build
	@$(XTASK) stack$(if $(STORE), --store $(STORE))

demo: build
	@$(XTASK) demo

# The same random input each time, so that what passes here passes anywhere: `make fuzz` and `make soak` draw anew.
test-crates test-processes test-postgres: export PROPTEST_RNG_SEED ?= 1
test-crates test-processes test-postgres: export HISTORY_SEED ?= 1
# More tests than cores at a time: most of them wait for processes, clocks and patience.
test-crates test-processes: export RUST_TEST_THREADS ?= $(shell echo $$(( 2 * $$(nproc) )))
test-postgres: export RUST_TEST_THREADS ?= $(shell nproc)

# All is built first. Then three parts run beside each other, since most tests wait; each is shown
# when it has ended.
test: programs
	$(CARGO) test $(TESTED) --workspace --no-run
	$(MAKE) --jobs 3 --output-sync=target test-crates test-processes test-postgres

test-crates:
	$(CARGO) test $(TESTED) --workspace $(OTHERS)
	$(CARGO) test $(TESTED) --workspace --doc

test-processes:
	$(CARGO) test $(TESTED) --workspace $(END_TO_END)

test-postgres:
ifneq ($(MIMIMI_WITHOUT_POSTGRES),1)
	STACK_STORE=postgres sh -c '$(CARGO) test $(TESTED) --workspace $(END_TO_END) -- $(addprefix --skip=,$(ON_ANY_ENGINE))'
endif

# The client in interop/ against the programs that tests run. Node.js comes from PyPI and its
# packages from npm, both pinned by hash; npm runs no script of theirs.
interop: programs
	@sh scripts/npm.sh interop ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@sh scripts/npm.sh interop run --silent check
	@INTEROP_BIN="$(CARGO_TARGET_DIR)/tested" sh scripts/npm.sh interop run --silent test

# The messenger: packages from npm by hash, whose scripts are not run.
web-build: web-sdk
	@sh scripts/npm.sh web ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@sh scripts/npm.sh web run --silent build

web: build web-build
	@sh scripts/npm.sh web run --silent serve

test-web: web-build programs
	@sh scripts/npm.sh web run --silent check
	@sh scripts/npm.sh web run --silent test
	@sh scripts/npm.sh web run --silent build:fake
	@sh scripts/npm.sh web run --silent test:fake
	@WEB_PROGRAMS="$(CARGO_TARGET_DIR)/tested" sh scripts/npm.sh web run --silent test:services

web-sdk:
	sh scripts/wasm.sh

# Chromium is Debian's. The programs are those that tests run.
test-web-sdk: web-sdk programs
	@chromium=$$(sh scripts/chromium.sh) && \
	    CHROMIUM="$$chromium" WEB_SDK_BIN="$(CARGO_TARGET_DIR)/tested" sh scripts/npm.sh web-sdk test

# The wheel as it is for others, in cargo's profile PROFILE; the services that its tests run in TESTED.
python kotlin bindings: export PROFILE ?= library
python: have-python programs
	. "$(EXPORTS)" && scripts/python.sh

kotlin: python
	. "$(EXPORTS)" && scripts/kotlin.sh

bindings: have-python programs
	. "$(EXPORTS)" && scripts/python.sh bindings

# Before much is built for nothing.
have-python:
	@scripts/python.sh needs

# The programs first: some of them run services.
bench: build
	$(CARGO) bench --workspace --bench delivery --bench whole_path --bench attachments --bench streams --bench messages --bench oblivious --bench gateway --bench issuance --bench redemption --bench state_key --bench aead --bench feed

# Both in one run. Unpacks ejabberd in a temporary directory and installs nothing.
compare: build
	$(CARGO) bench --workspace --bench whole_path
	python3 scripts/compare.py

lint: export RUSTDOCFLAGS = -D warnings -A rustdoc::private_intra_doc_links
lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(TESTED) --workspace --all-targets -- -D warnings
	$(CARGO) doc $(TESTED) --workspace --no-deps
	$(CARGO) xtask check-deps
	$(CARGO) xtask check-claims
	$(CARGO) xtask check-docs
	sh scripts/deny.sh

# Properties over random input, many more of it than `make test` takes.
# Properties first: they take minutes.
fuzz: setup
	PROPTEST_CASES=$(FUZZ_CASES) sh -c '$(CARGO) test $(TESTED) --workspace --lib --test oblivious'
	FUZZ_SECONDS=$(FUZZ_SECONDS) sh -c '. "$(EXPORTS)" && scripts/fuzz.sh $(FUZZ_TARGETS)'

# What `make test` takes a sample of: an hour of many clients and trouble (SOAK_SEED repeats what
# was drawn), random histories of groups (HISTORY_SEED repeats one), the game of identifiers, lies, and
# all end-to-end tests on PostgreSQL.
soak: export THOROUGH = 1
soak: programs
	HISTORY_STEPS=$(HISTORY_STEPS) sh -c '$(CARGO) test $(TESTED) --workspace --lib long_history -- --nocapture'
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_GROUPS=$(SOAK_GROUPS) SOAK_CLIENTS=$(SOAK_CLIENTS) sh -c '$(CARGO) test $(TESTED) --workspace $(END_TO_END) soak:: -- --nocapture'
	$(CARGO) test $(TESTED) --workspace --test client identifiers::
	$(CARGO) test $(TESTED) --workspace $(END_TO_END) lying
	STACK_STORE=postgres sh -c '$(CARGO) test $(TESTED) --workspace $(END_TO_END)'

# Every request executed once and answered, under a load; FAULT_SEED repeats what was drawn.
faults: programs
	FAULT_REQUESTS=$(FAULT_REQUESTS) FAULT_PERCENT=$(FAULT_PERCENT) sh -c '$(CARGO) test $(TESTED) --workspace $(END_TO_END) -- --nocapture faults::'

# Whether set-up installs all that it needs: this machine has what was installed by hand.
bare:
	scripts/try-bare.sh

clean:
	cargo clean
