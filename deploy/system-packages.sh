#!/usr/bin/env bash
# The system libraries of the demo and the programs of the tests.
#
#   system-packages.sh              libgomp1, which the demo's model servers link: installed where apt may, else said
#   system-packages.sh tests DIR    Debian's prometheus, unpacked into DIR/prometheus and not installed: no service starts, no root is needed.
#                                   Without it the tests that need one are skipped.
set -eu

demo() {
  if ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1'; then return 0; fi
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libgomp1; } >/dev/null 2>&1 && return 0
  fi
  echo "the system library libgomp.so.1 is missing; the demo's model servers link it" >&2
  echo "hint: install it (Debian, Ubuntu: apt-get install libgomp1; Fedora: dnf install libgomp) and run this again" >&2
  return 1
}

fetch() { # PACKAGE into the present folder
  apt-get download -qq "$1" && return 0
  [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq "$1"
}

tests() {
  local into="$1/prometheus" from
  if [ -x "$into/usr/bin/prometheus" ] || { command -v prometheus && command -v promtool; } >/dev/null; then return 0; fi
  if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    from=$(mktemp -d)
    if (cd "$from" && fetch prometheus) >/dev/null 2>&1 && dpkg-deb -x "$from"/prometheus_*.deb "$from/unpacked"; then
      mkdir -p "$1" && mv "$from/unpacked" "$into"
    fi
    rm -rf "$from"
    [ ! -x "$into/usr/bin/prometheus" ] || return 0
  fi
  echo "prometheus is missing: the tests that read a real one are skipped" >&2
  echo "hint: put prometheus and promtool into PATH (Debian, Ubuntu: apt-get install prometheus)" >&2
}

case "${1:-demo}" in
  demo) demo ;;
  tests) tests "${2:?DIR}" ;;
  *) echo "usage: system-packages.sh [demo | tests DIR]" >&2; exit 2 ;;
esac
