#!/usr/bin/env bash
# A clean virtual environment with the wheel and no extra: how large it is, how long it takes, and what works in it.
#
#     scripts/clean_install.sh [WHEEL]
#
# Without WHEEL one is built. llama.cpp is taken from GGUFKIT_CACHE, or built there. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

wheel=${1:-}
if [ -z "$wheel" ]; then
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$home" .
    wheel=$(echo "$home"/*.whl)
fi
wheel=$(realpath "$wheel")
scripts=$PWD/scripts
unset PYTHONPATH PYTHONDONTWRITEBYTECODE

echo "== install $(basename "$wheel")"
started=$(date +%s)
"$python" -m venv "$home/venv"
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
echo "$(($(date +%s) - started)) s, $(du -sm "$home/venv" | cut -f1) MB"
if "$home/venv/bin/python" -c "import torch" 2> /dev/null; then
    echo "torch was installed: the core needs none" >&2
    exit 1
fi

mkdir "$home/work"
cd "$home/work"
run() {
    echo "== ggufkit $*"
    "$home/venv/bin/ggufkit" "$@"
}
"$home/venv/bin/python" "$scripts/tiny_gguf.py" tiny-F16.gguf
text=$("$home/venv/bin/python" -c "from ggufkit import demo; print(demo.evaluation_text())")

run --version
run --help > /dev/null
run doctor || true # a machine without a compiler has its llama.cpp in the cache
run inspect tiny-F16.gguf
run imatrix tiny-F16.gguf --calibration "$text" --calibration-samples 4
run quantize tiny-F16.gguf --types q8_0,q4_0
run perplexity tiny-Q8_0.gguf tiny-Q4_0.gguf --base tiny-F16.gguf --corpus "$text" --chunks 4
run build tiny-F16.gguf --out built --types q8_0 --corpus "$text" --chunks 4 --no-bench
run report built

echo "== ggufkit awq"
status=0
"$home/venv/bin/ggufkit" awq "$home" 2> refused || status=$?
cat refused
test "$status" = 3
grep -qF "pip install 'ggufkit[awq]'" refused
echo "All of it works without an extra."
