"""Exact answers by teacher forcing: for each kind of question, how often every token of the expected answer is the most likely one.

Greedy decoding writes exactly the expected answer if and only if that holds, so this measures what it would write at the price
of one forward pass. For code it is a lower bound: other right programs exist. `python3 validate.py FOLDER [OUT.json]`.
"""
import json
import random
import sys

import torch

import coding
import recall
import suites
import talk
import tool_calls
import writing
from documents import document
from template import ANSWER, Turn, question_prompt

PROBES_SEED = 991
N_EACH = 200
RECALL_LENGTHS, N_RECALL = (500, 1000, 2000, 4000, 6000), 40
TOKENS_AT_ONCE = 1 << 16
QUESTION = ("Complete the following Python function. Answer with the complete function in one Python code block.\n\n```python\n{}```")


def _coding(rows, kind):
    out = []
    for row in rows:
        code = row["prompt"].split('    """')[0] + row["canonical_solution"]
        out.append((f"{kind} chat", question_prompt([Turn("user", QUESTION.format(row["prompt"]))]), f"```python\n{code}```<|im_end|>"))
        out.append((f"{kind} completion", row["prompt"], row["canonical_solution"].rstrip("\n") + "\n<|endoftext|>"))
    return out


def _questions(r):
    single = {"sums": lambda: talk.arithmetic(r), "small talk": lambda: talk.small_talk(r), "unknown": lambda: talk.unknown(r),
              "repeat": lambda: writing.repeat(r), "rewriting": lambda: writing.rewriting(r)}
    for kind, make in single.items():
        for _ in range(N_EACH):
            question, answer, _ = make()
            yield kind, question_prompt([Turn("user", question)]), answer.strip() + "<|im_end|>"
    for held in (False, True):
        for fact in talk.FACTS["fact"]:
            for question in talk.fact_questions(fact, held):
                yield f"facts, {'held-out' if held else 'trained'} wording", question_prompt([Turn("user", question)]), fact["answer"] + "<|im_end|>"
    for _ in range(N_EACH):
        request, answer = coding.request_turns(r)
        yield "code by request, trained wording", question_prompt([request]), answer.text + "<|im_end|>"
        tools = tool_calls.offer(r, True, r.choice([1, 2, 3, 4]))
        turns, system = tool_calls.exchange(r, r.choice(tools), False), tool_calls.system_text(tools)
        yield "tool call, held-out tools", question_prompt(turns[:1], system), turns[1].text + "<|im_end|>"
        yield "answer to a tool's result", question_prompt(turns[:3], system), turns[3].text + "<|im_end|>"


def probes(count_tokens):
    """[(kind, prompt, expected answer)]"""
    r = random.Random(PROBES_SEED)
    out = _coding(suites.builtin(), "builtin tasks") + _coding(suites.drawn(), "200 held-out tasks") + list(_questions(r))
    for length in RECALL_LENGTHS:
        for _ in range(N_RECALL):
            turns, value = recall.probe(r, length, count_tokens)
            kind = turns[-1].text.rsplit("What is my ", 1)[1].rstrip("?")
            out.append((f"recall from {length} tokens", question_prompt(turns), f"Your {kind} is {value}.<|im_end|>"))
    return out


def _batches(items):
    """Items of similar length, at most TOKENS_AT_ONCE tokens with padding."""
    batch = []
    for item in sorted(items, key=lambda x: len(x[0])):
        if batch and len(item[0]) * (len(batch) + 1) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(item)
    yield batch


@torch.no_grad()
def exact_answers(model, tokenizer, device):
    """{kind: [right, of]}, and the share of MTP drafts that equal the answer's token."""
    def count(text):
        return len(tokenizer.encode(text).ids)
    items = []
    for kind, prompt, answer in probes(count):
        p, a = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
        items.append((p + a, len(p), kind))
    result, drafts = {}, [0, 0]
    for batch in _batches(items):
        width = -(-max(len(x[0]) for x in batch) // 64) * 64
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for i, (x, _, _) in enumerate(batch):
            ids[i, :len(x)] = torch.tensor(x)
        h, m = model(ids.to(device))
        best, draft = (model.logits(t).argmax(-1).cpu() for t in (h, m))
        for i, (x, start, kind) in enumerate(batch):
            right = best[i, start - 1:len(x) - 1] == ids[i, start:len(x)]
            entry = result.setdefault(kind, [0, 0])
            entry[0] += int(right.all())
            entry[1] += 1
            accepted = draft[i, start - 1:len(x) - 2] == ids[i, start + 1:len(x)]
            drafts[0] += int(accepted.sum())
            drafts[1] += accepted.numel()
    return result, drafts


@torch.no_grad()
def fresh_loss(model, tokenizer, device, n=400):
    """Mean negative log-likelihood of the assistant's tokens in n new documents, in nats."""
    r, total, weight = random.Random(424242), 0.0, 0.0
    for _ in range(n):
        ids, answered = [], []
        for s in document(r):
            part = tokenizer.encode(s.text).ids
            ids += part
            answered += [s.kind == ANSWER] * len(part)
        h, _ = model(torch.tensor([ids], device=device), mtp=False)
        nll = torch.nn.functional.cross_entropy(model.logits(h[0, :-1]), torch.tensor(ids[1:], device=device), reduction="none")
        mask = torch.tensor(answered[1:], device=device)
        total += float(nll[mask].sum())
        weight += float(mask.sum())
    return total / weight


def validate(folder, device):
    from tokenizers import Tokenizer

    import checkpoint
    model, tokenizer = checkpoint.load(folder, device), Tokenizer.from_file(f"{folder}/tokenizer.json")
    exact, drafts = exact_answers(model, tokenizer, device)
    return {"exact": exact, "mtp_drafts": drafts, "fresh_loss": round(fresh_loss(model, tokenizer, device), 4)}


if __name__ == "__main__":
    found = validate(sys.argv[1], "cuda" if torch.cuda.is_available() else "cpu")
    for name, (right, of) in found["exact"].items():
        print(f"{name:40} {right:4} of {of}")
    print("MTP drafts", found["mtp_drafts"], "loss", found["fresh_loss"])
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as f:
            json.dump(found, f, indent=1)
