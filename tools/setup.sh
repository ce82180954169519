#!/bin/sh
# Installs the Debian packages that a step needs and that are not there yet: setup.sh build|test|check|demo|fuzz|front|slow
set -eu
build="gcc make meson ninja-build pkg-config libsqlite3-dev libcurl4-openssl-dev libssl-dev libpcre2-dev libutf8proc-dev"
case "${1:-build}" in
build) packages=$build ;;
test)
    packages="$build g++ libcmocka-dev python3 python3-venv python3-pip strace"
    command -v npm >/dev/null || packages="$packages nodejs npm"
    ;;
check) packages="$build libcmocka-dev clang python3" ;;
demo) packages="$build python3" ;;
fuzz) packages="$build libcmocka-dev clang libclang-rt-14-dev" ;;
front) packages="nginx-light haproxy" ;; # servers in front of ours, for tests that skip without them
slow) packages="$build python3 slowhttptest" ;;
*) echo "usage: setup.sh build|test|check|demo|fuzz|front|slow" >&2; exit 2 ;;
esac

missing=
for package in $packages; do
    case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true) in
    "install ok installed") ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
echo "installing:$missing"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
