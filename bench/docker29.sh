#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# bench/docker29.sh: builds Docker Engine 29 from its Go module, with its
# docker-proxy and the runc it needs, into the user's cache, once: make test and make
# bench call it. Needs Go, a C compiler and the Go module proxy.
set -eu
: "${GO:=go}"

moby=v2.0.0-beta.24
runc=v1.5.2
dir=${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/docker29

if [ "$(cat "$dir/versions" 2>/dev/null)" = "$moby $runc" ]; then
	exit 0
fi
echo "building Docker Engine 29 ($moby) and runc ($runc) in $dir; this takes minutes"
mkdir -p "$dir"
export GOBIN="$dir"
# runc enters namespaces in C. No seccomp filter is used, nor its library.
CGO_ENABLED=1 "$GO" install "github.com/opencontainers/runc@$runc"
CGO_ENABLED=1 "$GO" install "github.com/moby/moby/v2/cmd/docker-proxy@$moby"
CGO_ENABLED=1 "$GO" install "github.com/moby/moby/v2/cmd/dockerd@$moby"
echo "$moby $runc" >"$dir/versions"
