#!/usr/bin/env bash
# Runs the tests and closes with one line of summary and the coverage.
# Usage: test.sh unit | e2e GUEST | all GUEST
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -tags=hashicorpmetrics"
what=$1
rm -rf coverage
mkdir -p build coverage/unit coverage/e2e coverage/binary
go build -o build/report ./e2e/report
least=0 # unit tests alone do not run what needs a real machine
if [ "$what" = all ]; then least=80; fi

run_unit() {
  go test -json -timeout 20m -shuffle=on -coverpkg=./... -covermode=atomic \
    $(go list ./... | grep -v '/e2e$') -args -test.gocoverdir="$PWD/coverage/unit" || true
}
run_e2e() {
  go build -cover -covermode=atomic -coverpkg=./... -o build/novacron.cover .
  NOVA_BINARY=$PWD/build/novacron.cover NOVA_GUEST=$1 NOVA_COVER=$PWD/coverage/binary \
    go test -json -count=1 -timeout 40m -tags=hashicorpmetrics,e2e ./e2e || true
}
{
  case $what in
    unit) run_unit ;;
    e2e) run_e2e "$2" ;;
    all) export NOVA_LIBVIRT=1; run_unit; run_e2e "$2" ;;
    *) echo "usage: test.sh unit | e2e GUEST | all GUEST" >&2; exit 2 ;;
  esac
} | build/report -coverage coverage -least "$least"
