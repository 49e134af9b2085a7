"""Documents as packed rows of tokens, made by worker processes."""
import os
import random

import numpy as np

from documents import document

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_BATCH = {1024: 64, 8192: 48}  # documents drawn at a time, by row length
_SMALLEST_GAP = 8              # a row with less room left is full
_LONG_LOW, _LONG_MARGIN = 600, 700
_tokenizer = None


def _encode(path, documents):
    """[(ids, loss class of each token)] of the documents."""
    global _tokenizer
    if _tokenizer is None:
        from tokenizers import Tokenizer
        _tokenizer = Tokenizer.from_file(path)
    encoded = iter(_tokenizer.encode_batch([s.text for d in documents for s in d]))
    out = []
    for d in documents:
        ids, kinds = [], []
        for s in d:
            part = next(encoded).ids
            ids += part
            kinds += [s.kind] * len(part)
        out.append((ids, kinds))
    return out


def shard(job):
    """(tokens, position in the document, loss class), each [rows, length], of one job (seed, length, rows, long share, tokenizer).

    Rows are filled first-fit, longest document first. What is left of a row is padding: a document whose tokens get no loss.
    """
    seed, length, rows, long_share, path = job
    r = random.Random(seed)
    tokens, positions = np.zeros((rows, length), np.uint16), np.zeros((rows, length), np.uint16)
    kinds = np.zeros((rows, length), np.uint8)
    waiting, row, at = [], 0, 0

    def finish():
        nonlocal row, at
        positions[row, at:] = np.arange(length - at)
        row, at = row + 1, 0

    while row < rows:
        if not waiting:
            drawn = [document(r, r.randint(_LONG_LOW, length - _LONG_MARGIN) if r.random() < long_share else 0)
                     for _ in range(_BATCH.get(length, 48))]
            waiting = sorted((d for d in _encode(path, drawn) if len(d[0]) <= length), key=lambda d: -len(d[0]))
            continue
        fit = next((i for i, (ids, _) in enumerate(waiting) if len(ids) <= length - at), None)
        if fit is None:
            finish()
            continue
        ids, kind = waiting.pop(fit)
        end = at + len(ids)
        tokens[row, at:end], positions[row, at:end], kinds[row, at:end] = ids, np.arange(len(ids)), kind
        at = end
        if at >= length - _SMALLEST_GAP:
            finish()
    return tokens, positions, kinds
