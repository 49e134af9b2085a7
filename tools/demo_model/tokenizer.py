"""The tokenizer: byte-level BPE with the family's splitter and special tokens, trained on the corpus."""
import json
import multiprocessing
import random
import re

from documents import document
from template import TEMPLATE

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PRINTED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# The splitter of the family (tokenizer.json of the published checkpoints).
SPLITTER = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCABULARY = 3072
END_OF_TEXT, END_OF_TURN = VOCABULARY - 13, VOCABULARY - 11
CONTEXT = 8192
SAMPLE_DOCUMENTS, SAMPLE_PARTS, SAMPLE_SEED = 24000, 48, 4


def _sample(part):
    """Texts of one part of the sample, without special tokens."""
    r = random.Random(SAMPLE_SEED * 1000 + part)
    special = re.compile("|".join(map(re.escape, CONTROL + PRINTED)))
    return [t for _ in range(SAMPLE_DOCUMENTS // SAMPLE_PARTS) for s in document(r) for t in special.split(s.text) if t]


def train(path, workers):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLITTER), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        texts = [t for part in pool.imap(_sample, range(SAMPLE_PARTS)) for t in part]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL + PRINTED), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[], show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in PRINTED])
    assert tokenizer.token_to_id("<|endoftext|>") == END_OF_TEXT and tokenizer.token_to_id("<|im_end|>") == END_OF_TURN
    tokenizer.save(path)


def write_companions(folder):
    """The files beside tokenizer.json that transformers and converters read."""
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                        "bos_token": None, "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
                        "model_max_length": CONTEXT, "chat_template": TEMPLATE}
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [END_OF_TURN, END_OF_TEXT],
                  "pad_token_id": END_OF_TEXT}
    for name, value in (("tokenizer_config.json", tokenizer_config), ("generation_config.json", generation)):
        with open(f"{folder}/{name}", "w") as f:
            json.dump(value, f, indent=1)
    with open(f"{folder}/chat_template.jinja", "w") as f:
        f.write(TEMPLATE)
