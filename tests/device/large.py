"""Qwen3.5-27B on the device (a synthetic file of its shape): memory, loading, one chat and eight, long contexts, refusals."""
import csv
import io
import os
import pathlib
import subprocess
import threading
import time

from machine import Server, all_finite, memory_in_use, random_tokens

MIB = 1 << 20
# `serve`, q8_0 cache: flags, and the device's memory in MiB that they may take at most.
MEMORY = (("32k x 1", ("-c", "32768", "-np", "1"), 17100, 16500),
          ("128k x 1", ("-c", "131072", "-np", "1"), 20800, 20100),
          ("128k x 4", ("-c", "131072", "-np", "4"), 21200, 20600))
UNACCOUNTED = 48  # MiB: code that is loaded with the first launch of its kernels
Q8 = ("-ctk", "q8_0", "-ctv", "q8_0")
SECONDS_FROM_CACHE = 3.0
COLD_TO_DISK = 1.15
N_CHATS, N_TOKENS = 8, 96
# Alone and with seven decoding chats beside it a step of one product with one order of sums: on sm_90 from 9 tokens on, elsewhere up to 64
# (docs/decisions/0077). Steps that only decode have at most eight tokens.
PROMPT_AMONG_OTHERS = 48
LONG_PROMPT = 32704
CUT_PROMPT = 1985  # its last token is alone in a step of 64, of 512 and so on
DEPTHS = {32768: "0.90, aim 0.93", 122880: "0.72, aim 0.77"}
DOES_NOT_FIT = 4
COMMAND_SECONDS = 180


def make(program, folder, size):
    path = pathlib.Path(folder) / f"{size}.gguf"
    if not path.exists():
        subprocess.run([program, "synth", str(path), "--size", size, "--type", "Q4_K_M", "-q"], check=True)
    return path


def drop_from_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path):
    """GB/s of the disk itself: the file read past the page cache in large pieces, four at a time."""
    size = path.stat().st_size
    piece, readers = 16 * MIB, 4
    n = size // piece // readers
    started = time.monotonic()
    running = [subprocess.Popen(["dd", f"if={path}", "of=/dev/null", "bs=16M", f"skip={i * n}", f"count={n}", "iflag=direct"],
                                stderr=subprocess.DEVNULL) for i in range(readers)]
    if any(reader.wait() for reader in running):
        raise RuntimeError("dd iflag=direct does not work on this file system")
    return n * readers * piece / (time.monotonic() - started) / 1e9


def loading(program, model, results):
    """From cold, past the page cache and through it, and from the cache; each the log's own words."""
    size = model.stat().st_size / 1e9
    drop_from_cache(model)
    disk = disk_rate(model)
    results.reading("disk, dd iflag=direct, four readers", f"{disk:.2f} GB/s, {size / disk:.1f} s for the file")
    for name, flags in (("cold, past the cache", ("--direct-io",)), ("cold, through the cache", ("--no-direct-io",)),
                        ("from the cache", ()), ("from the cache again", ())):
        if name.startswith("cold"):
            drop_from_cache(model)
        with Server(program, model, "-c", "32768", "-np", "1", *Q8, *flags) as server:
            wanted = f"{COLD_TO_DISK * size / disk:.1f} s" if name.startswith("cold") else f"{SECONDS_FROM_CACHE} s"
            results.reading(f"loading {name}", f"{server.log_line('read ')}; ready after {server.ready_seconds:.1f} s", wanted)


def memory(program, model, results):
    for name, flags, most, aim in MEMORY:
        before = memory_in_use()
        with Server(program, model, *flags, *Q8) as server:
            server.complete(random_tokens(4096, 3), 4)
            used = memory_in_use() - before
            total = server.get("/props")["memory_total"]
            accounted = total["device"] / MIB
            results.check(f"memory {name}", used <= most, f"{used} MiB by nvidia-smi ({accounted:.0f} accounted, {total['host'] / MIB:.0f} "
                          "page-locked)", f"{most}, aim {aim}")
            results.check(f"memory {name}: accounted", abs(used - accounted) <= UNACCOUNTED, f"{used - accounted:+.0f} MiB", f"{UNACCOUNTED}")
            if name == "128k x 4":
                results.reading("memory items", server.log_line("memory: "))


def chats(program, model, results):
    """A chat's tokens alone and among seven others, whose prompts and answers go on beside it."""
    with Server(program, model, "-c", str(N_CHATS * 4096), "-np", N_CHATS, *Q8) as server:
        prompt = random_tokens(PROMPT_AMONG_OTHERS, 1)
        alone = server.complete(prompt, N_TOKENS, cache_prompt=False)["tokens"]
        again = server.complete(prompt, N_TOKENS, cache_prompt=False)["tokens"]
        results.check("27B: a chat again", alone == again and len(alone) == N_TOKENS, f"{len(alone)} tokens", "the same")
        # The others begin first, so that they decode when this one's prompt is read
        others = [random_tokens(20 + 5 * i, 100 + i) for i in range(N_CHATS - 1)]
        running = threading.Thread(target=server.complete_together, args=(others, 6 * N_TOKENS), kwargs={"cache_prompt": False})
        running.start()
        while sum(slot["is_processing"] and slot["next_token"][0]["n_decoded"] > 4 for slot in server.get("/slots")) < N_CHATS - 1:
            time.sleep(0.02)
        among = server.complete(prompt, N_TOKENS, cache_prompt=False)["tokens"]
        still = sum(slot["is_processing"] for slot in server.get("/slots"))
        running.join()
        same = next((i for i, (a, b) in enumerate(zip(alone, among)) if a != b), N_TOKENS)
        results.check("27B: a chat in a batch of 8", alone == among and still == N_CHATS - 1,
                      f"{same} of {N_TOKENS} tokens equal, {still} others beside it", "all")


def long_context(program, model, results):
    with Server(program, model, "-c", "36864", "-np", "1", *Q8) as server:
        prompt = random_tokens(LONG_PROMPT, 7)
        cold = server.complete(prompt, 128, n_probs=3)
        results.check("27B: finite after 32k tokens", all_finite(cold) and len(cold["tokens"]) == 128,
                      f"{LONG_PROMPT} prompt tokens in {cold['timings']['prompt_ms']:.0f} ms, {len(cold['tokens'])} generated", "finite logits")
        # Resumed from a checkpoint in host memory: the prompt's last block only.
        server.complete(random_tokens(200, 8), 4)
        resumed = server.complete(prompt, 128, n_probs=3)
        results.check("27B: resumed from a checkpoint is cold", resumed["tokens"] == cold["tokens"],
                      f"{resumed['timings']['prompt_n']} prompt tokens read again in {resumed['timings']['prompt_ms']:.0f} ms", "the same tokens")


def refusal(program, model, results):
    done = subprocess.run([program, "serve", "-m", str(model), "--port", "0", "-c", "131072", "-np", "4", *Q8, "--vram-limit", "18GiB"],
                          capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    said = done.stderr.strip().splitlines()[-1]
    results.check("27B: what does not fit is said", done.returncode == DOES_NOT_FIT and "kv cache" in said and "that fits holds" in said,
                  f"exit {done.returncode}: {said}", "sizes and the largest cache that fits")


def bench(program, model, *flags):
    done = subprocess.run([program, "bench", "-m", str(model), "-o", "csv", *Q8, *map(str, flags)], capture_output=True, text=True,
                          timeout=COMMAND_SECONDS, check=True)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def depths(program, model, results):
    rows = bench(program, model, "-p", 0, "-n", 48, "-d", "0," + ",".join(map(str, DEPTHS)), "-r", 2)
    rates = {int(row["n_depth"]): float(row["avg_ts"]) for row in rows}
    results.reading("decode, one chat", f"{rates[0]:.1f} tok/s")
    for depth, wanted in DEPTHS.items():
        results.reading(f"decode at {depth}", f"{rates[depth]:.1f} tok/s, {rates[depth] / rates[0]:.3f} of depth 0", wanted)


def step_sizes(program, model, results):
    answers = {tokens: bench(program, model, "-p", 0, "-n", 0, "-pg", f"{CUT_PROMPT},64", "-b", tokens, "-r", 1)[-1]["tokens_hash"]
               for tokens in (2048, 512, 192, 64)}
    results.check("27B: a prompt in steps of any size", len(set(answers.values())) == 1, f"tokens by step size {answers}", "the same")
    for tokens in (2048, 1024, 512):
        rows = bench(program, model, "-p", "2048,8192", "-n", 0, "-b", tokens, "-r", 3)
        results.reading(f"prompts in steps of {tokens}", ", ".join(f"pp{row['n_prompt']} {float(row['avg_ts']):.0f} tok/s" for row in rows))


PARTS = {"loading": loading, "memory": memory, "chats": chats, "long_context": long_context, "refusal": refusal, "depths": depths,
         "step_sizes": step_sizes}
