#!/usr/bin/env bash
# Measures the full matrix of the 27B with random weights on this machine's GPU and leaves report.json, report.md and
# report.html, without this machine's paths, and card.txt in OUT.
# usage: [BUDGET=390s] [CTX=...] [CHATS=1,2,4] [DEPTH=empty,half,full] 27b.sh PROGRAM OUT [FOLDER for the 16.5 GB model,
# default /tmp]
#
# BUDGET holds everything but writing the model and hashing it: where it is short, repeats are single batches, then cells are
# left out, and the report says so.
set -euo pipefail
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
model=$(realpath "${3:-/tmp}")/qwen35-27b-random-Q4_K_M.gguf
[ -s "$model" ] || "$program" synth "$model" --size 27B --type Q4_K_M -q
# The server's flags are those of a user with one card, by llama-server's names.
"$program" report --model "$model" --ctx "${CTX:-16k,32k,64k,96k,128k}" --chats "${CHATS:-1,2,4}" --depth "${DEPTH:-empty,half,full}" \
  --budget "${BUDGET:-390s}" --no-paths --no-history --out "$out" \
  --server-args '--alias qwen35 --n-gpu-layers 999 --jinja --reasoning on --reasoning-format none --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 --repeat-penalty 1.0 --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on --metrics' |
  tee "$out/tables.txt"
sed '/^╰/q' "$out/tables.txt" > "$out/card.txt"
rm "$out/tables.txt"
