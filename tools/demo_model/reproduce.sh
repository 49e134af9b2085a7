#!/bin/sh
# The demo model from its seeds: tokenizer, training, checks, logits for the tests. One GPU with 40 GB, PyTorch 2.11,
# transformers 5.17, tokenizers, safetensors; about 10 minutes on an H100. Then, with the program built:
#   freelunch convert OUT/model models/demo/freelunch-demo-q8_0.gguf --type q8_0
set -e
cd "$(dirname "$0")"
OUT=${1:?usage: reproduce.sh OUT [SECONDS]}
python3 check_delta_rule.py
python3 train.py "$OUT/model" --seconds "${2:-540}"
python3 validate.py "$OUT/model" "$OUT/validation.json"
python3 golden.py "$OUT/model" "$OUT"
