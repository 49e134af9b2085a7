"""Trains the demo model on one GPU: one mixture, one schedule, rows of 1024 tokens and then of 8192.

    python3 train.py OUT --seconds 400         as many steps as fit into that time, compilation included
    python3 train.py OUT --steps N --long-steps M
    python3 train.py OUT --smoke               a few small steps without compilation, to see that everything runs
"""
import argparse
import collections
import csv
import multiprocessing
import os
import subprocess
import sys
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np

import packing
import tokenizer

SHORT, LONG = 1024, 8192
LONG_FROM = 0.80        # part of the schedule after which rows are long
LONG_SHARE = 0.03      # of the documents in long rows: recall over thousands of tokens
CONSTANT = 0.45         # part of the schedule before the linear decay of the learning rate
WARM_UP = 60            # steps
MTP_WEIGHT = 0.3
LOSS_WEIGHTS = (0.0, 0.1, 1.0)  # of GIVEN, SAID and ANSWER tokens
STEPS_IN_SHARD, SHARDS_AHEAD = 4, 40
LOG_EVERY, SAVE_AT = 20, (0.6, 0.85)
MUON_LR, ADAM_LR = 0.02, 3e-3
STARTED = time.time()


class Schedule:
    """Where the training is, from 0 to 1: by steps, or by the clock when a time is given."""

    def __init__(self, args):
        self.total, self.short, self.step = args.steps + args.long_steps, args.steps, 0
        self.prepared = time.time() - STARTED  # the schedule is over the time after that
        self.seconds = args.seconds and args.seconds - self.prepared

    def progress(self):
        return (self.elapsed() - self.prepared) / self.seconds if self.seconds else self.step / self.total

    def elapsed(self):
        """Seconds since the program's start."""
        return time.time() - STARTED

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
        weights = self.torch.where(positions[:, shift:] >= shift, self.weights[kinds[:, shift:]], 0.0)
        weights = F.pad(weights, (0, shift)).reshape(-1)
        total = self.head_loss(h.reshape(len(targets), -1), self.model.model.embed_tokens.weight, targets, weights)
        return total / weights.sum()

    def gradients(self, tokens, positions, kinds):
        """Both losses of rows [B, T]; adds up the gradients."""
        mask = self.model_module.document_mask(positions, self.flex)
        h, m = self.model(tokens, positions, self.kind, mask)
        loss, mtp = (self._shifted_loss(x, tokens, positions, kinds, s) for x, s in ((h, 1), (m, 2)))
        (loss + MTP_WEIGHT * mtp).backward()
        return loss.detach(), mtp.detach()

    def step(self, tokens, positions, kinds, rate):
        """One optimizer step on rows [B, T]; both losses."""
        losses = self.gradients(tokens, positions, kinds)
        self.optimizer.step(rate)
        return losses

    def put(self, shard):
        """A shard on the device; from pinned memory, so that the copy does not wait for the steps before it."""
        tensors = [self.torch.from_numpy(x.astype(np.int32)) for x in shard]
        if self.device == "cuda":
            tensors = [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]
        return [x.long() for x in tensors]

    def compile(self, rows, length):
        """Compiles everything that a step on such rows needs, by computing one on random tokens without the optimizer."""
        began = time.time()
        tokens = self.torch.randint(0, tokenizer.VOCABULARY, (rows, length), device=self.device)
        positions = self.torch.arange(length, device=self.device).expand(rows, length).contiguous()
        self.gradients(tokens, positions, self.torch.full_like(tokens, 2))
        for p in self.model.parameters():
            p.grad = None
        self.torch.cuda.synchronize()
        print(f"compiled for rows of {length} in {time.time() - began:.0f} s", flush=True)


def long_rows_of(args):
    return max(1, args.rows * SHORT // LONG)


def prepare_tokenizer(path, workers):
    if not os.path.exists(path):
        tokenizer.train(path, workers)
    tokenizer.write_companions(os.path.dirname(path))


def compile_long_rows_beside():
    """Starts this program a second time to compile for the long rows; the training finds the result in the compiler's cache."""
    return subprocess.Popen([sys.executable, *sys.argv, "--compile-long-rows"])


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
    fork = multiprocessing.get_context("fork")
    preparation = fork.Process(target=prepare_tokenizer, args=(path, workers))
    preparation.start()
    pool = fork.Pool(workers)
    trainer, long_rows = Trainer(args, device), long_rows_of(args)
    if not args.smoke:
        trainer.compile(args.rows, SHORT)
    preparation.join()
    if preparation.exitcode:
        raise RuntimeError("the tokenizer's training failed")

    def short_job(n):
        return args.seed * 10 ** 6 + n, SHORT, args.rows * STEPS_IN_SHARD, 0.0, path

    def long_job(n):
        return args.seed * 10 ** 6 + 500000 + n, LONG, long_rows * STEPS_IN_SHARD, LONG_SHARE, path

    short, long, schedule = Shards(pool, short_job, SHARDS_AHEAD), None, Schedule(args)
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
    parser.add_argument("--compile-long-rows", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.steps, args.long_steps, args.rows = 0, 4, 4, 8
    if not args.seconds and not args.steps:
        parser.error("give --seconds or --steps")
    os.makedirs(args.out, exist_ok=True)
    if args.compile_long_rows:
        Trainer(args, args.device).compile(long_rows_of(args), LONG)
        return
    beside = None if args.smoke else compile_long_rows_beside()
    train(args, args.device)
    if beside and beside.wait():
        raise RuntimeError("compiling for the long rows failed")


if __name__ == "__main__":
    main()
