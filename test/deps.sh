#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test/deps.sh generate|test|demo|bench|count: installs with apt-get what that make target
# needs and this machine lacks, and says what. Starts and enables no service.
# LLVM, the version of the compiler, comes from the Makefile.
set -eu
: "${LLVM:?run this through make}"

# command:package, what each target calls. A command is looked for in root's PATH. If
# another package has a command of the same name, a file that only this one has decides, by its absolute path.
compiler="clang-$LLVM:clang-$LLVM llvm-strip-$LLVM:llvm-$LLVM clang-format-$LLVM:clang-format-$LLVM
	git:git /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/linux/bpf.h:linux-libc-dev"
traffic="ip:iproute2 ping:iputils-ping ps:procps nsenter:util-linux curl:curl iperf3:iperf3
	nginx:nginx-light"
tools="gcc:gcc musl-gcc:musl-tools /usr/include/stdlib.h:libc6-dev tcpdump:tcpdump traceroute:traceroute script:bsdutils pgrep:procps tc:iproute2 socat:socat nft:nftables
	ethtool:ethtool jq:jq dig:bind9-dnsutils dnsmasq:dnsmasq-base bpftool:bpftool promtool:prometheus java:default-jre-headless"
guests="qemu-system-x86_64:qemu-system-x86 /usr/share/doc/busybox-static:busybox-static
	ip:iproute2 nft:nftables iptables:iptables gcc:gcc /usr/include/stdlib.h:libc6-dev"

peers="ip:iproute2 unshare:util-linux containerd:containerd dockerd:docker.io iptables:iptables nginx:nginx-light wrk:wrk"
runtimes="/usr/lib/systemd/systemd:systemd /usr/lib/systemd/system/dbus.socket:dbus docker-compose:docker-compose debootstrap:debootstrap vagrant:vagrant podman:podman crun:crun /usr/lib/cni/bridge:containernetworking-plugins"
builder="nft:nftables gcc:gcc /usr/include/stdlib.h:libc6-dev"

case "${1-}" in
generate) wanted=$compiler ;;
test) wanted="$compiler $traffic $tools $guests $peers $runtimes" ;;
demo) wanted=$traffic ;;
bench) wanted="$peers $builder" ;;
count) wanted=$guests ;;
*)
	echo "usage: LLVM=19 test/deps.sh generate|test|demo|bench|count" >&2
	exit 2
	;;
esac

# What a target keeps outside of the repository and apt.
cache=${XDG_CACHE_HOME:-/var/cache}/fairlead # as in bench/vm and test/root.sh
if { [ "$1" = test ] || [ "$1" = count ]; } && ! [ -e "$cache/kernels" ]; then
	echo "make $1: downloading kernels to boot, which stay in $cache/kernels"
fi
if [ "$1" = test ] && ! [ -e "$cache/podman5" ]; then
	echo "make test: making a root of Debian with podman 5, which stays in $cache/podman5"
fi
if [ "$1" = test ] && ! [ -e "$cache/debian-trixie" ]; then
	echo "make test: making roots of Debian 12 and 13 to boot, which stay in $cache"
fi
if [ "$1" = test ] && ! [ -e "$cache/stores" ]; then
	echo "make test: unpacking etcd, Consul and ZooKeeper, which stay in $cache/stores"
fi

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=
for pair in $wanted; do
	thing=${pair%:*}
	case $thing in
	/*) [ -e "$thing" ] || missing="$missing ${pair##*:}" ;;
	*) command -v "$thing" >/dev/null || missing="$missing ${pair##*:}" ;; # not a directory of this name
	esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "make $1 needs these Debian packages or their like:$missing" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "make $1 needs (as root): apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
echo "make $1: installing with apt-get:$missing"

# Debian starts a service when its package is installed, unless this file says
# no; it enables it for the next boot too, which is undone for the new ones.
policy=/usr/sbin/policy-rc.d
made=
restore() { [ -z "$made" ] || rm -f "$policy"; }
trap restore EXIT
trap 'exit 130' INT TERM
if ! [ -e "$policy" ]; then
	made=yes
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 0755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086 # the list is words
if ! { apt-get -qq update && apt-get -qq install --no-install-recommends $missing </dev/null; } >"$log" 2>&1; then
	cat "$log" >&2
	rm -f "$log"
	exit 1
fi
rm -f "$log"
for service in nginx:nginx-light prometheus:prometheus docker.service:docker.io docker.socket:docker.io containerd:containerd \
	podman.socket:podman podman.service:podman podman-restart.service:podman podman-auto-update.timer:podman podman-auto-update.service:podman; do
	case " $missing " in
	*" ${service#*:} "*) systemctl disable --now "${service%:*}" >/dev/null 2>&1 || : ;;
	esac
done
