#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes a Debian host a node of a Fairlead cluster, with Docker. Run it as root, in a copy of the repository in
# which `make build` was run; the host itself needs no Go. It may run again, also with other arguments.
set -eu

usage() {
	echo "usage: vagrant/provision.sh --name NAME --advertise ADDRESS --store embed|URL --token FILE" >&2
	echo "  --name       of this host in the cluster" >&2
	echo "  --advertise  this host's address, to which the others send" >&2
	echo "  --store      embed on the host that has the store, etcd://ADDRESS:2379 on the others" >&2
	echo "  --token      file with the join token, the same on all hosts: fairlead cluster token --new" >&2
	exit 2
}

fail() {
	echo "provision.sh: $*" >&2
	exit 1
}

name='' advertise='' store='' token=''
while [ $# -gt 1 ]; do
	case $1 in
	--name) name=$2 ;;
	--advertise) advertise=$2 ;;
	--store) store=$2 ;;
	--token) token=$2 ;;
	*) usage ;;
	esac
	shift 2
done
{ [ $# = 0 ] && [ "$name" ] && [ "$advertise" ] && [ "$store" ] && [ "$token" ]; } || usage
[ "$(id -u)" = 0 ] || fail "run it as root"
[ -r "$token" ] || fail "cannot read the join token in $token (make one with: fairlead cluster token --new)"
repo=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$repo/bin/fairlead" ] || fail "$repo/bin/fairlead is missing (run make build there, or where $repo was copied from)"

# need COMMAND PACKAGE installs a package that has the command, if there is none.
updated=
need() {
	! command -v "$1" >/dev/null || return 0
	[ "$updated" ] || apt-get update -qq
	updated=yes
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2"
}
need make make
need dockerd docker.io
need docker docker-cli # in Debian 12 it is in docker.io

make -s -C "$repo" -o build install
systemd-sysusers

# write FILE MODE replaces a file by what it reads, and notes whether that differs.
changed=
write() {
	new=$(mktemp)
	cat >"$new"
	if ! cmp -s "$new" "$1"; then
		install -D -m "$2" "$new" "$1"
		changed=yes
	fi
	rm -f "$new"
}
write /etc/fairlead/store-token 0600 <"$token"
write /etc/fairlead/daemon.conf 0644 <<END
node-name = $name
advertise = $advertise
store = $store
store-token = /etc/fairlead/store-token
END
write /etc/systemd/system/fairlead.service.d/cluster.conf 0644 <<END
[Service]
ExecStart=
ExecStart=/usr/local/bin/fairlead daemon --config /etc/fairlead/daemon.conf
END

systemctl daemon-reload
systemctl enable --now docker
systemctl enable --now fairlead.socket fairlead
# A new binary takes over without a gap, too.
if [ "$changed" ] || ! cmp -s "/proc/$(systemctl show -P MainPID fairlead)/exe" /usr/local/bin/fairlead; then
	systemctl restart fairlead
fi
fairlead status >/dev/null || fail "the daemon does not serve (see: journalctl -u fairlead)"
echo "$name is a node of the cluster. See: fairlead node ls"
