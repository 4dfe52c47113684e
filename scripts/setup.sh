# SPDX-License-Identifier: Apache-2.0
# Functions to set up a checkout; sourced by scripts/trace and scripts/test.
# Packages come from apt where there is one; elsewhere it says what is missing.

# The distribution's Python: a tool that runs as root should not depend on a user's.
PYTHON=${PYTHON:-$([ -x /usr/bin/python3 ] && echo /usr/bin/python3 || echo python3)}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# need CHECK PACKAGE...: installs the packages unless the command CHECK succeeds.
need() {
	check=$1
	shift
	if sh -c "$check" >/dev/null 2>&1; then
		return
	fi
	if ! command -v apt-get >/dev/null; then
		echo "setup: install what your distribution calls: $*" >&2
		exit 1
	fi
	echo "setup: installing $*" >&2
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
		--no-install-recommends "$@" </dev/null >/dev/null 2>&1; then
		as_root apt-get update -qq </dev/null
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
			--no-install-recommends "$@" </dev/null >/dev/null
	fi
}

# make_venv FOLDER REQUIREMENT: this checkout, installed in a virtual environment.
make_venv() {
	need "command -v $PYTHON" python3
	need "$PYTHON -c 'import ctypes; ctypes.CDLL(\"libbpf.so.1\")'" libbpf1
	need "$PYTHON -c 'import ensurepip, venv'" python3-venv
	if [ -e "$1/made" ] &&
		[ -z "$(find src pyproject.toml scripts/setup.sh -newer "$1/made")" ]; then
		return
	fi
	echo "setup: making a virtual environment in $1 (once; it takes some seconds)" >&2
	"$PYTHON" -m venv --clear "$1"
	"$1/bin/python" -m pip --quiet --disable-pip-version-check install "$2"
	touch "$1/made"
}
