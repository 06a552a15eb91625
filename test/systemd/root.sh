#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/systemd/root.sh SUITE: makes a root of this release of Debian that boots, once, and prints its path. What
# vagrant/provision.sh installs is in a repository there.
set -eu

more='docker.io make'
# In Debian 12 the command is part of docker.io.
[ "$1" = bookworm ] || more="$more docker-cli"
exec "$(dirname "$0")/../root.sh" "debian-$1" "$1" systemd-sysv,dbus,iproute2,iputils-ping "$more"
