#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/crictl.sh: builds crictl, which Debian 12 has not, from its Go module into the
# user's cache, once. Needs Go and the Go module proxy.
set -eu
: "${GO:=go}"

version=v1.37.0
dir=${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/crictl

if [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ]; then
	exit 0
fi
echo "building crictl $version in $dir"
mkdir -p "$dir"
GOBIN=$dir CGO_ENABLED=0 "$GO" install "sigs.k8s.io/cri-tools/cmd/crictl@$version"
echo "$version" >"$dir/version"
