#!/usr/bin/env bash
# Measures the full matrix of the 27B with random weights on this machine's GPU and leaves report.json, report.md and
# report.html, without this machine's paths, in OUT. usage: 27b.sh PROGRAM OUT [FOLDER for the 16.5 GB model, default /tmp]
#
# BUDGET (default 390s) holds everything but writing the model: what does not fit is left out and the report says so.
set -euo pipefail
program=$(realpath "$1")
out=$2
model=${3:-/tmp}/qwen35-27b-random-Q4_K_M.gguf
mkdir -p "$out"
[ -s "$model" ] || "$program" synth "$model" --size 27B --type Q4_K_M -q
cd "$(dirname "$model")"
# The server's flags are those of a user with one card, by llama-server's names.
"$program" report --model "$model" --ctx 16k,32k,64k,96k,128k --chats 1,2,4 --depth empty,half,full \
  --budget "${BUDGET:-390s}" --no-paths --no-history --out "$out" \
  --server-args '--alias qwen35 --n-gpu-layers 999 --jinja --reasoning on --reasoning-format none --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 --repeat-penalty 1.0 --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on --metrics'
