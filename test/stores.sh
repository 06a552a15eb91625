#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/stores.sh: unpacks Debian's etcd, Consul and ZooKeeper, once, and prints where.
# Nothing is installed, and no service starts. ZooKeeper needs java besides.
set -eu

cache=${XDG_CACHE_HOME:-/var/cache}/fairlead # as in test/root.sh
root=$cache/stores
# Consul is in bullseye only. The libraries are what ZooKeeper's server loads; its package
# depends on three times as much.
packages="etcd-server/bookworm consul/bullseye libzookeeper-java/bookworm libslf4j-java/bookworm libnetty-java/bookworm
	libsnappy-java/bookworm libdropwizard-metrics-java/bookworm libjackson2-core-java/bookworm libjackson2-databind-java/bookworm
	libjackson2-annotations-java/bookworm liblog4j1.2-java/bookworm"
made_of=$(echo $packages)

mkdir -p "$cache"
exec 9>"$cache/stores.lock"
flock 9
if [ "$(cat "$root/made-of" 2>/dev/null)" != "$made_of" ]; then
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
		grep -E '^https?://' | head -n 1)
	half=$cache/stores.half
	rm -rf "$half"
	mkdir -p "$half/apt/lists/partial" "$half/apt/cache/archives/partial"
	echo "unpacking etcd, Consul and ZooKeeper, which stay in $root" >&2
	# Lists and archives of their own: those of the machine stay as they are.
	for suite in bookworm bullseye; do
		echo "deb ${mirror:-http://deb.debian.org/debian} $suite main"
	done >"$half/apt/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc::sourcelist="$half/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$half/apt/lists" \
			-o Dir::Cache="$half/apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
			-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@" >&2
	}
	(
		cd "$half"
		apt update
		# shellcheck disable=SC2086 # the list is words
		apt download $packages
		for deb in *.deb; do
			dpkg -x "$deb" .
		done
		rm -rf ./*.deb apt
	)
	echo "$made_of" >"$half/made-of"
	rm -rf "$root"
	mv "$half" "$root"
fi
echo "$root"
