#!/bin/sh
# Compiles the bindings for Kotlin with programs on them, and runs these on a JVM against services
# on this machine. `make python` has built the library and made the environment that tests run in.
#
# The compiler is the one inside a package on PyPI, pinned by hash. Java and JNA have to be there,
# or this runs as root with apt-get. PROFILE is cargo's (library).
set -eu

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR="$target"
profile=${PROFILE:-library}
work=$target/kotlin

version=0.19.0.944
hash=dc654a426a28e6621aeb0bd7772d268a9a877aabae4a17b73383752a416281a3

say() { echo "kotlin: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

. scripts/pypi.sh
need_python 11
[ -e "$target/python/venv/made" ] || fail "no environment for tests: run make python"
[ -e "$target/$profile/libmimimi_bindings.so" ] || fail "no library: run make python"

jna() {
    for place in "${JNA_JAR:-}" /usr/share/java/jna.jar; do
        if [ -e "$place" ]; then
            echo "$place"
            return
        fi
    done
}
if ! command -v java >/dev/null || [ -z "$(jna)" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "Java 11 or later, or JNA, is missing: install them (JNA_JAR names its file), or run
  this as root on Debian or Ubuntu"
    fi
    say "apt-get install default-jre-headless libjna-java"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        default-jre-headless libjna-java >&2
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mimimi/kotlin
jars=$cache/$version/run_kotlin_kernel/jars
if [ ! -e "$cache/$version" ]; then
    mkdir -p "$cache"
    # Two clones at once: the second waits, and finds what the first has fetched.
    exec 9>"$cache/$version.lock"
    flock 9
fi
if [ ! -e "$cache/$version" ]; then
    say "fetching the compiler from PyPI"
    fetched=$cache/$version.new
    rm -rf "$fetched"
    mkdir "$fetched"
    echo "kotlin-jupyter-kernel==$version --hash=sha256:$hash" >"$fetched/requirements.txt"
    "$target/python/venv/bin/pip" --quiet --disable-pip-version-check download --no-deps \
        --require-hashes --dest "$fetched" --requirement "$fetched/requirements.txt"
    python3 -m zipfile -e "$fetched"/*.whl "$fetched"
    rm "$fetched"/*.whl
    mv "$fetched" "$cache/$version"
fi

compiler=$(echo "$jars"/*.jar | tr ' ' ':')
# Coroutines are in the package's largest file.
library=$(echo "$jars"/kotlin-stdlib-*.jar "$jars"/kotlin-jupyter-kernel-*-all.jar "$(jna)" | tr ' ' ':')
programs=$work/programs.jar
rm -rf "$work"
mkdir -p "$work"
# A warning in what is generated is none of ours.
java -Xmx2g -cp "$compiler" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -nowarn -no-stdlib \
    -no-reflect -cp "$library" -d "$programs" bindings/generated/kotlin bindings/kotlin \
    bindings/kotlin_tests

export KOTLIN_CLASSPATH="$programs:$library"
# Where JNA looks for the library.
export LD_LIBRARY_PATH="$target/$profile${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cd bindings
"$target/python/venv/bin/mypy" kotlin_tests
"$target/python/venv/bin/pytest" kotlin_tests "$@"
