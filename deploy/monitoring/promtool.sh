#!/bin/sh
# Put promtool, which checks the alerts, at the path given: the one that is installed, or that of Debian's package
# prometheus, of which nothing else is unpacked and nothing is installed.
set -eu
target=$1
if found=$(command -v promtool); then
    ln -sf "$found" "$target"
    exit
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "promtool is not here, so the alerts are not checked: install Prometheus to have it" >&2
    exit
fi
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
chmod 777 .  # apt downloads as a user of its own
apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
cd "$OLDPWD"
cp "$directory/usr/bin/promtool" "$target"
