#!/usr/bin/env bash
# Installs the one system library the demo's model servers link (libgomp1) where apt may, else says so.
set -eu
if ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1'; then exit 0; fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libgomp1; } >/dev/null 2>&1 && exit 0
fi
echo "the system library libgomp.so.1 is missing; the demo's model servers link it" >&2
echo "hint: install it (Debian, Ubuntu: apt-get install libgomp1; Fedora: dnf install libgomp) and run this again" >&2
exit 1
