#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/root.sh NAME SUITE PACKAGES [MORE]: makes a root of Debian with these packages (a list with commas), once, and
# prints its path. The machine's own libraries stay as they are. MORE (a list with spaces) is not installed: these
# packages, with what they need, are a repository in /srv/debs there, which is its only one. Needs debootstrap and the
# Debian mirror that the machine's apt names.
set -eu

suite=$2 packages=$3 more=${4-}
made_of="$suite $packages${more:+ $more}"
cache=${XDG_CACHE_HOME:-/var/cache}/fairlead
root=$cache/$1
half=$root.half

# mirror is the first that apt knows to be Debian's, which its lists say.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
		grep -E '^https?://' | head -n 1
}

# repository downloads the additional packages into the root, by lists and archives of its own, and describes them there.
repository() {
	own=$half/srv/apt
	mkdir -p "$half/srv/debs" "$own/lists/partial" "$own/cache/archives/partial"
	echo "deb $mirror $suite main" >"$own/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc::sourcelist="$own/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$own/lists" \
			-o Dir::State::status="$half/var/lib/dpkg/status" -o Dir::Cache="$own/cache" -o APT::Sandbox::User=root \
			-o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
	}
	apt update
	# shellcheck disable=SC2086 # a list
	apt install -y --download-only --no-install-recommends $more
	mv "$own"/cache/archives/*.deb "$half/srv/debs"
	rm -rf "$own"
	(
		cd "$half/srv/debs"
		for deb in *.deb; do
			dpkg-deb -f "$deb"
			echo "Filename: ./$deb"
			echo "Size: $(stat -c %s "$deb")"
			echo "SHA256: $(sha256sum "$deb" | cut -d ' ' -f 1)"
			echo
		done >Packages
	)
	rm -rf "$half"/etc/apt/sources.list.d/*
	echo 'deb [trusted=yes] file:/srv/debs ./' >"$half/etc/apt/sources.list"
}

make_root() {
	# What it mounts in the root goes with the namespace, even if it is killed: the next
	# rm must not meet it.
	unshare -m debootstrap --variant=minbase --include="$packages" "$suite" "$half" "$mirror"
	[ -z "$more" ] || repository
}

# A root is whole when it has its name: it is made under another. If it was made of
# other packages, it is made again.
mkdir -p "$cache"
exec 9>"$root.lock"
flock 9
if [ "$(cat "$root/made-of" 2>/dev/null)" != "$made_of" ]; then
	mirror=$(mirror)
	[ -n "$mirror" ] || {
		apt-get -qq update >&2 || :
		mirror=$(mirror)
	}
	[ -n "$mirror" ] || {
		echo "apt names no mirror of Debian (add one with http:// or https:// to its sources)" >&2
		exit 1
	}
	rm -rf "$half"
	echo "making a root of Debian $suite, which stays in $root" >&2
	trap '[ $? = 0 ] || { tail -n 5 "$root.log" >&2; rm -rf "$half"; }' EXIT
	make_root >"$root.log" 2>&1
	trap - EXIT
	rm -rf "$half"/var/cache/apt/archives/*.deb "$half"/var/lib/apt/lists/*
	echo "$made_of" >"$half/made-of"
	rm -rf "$root"
	mv "$half" "$root"
	rm -f "$root.log"
fi
echo "$root"
