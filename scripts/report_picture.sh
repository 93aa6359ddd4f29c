#!/usr/bin/env bash
# docs/images/report.png anew: a directory's report as Chromium shows it.
#
#     ggufkit build MODEL --types q8_0,q5_k_m,q4_k_m,q3_k_m,like:q4_k_m --variants plain,imatrix,gptq --out DIR
#     scripts/report_picture.sh DIR
set -euo pipefail
page=$(realpath "$1/report.html")
cd "$(dirname "$0")/.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

chromium --headless --no-sandbox --hide-scrollbars --blink-settings=preferredColorScheme=1 --user-data-dir="$home" \
    --window-size=1200,1500 --screenshot="$PWD/docs/images/report.png" "file://$page"
