#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/podman/root.sh: makes a root of Debian trixie with podman 5 and netavark, once,
# and prints its path. The machine's own libraries stay as they are. Needs debootstrap
# and the Debian mirror that the machine's apt names.
set -eu

suite=trixie
packages=podman,netavark,crun,curl
cache=${XDG_CACHE_HOME:-/var/cache}/fairlead
root=$cache/podman5

# mirror is the first that apt knows to be Debian's, which its lists say.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
		grep -E '^https?://' | head -n 1
}

# A root is whole when it has its name: it is made under another. If it was made of
# other packages, it is made again.
mkdir -p "$cache"
exec 9>"$cache/podman5.lock"
flock 9
if [ "$(cat "$root/made-of" 2>/dev/null)" != "$suite $packages" ]; then
	mirror=$(mirror)
	[ -n "$mirror" ] || {
		apt-get -qq update >&2 || :
		mirror=$(mirror)
	}
	[ -n "$mirror" ] || {
		echo "apt names no mirror of Debian (add one with http:// or https:// to its sources)" >&2
		exit 1
	}
	half=$cache/podman5.half
	rm -rf "$half"
	echo "making a root of Debian $suite with podman 5, which stays in $root" >&2
	# What it mounts in the root goes with the namespace, even if it is killed: the next
	# rm must not meet it.
	unshare -m debootstrap --variant=minbase --include="$packages" "$suite" "$half" "$mirror" >"$cache/podman5.log" 2>&1 || {
		tail -n 5 "$cache/podman5.log" >&2
		rm -rf "$half"
		exit 1
	}
	rm -rf "$half"/var/cache/apt/archives/*.deb "$half"/var/lib/apt/lists/*
	echo "$suite $packages" >"$half/made-of"
	rm -rf "$root"
	mv "$half" "$root"
	rm -f "$cache/podman5.log"
fi
echo "$root"
