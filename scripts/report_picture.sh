#!/usr/bin/env bash
# docs/images/report.png anew: a directory's report as Chromium shows it.
#
#     scripts/report_picture.sh DIR
#
# DIR should hold a file by a recipe, and several variants; the guide shows what these three left of a model of 22 M weights:
#
#     ggufkit build MODEL --out DIR --chunks 12 --no-bench --types q8_0,q5_k_m,q4_k_m,q3_k_m,like:q4_k_m
#     ggufkit build MODEL --out DIR --chunks 12 --no-bench --types q8_0,q5_k_m,q4_k_m,q3_k_m --variants imatrix
#     ggufkit build MODEL --out DIR --chunks 12 --no-bench --types q4_k_m,q3_k_m --variants gptq
set -euo pipefail
page=$(realpath "$1/report.html")
cd "$(dirname "$0")/.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

chromium --headless --no-sandbox --hide-scrollbars --blink-settings=preferredColorScheme=1 --user-data-dir="$home" \
    --window-size=1200,1500 --screenshot="$PWD/docs/images/report.png" "file://$page"
