#!/bin/sh
# others.sh DIR: puts into DIR what LAB_FILES takes to guests: the programs that
# napitune is compared with and that Debian does not package. Needs git, zip, and for
# bpftune the Debian packages clang llvm bpftool make gcc pkg-config libbpf-dev
# libcap-dev libnl-route-3-dev python3-docutils.
#
# GITHUB names another place to clone from than https://github.com.
set -eu
[ $# = 1 ] || { echo "usage: others.sh DIR" >&2; exit 2; }
mkdir -p "$1"
target=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

checkout() { # OWNER/NAME COMMIT
	git clone -q "${GITHUB:-https://github.com}/$1" "${1#*/}"
	git -C "${1#*/}" checkout -q "$2"
}

checkout scylladb/seastar 525fcc86ecd275b1c89a1c3f359693704c953a98
cp seastar/scripts/perftune.py "$target/"

# perftune.py imports distutils.util, which Python 3.12 dropped and Debian packages apart.
checkout strizhechenko/netutils-linux cdfc9e9
mkdir -p python/distutils
: >python/distutils/__init__.py
cat >python/distutils/util.py <<'X'
def strtobool(value):
    if value.lower() in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if value.lower() in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError("no truth value: %r" % value)
X
cp -r netutils-linux/netutils_linux_* python/
(cd python && zip -qr "$target/python.zip" .)

# Its own "all" lints the sources as well, which takes longer than compiling them.
checkout oracle/bpftune d5d9f609ebe79df5e5788289c4ab51211f57bbef
tuners="tcp_buffer route_table neigh_table sysctl tcp_conn netns net_buffer ip_frag udp_buffer"
make -C bpftune/src -j"$(nproc)" bpftune $(printf '%s_tuner.so ' $tuners) >make.log 2>&1 || { tail make.log >&2; exit 1; }
plugins=tree/usr/lib/x86_64-linux-gnu/bpftune
mkdir -p tree/usr/sbin "$plugins"
cp bpftune/src/bpftune tree/usr/sbin/
cp bpftune/src/libbpftune.so.* /usr/lib/x86_64-linux-gnu/libnl-route-3.so.200 tree/usr/lib/x86_64-linux-gnu/
for tuner in $tuners; do cp "bpftune/src/${tuner}_tuner.so" "$plugins/"; done
strip tree/usr/sbin/bpftune tree/usr/lib/x86_64-linux-gnu/*.so.* "$plugins"/*.so
tar --owner=root --group=root -C tree -cf "$target/bpftune.tar" usr
