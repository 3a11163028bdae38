# Where things live. Sourced by every script here; `. setup/env.sh` gives a bash the same.
# shellcheck shell=bash

if [ "$(id -u)" = 0 ]; then
    SPAWN_CACHE="${SPAWN_CACHE:-/var/cache/spawn}"
    # PostgreSQL refuses to run as root, and who runs it then cannot read below /root.
    SPAWN_STATE="${SPAWN_STATE:-/var/lib/spawn}"
else
    SPAWN_CACHE="${SPAWN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spawn}"
    SPAWN_STATE="${SPAWN_STATE:-$SPAWN_CACHE/state}"
fi
SPAWN_HOME="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SPAWN_MODELS="${SPAWN_MODELS:-$SPAWN_CACHE/models}"
SPAWN_DATA="${SPAWN_DATA:-$SPAWN_CACHE/data}"
# One target folder outside the checkout: a clean clone builds only what changed.
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$SPAWN_CACHE/target}"
case ":$PATH:" in
    *":$SPAWN_CACHE/venv/bin:"*) ;;
    *) PATH="$CARGO_TARGET_DIR/release:$SPAWN_CACHE/venv/bin:$PATH" ;;
esac
# rustup's folder is on the path of login shells only.
command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export SPAWN_CACHE SPAWN_STATE SPAWN_HOME SPAWN_MODELS SPAWN_DATA CARGO_TARGET_DIR PATH

say() { printf '%s\n' "$*" >&2; }
# fail MESSAGE [CODE]: codes after sysexits, as everywhere in Spawn.
fail() { say "error: $1"; exit "${2:-1}"; }
