#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/podman/root.sh: makes a root of Debian trixie with podman 5 and netavark, once,
# and prints its path.
exec "$(dirname "$0")/../root.sh" podman5 trixie podman,netavark,crun,curl
