"""Trains the demo model on one GPU: one mixture, one schedule, rows of 1024 tokens and then of 8192.

    python3 train.py OUT --seconds 400         as many steps as fit
    python3 train.py OUT --steps N --long-steps M
    python3 train.py OUT --smoke               a few small steps without compilation, to see that everything runs
"""
import argparse
import collections
import csv
import multiprocessing
import os
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np

import packing
import tokenizer

SHORT, LONG = 1024, 8192
LONG_FROM = 0.74        # part of the schedule after which rows are long
LONG_SHARE = 0.035     # of the documents in long rows: recall over thousands of tokens
CONSTANT = 0.45         # part of the schedule before the linear decay of the learning rate
WARM_UP = 60            # steps
MTP_WEIGHT = 0.3
LOSS_WEIGHTS = (0.0, 0.1, 1.0)  # of GIVEN, SAID and ANSWER tokens
STEPS_IN_SHARD, SHARDS_AHEAD = 4, 40
LOG_EVERY, SAVE_AT = 20, (0.6, 0.85)
MUON_LR, ADAM_LR = 0.02, 3e-3


class Schedule:
    """Where the training is, from 0 to 1: by steps, or by the clock when a time is given."""

    def __init__(self, args):
        self.seconds, self.total, self.short = args.seconds, args.steps + args.long_steps, args.steps
        self.step, self.began = 0, time.time()

    def progress(self):
        return self.elapsed() / self.seconds if self.seconds else self.step / self.total

    def elapsed(self):
        return time.time() - self.began

    def is_long(self):
        return self.progress() >= LONG_FROM if self.seconds else self.step >= self.short

    def rate(self):
        """The relative learning rate."""
        p = self.progress()
        return min(1.0, (self.step + 1) / WARM_UP) * (1.0 if p < CONSTANT else max(0.0, (1.0 - p) / (1.0 - CONSTANT)))


class Shards:
    """Shards of packed rows from the worker pool, a fixed number ahead of their use."""

    def __init__(self, pool, make_job, ahead):
        self.pool, self.make_job, self.number, self.waiting = pool, make_job, 0, collections.deque()
        for _ in range(ahead):
            self._ask()

    def _ask(self):
        self.waiting.append(self.pool.apply_async(packing.shard, (self.make_job(self.number),)))
        self.number += 1

    def next(self):
        shard = self.waiting.popleft().get()
        self._ask()
        return shard


class Trainer:
    def __init__(self, args, device):
        import torch

        import model
        import optimizer
        self.torch, self.model_module, self.device = torch, model, device
        self.model = model.DemoModel().initialise(args.seed).to(device).train()
        self.optimizer = optimizer.Optimizer(self.model, MUON_LR, ADAM_LR, fused=device == "cuda")
        self.weights = torch.tensor(LOSS_WEIGHTS, device=device)
        self.kind = torch.bfloat16 if device == "cuda" else torch.float32
        self.head_loss = model.head_loss
        if not args.smoke:
            torch._dynamo.config.cache_size_limit = torch._dynamo.config.recompile_limit = 64
            for layer in [*self.model.model.layers, *self.model.mtp.layers]:
                layer.forward = torch.compile(layer.forward, dynamic=False)
            self.head_loss = torch.compile(model.head_loss, dynamic=False)
        self.flex = device == "cuda" and not args.smoke and model.flex_attention is not None

    def _shifted_loss(self, h, tokens, positions, kinds, shift):
        """Weighted mean loss of predicting the token `shift` further on in the same document."""
        F = self.torch.nn.functional
        targets = F.pad(tokens[:, shift:], (0, shift)).reshape(-1)
        weights = self.torch.where(positions[:, shift:] >= shift, self.weights[kinds[:, shift:].long()], 0.0)
        weights = F.pad(weights, (0, shift)).reshape(-1)
        total = self.head_loss(h.reshape(len(targets), -1), self.model.model.embed_tokens.weight, targets, weights)
        return total / weights.sum()

    def step(self, tokens, positions, kinds, rate):
        """One optimizer step on rows [B, T]; both losses."""
        mask = self.model_module.document_mask(positions, self.flex)
        h, m = self.model(tokens, positions, self.kind, mask)
        loss, mtp = (self._shifted_loss(x, tokens, positions, kinds, s) for x, s in ((h, 1), (m, 2)))
        (loss + MTP_WEIGHT * mtp).backward()
        self.optimizer.step(rate)
        return loss.detach(), mtp.detach()

    def put(self, shard):
        tokens, positions, kinds = (self.torch.from_numpy(x.astype(np.int64)).to(self.device) for x in shard)
        return tokens, positions, kinds.to(self.torch.uint8)


def write_curve(writer, log, schedule, tokens, length, rate, losses, torch):
    means = [torch.stack(column).mean().item() for column in zip(*losses)]
    writer.writerow([schedule.step, length, tokens, round(schedule.elapsed(), 1), f"{rate:.3f}", *(f"{x:.4f}" for x in means)])
    log.flush()
    if schedule.step % 100 == 0 or schedule.step <= 60 or length == LONG and schedule.step % 40 == 0:
        print(f"step {schedule.step}, rows of {length}, {schedule.elapsed():.0f} s, {tokens / 1e6:.1f} M tokens, "
              f"loss {means[0]:.4f}, mtp {means[1]:.4f}", flush=True)


def train(args, device):
    import checkpoint
    path = f"{args.out}/tokenizer.json"
    workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    if not os.path.exists(path):
        tokenizer.train(path, workers)
    tokenizer.write_companions(args.out)
    pool = multiprocessing.get_context("fork").Pool(workers)
    long_rows = max(1, args.rows * SHORT // LONG)

    def short_job(n):
        return args.seed * 10 ** 6 + n, SHORT, args.rows * STEPS_IN_SHARD, 0.0, path

    def long_job(n):
        return args.seed * 10 ** 6 + 500000 + n, LONG, long_rows * STEPS_IN_SHARD, LONG_SHARE, path

    short, long = Shards(pool, short_job, SHARDS_AHEAD), None
    trainer, schedule = Trainer(args, device), Schedule(args)
    print(f"parameters {sum(p.numel() for p in trainer.model.parameters())}, of MTP "
          f"{sum(p.numel() for p in trainer.model.mtp.parameters())}", flush=True)
    tokens, losses, saved = 0, [], 0
    with open(f"{args.out}/curves.csv", "w") as log:
        writer = csv.writer(log)
        writer.writerow(["step", "row_length", "tokens", "seconds", "rate", "loss", "mtp_loss"])
        while schedule.progress() < 1.0:
            if long is None and (schedule.progress() > LONG_FROM - 0.06 or schedule.is_long()):
                long = Shards(pool, long_job, SHARDS_AHEAD)
            is_long = schedule.is_long()
            rows, length = (long_rows, LONG) if is_long else (args.rows, SHORT)
            shard = trainer.put((long if is_long else short).next())
            for j in range(STEPS_IN_SHARD):
                if schedule.progress() >= 1.0 or schedule.is_long() != is_long:
                    break
                rate = schedule.rate()
                losses.append(trainer.step(*(x[j * rows:(j + 1) * rows] for x in shard), rate))
                schedule.step += 1
                tokens += rows * length
                if schedule.step % LOG_EVERY == 0 or args.smoke:
                    write_curve(writer, log, schedule, tokens, length, rate, losses, trainer.torch)
                    losses = []
            if saved < len(SAVE_AT) and schedule.progress() > SAVE_AT[saved]:
                checkpoint.save(trainer.model, args.out)
                saved += 1
    checkpoint.save(trainer.model, args.out)
    print(f"trained {schedule.step} steps, {tokens / 1e6:.1f} M tokens, {schedule.elapsed():.0f} s", flush=True)
    pool.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--long-steps", type=int, default=0)
    parser.add_argument("--rows", type=int, default=64, help="rows of 1024 tokens in a step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.steps, args.long_steps, args.rows = 0, 4, 4, 8
    if not args.seconds and not args.steps:
        parser.error("give --seconds or --steps")
    os.makedirs(args.out, exist_ok=True)
    train(args, args.device)


if __name__ == "__main__":
    main()
