# `just` lists what there is to run.
default:
    @just --list --unsorted

# exactly what CI runs
check:
    scripts/test.sh

# the tools, servers and clients of the tests
setup:
    scripts/setup.sh

# format, lints and tests, without real clients
quick *ARGS:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo nextest run {{ARGS}}

# real clients against real servers
clients *ARGS:
    scripts/clients.sh {{ARGS}}

# the whole path on loopback
demo:
    cargo run --release -- demo

# keyward beside its peers; takes long
bench *ARGS:
    scripts/bench.sh {{ARGS}}

# one fuzz target for a minute: connect_line, head, scrubber, config, path_pattern
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# advisories, licences, sources, duplicates
deny:
    cargo deny check

# write the pages and snapshots that are made from the code
bless:
    KEYWARD_BLESS=1 cargo test config::tests::docs

# the container image
image:
    scripts/image.sh
