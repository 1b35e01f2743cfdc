#!/bin/sh
# Makes file_digest.wasm. Needs cargo, for the tool, and zig, for its C compiler and
# its WASI headers: `pip install ziglang`.
set -eu
cd "$(dirname "$0")"
out=${OUT:-file_digest.wasm}
wit=${WIT:-../../wit}
world=${WORLD:-plugin}
build=${BUILD:-build}
zig=${ZIG:-python3 -m ziglang}
tool=${TOOL:-cargo run --quiet --manifest-path tool/Cargo.toml --}

file=$(echo "$world" | tr - _)

mkdir -p "$build"
$tool bindings "$wit" "$world" "$build"
set -- "${SOURCE:-plugin.c}" "$build/$file.c" "$build/${file}_component_type.o"
if [ -n "${KEEP_ALL:-}" ]; then
    # A component imports what it calls. With this it imports all that there is.
    {
        echo "#include \"$file.h\""
        echo "__attribute__((used)) static void *const keep[] = {"
        sed -n 's/^extern .*[ *]\(windlass_plugin_[a-z0-9_]*\)(.*/    (void *)\1,/p' "$build/$file.h"
        echo "};"
    } > "$build/keep.c"
    set -- "$@" "$build/keep.c"
fi
# The names and types of the interface travel in the object file; --strip-debug
# leaves them alone.
$zig cc -target wasm32-wasi -mexec-model=reactor -Os -Wall -Wno-unused-parameter \
    -I "$build" -Wl,--strip-debug -o "$build/module.wasm" "$@"
$tool component "$build/module.wasm" "$out"
