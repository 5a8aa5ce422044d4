# Sourced by scripts that fetch packages from PyPI: `need_python` sees to Python 3.$1 or later with
# venv, which it installs as root with apt-get. pip then takes the machine's list of authorities.

have_python() {
    python3 -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, int(sys.argv[1])))' \
        "$1" 2>/dev/null
}

# The machine may reach registries through an authority of its own.
list=/etc/ssl/certs/ca-certificates.crt
authorities=${XDG_CACHE_HOME:-$HOME/.cache}/mimimi/authorities.crt
mkdir -p "$(dirname "$authorities")"
[ -e "$authorities" ] || ln -sf "$list" "$authorities"

need_python() {
    if ! have_python "$1"; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            say "Python 3.$1 or later with venv is missing: install python3 and python3-venv," \
                "or run this as root on Debian or Ubuntu"
            exit 1
        fi
        # The packages write the list anew, without that authority.
        if [ -L "$authorities" ] && [ -e "$list" ]; then
            rm "$authorities"
            cp "$list" "$authorities"
        fi
        say "apt-get install python3 python3-venv"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends python3 python3-venv >&2
        if ! have_python "$1"; then
            say "Python here is older than 3.$1"
            exit 1
        fi
    fi
    if [ -z "${PIP_CERT:-}" ] && [ -e "$authorities" ]; then
        export PIP_CERT="$authorities"
    fi
}
