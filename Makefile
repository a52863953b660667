# The README's commands. `make help` lists them.

CHAT = examples/chat
PACKAGES = tests/rig/packages
BUILT = $(or $(CARGO_TARGET_DIR),target)/release
DEB_TOOLS = cc:gcc dh:debhelper dpkg-buildpackage:dpkg-dev pandoc:pandoc

export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo demo-hosts build deb deb-check test chaos fuzz bench profile test-setup ci fmt lint doc deny clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Serve the example chat with two workers on http://localhost:8080; Ctrl-C ends it
	$(PACKAGES) cc:gcc node:nodejs npm:npm
	npm ci --prefix $(CHAT) --no-fund --no-audit
	cargo build --release --locked
	exec $(BUILT)/cohortd run $(CHAT)/cohortd.toml

demo-hosts: ## The same on two hosts, network namespaces with a NATS between them; takes root
	$(PACKAGES) cc:gcc node:nodejs npm:npm ip:iproute2 nsenter:util-linux nats-server:nats-server
	npm ci --prefix $(CHAT) --no-fund --no-audit
	cargo build --release --locked --features nats
	exec $(CHAT)/hosts.sh $(BUILT)/cohortd

build: ## Build the two programs
	cargo build --release --locked

deb: ## Build the Debian package, reproducibly and without network: target/debian/cohortd_*.deb
	$(PACKAGES) $(DEB_TOOLS)
	packaging/build-deb.sh

deb-check: deb ## Is the package clean (lintian), the same when built elsewhere, gone when purged (piuparts)?
	$(PACKAGES) lintian:lintian piuparts:piuparts mmdebstrap:mmdebstrap
	packaging/check-deb.sh "$$(packaging/build-deb.sh)"

test: test-setup ## Run every test, those under a real systemd included
	cargo nextest run --locked --lib -E 'test(a_build_without)'
	cargo nextest run --locked --all-features

chaos: test-setup ## Ten minutes in which all goes wrong, under load, ten under systemd, 100 kills of cohortd on each systemd, and 50 faults between hosts on each bus; CHAOS_SEED=N repeats it
	CHAOS_SECONDS=$${CHAOS_SECONDS:-600} CHAOS_ROUNDS=$${CHAOS_ROUNDS:-100} HOSTS_ROUNDS=$${HOSTS_ROUNDS:-50} cargo test --locked --all-features --test it chaos_is_survived -- --nocapture --test-threads 1

fuzz: ## Fuzz what reads bytes of others, FUZZ_SECONDS=60 a target; needs cargo-fuzz and nightly Rust
	$(PACKAGES) c++:g++
	@cargo +nightly --version >/dev/null 2>&1 || { echo "error: no nightly Rust: rustup toolchain install nightly" >&2; exit 1; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo "error: no cargo-fuzz: cargo install cargo-fuzz --locked" >&2; exit 1; }
	for target in head proxy_header websocket wire_advanced wire_json; do \
		mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_len=512 \
			-malloc_limit_mb=64 -max_total_time=$${FUZZ_SECONDS:-60} -print_final_stats=1 || exit 1; \
	done

test-setup: ## Install what the tests need: Debian, npm and pip packages, cargo-nextest
	$(PACKAGES) cc:gcc node:nodejs npm:npm mmdebstrap:mmdebstrap mke2fs:e2fsprogs chromium:chromium \
		openssl:openssl ip:iproute2 setpriv:util-linux flock:util-linux script:bsdutils python3:python3 haproxy:haproxy \
		nginx:nginx nats-server:nats-server redis-server:redis-server lintian:lintian $(DEB_TOOLS)
	npm ci --prefix tests/js --no-fund --no-audit
	python3 -c 'import ensurepip' 2>/dev/null || $(PACKAGES) ensurepip:python3-venv
	python3 -m venv tests/py/.venv
	tests/py/.venv/bin/pip install --quiet --disable-pip-version-check -r tests/py/requirements.txt
	for app in chat sticky get-started; do npm ci --prefix examples/$$app --no-fund --no-audit || exit 1; done
	cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --locked

bench: ## Measure it beside nginx, HAProxy, PM2 and @socket.io's own, and write docs/benchmarks.md
	$(PACKAGES) cc:gcc npm:npm nginx:nginx haproxy:haproxy wrk:wrk nats-server:nats-server redis-server:redis-server
	npm ci --prefix benches/peers --no-fund --no-audit
	cargo build --release --locked --features nats,redis,tls
	exec benches/peers/node_modules/node24/bin/node benches/run.js

profile: ## Find out where the router's CPU goes, beside its peers', and write docs/profile.md
	$(PACKAGES) cc:gcc npm:npm nginx:nginx wrk:wrk perf:linux-perf
	npm ci --prefix benches/peers --no-fund --no-audit
	CARGO_TARGET_DIR=target/profile RUSTFLAGS="-C force-frame-pointers=yes" CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
		cargo build --release --locked
	CARGO_TARGET_DIR=target/profile BENCH_PROFILE=1 BENCH_ROUNDS=1 BENCH_ONLY=http,emit2,cohortd,handoff,nginx,cluster \
		exec benches/peers/node_modules/node24/bin/node benches/run.js

ci: ## What has to pass before a change lands
	.ci/run

fmt: ## Check the formatting
	cargo fmt --all --check

lint: ## clippy, with all features and with none; warnings are errors
	cargo clippy --all-targets --locked --all-features -- -D warnings
	cargo clippy --all-targets --locked -- -D warnings

doc: ## The crate's documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --all-features --document-private-items

deny: ## Licences, sources and duplicates of dependencies
	cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked
	cargo deny --log-level error check bans licenses sources

clean: ## Remove what was built and installed here
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts benches/peers/node_modules tests/js/node_modules
	rm -rf tests/py/.venv examples/*/node_modules
