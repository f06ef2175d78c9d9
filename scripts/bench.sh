#!/usr/bin/env bash
# Benchmarks, each beside its limit or a peer in the same run.
# Usage: bench.sh BINARY GUEST. Timings mean something on a quiet machine only:
# the load average is printed with them. About 15 minutes; QUICK=1 takes fewer
# and shorter rounds, ONLY=apply,start only these sections of e2e/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -tags=hashicorpmetrics"
binary=$1 guest=$2
echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores, $(uname -r), $(go version | cut -d' ' -f3), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo
echo "== tables and codec beside go-memdb and go-msgpack (NOVA_BENCH_VMS=${NOVA_BENCH_VMS:-200000})"
go test -run '^$' -bench . -benchtime "${BENCHTIME:-500ms}" -timeout 30m ./fsm
echo
echo "== placement engine beside sampling (log2 n nodes)"
go test -run '^$' -bench . -benchtime "${BENCHTIME:-500ms}" ./scheduler
echo
mkdir -p build
go build -o build/bench ./e2e/bench
build/bench -binary "$binary" -guest "$guest" ${QUICK:+-quick} ${ONLY:+-only "$ONLY"}
