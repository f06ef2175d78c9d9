#!/usr/bin/env bash
# What must hold of the source: format, vet, generated files up to date, go.mod
# tidy, floors and file sizes (arch_test.go).
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -tags=hashicorpmetrics"
fail=0
say() { printf '%-12s %s\n' "$1" "$2"; }

unformatted=$(gofmt -l $(git ls-files '*.go' | grep -v '_gen\.go$'))
if [ -n "$unformatted" ]; then say format "FAILED: $unformatted"; fail=1; else say format ok; fi

if go vet ./... && go vet -tags=hashicorpmetrics,e2e ./e2e/... && go vet -tags=hashicorpmetrics,faultpoints ./api/faultpoint && go vet -tags=hashicorpmetrics,mutant ./api/mutant ./fsm ./agent/client; then say vet ok; else say vet FAILED; fail=1; fi

before=$(git ls-files '*_gen.go' | xargs sha256sum)
go generate ./...
if [ "$before" = "$(git ls-files '*_gen.go' | xargs sha256sum)" ]; then say generated ok; else say generated "FAILED: commit what 'make generate' changes"; fail=1; fi

cp go.mod /tmp/go.mod.$$; cp go.sum /tmp/go.sum.$$
go mod tidy >/dev/null 2>&1 || true
if cmp -s go.mod /tmp/go.mod.$$ && cmp -s go.sum /tmp/go.sum.$$; then say go.mod ok; else say go.mod "FAILED: not tidy"; mv /tmp/go.mod.$$ go.mod; mv /tmp/go.sum.$$ go.sum; fail=1; fi
rm -f /tmp/go.mod.$$ /tmp/go.sum.$$

if go test -count=1 -run 'TestFloors|TestPackage|TestFile' . ; then say floors ok; else say floors FAILED; fail=1; fi
for f in scripts/*.sh e2e/guest/build.sh .ci/run; do bash -n "$f" || fail=1; done
exit $fail
