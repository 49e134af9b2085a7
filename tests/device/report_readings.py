"""The report on a real card: NVML's readings are in it (energy, clocks, memory), and no reading is missing or absurd."""
import json
import pathlib
import subprocess


def find_all(value, key):
    """Every value under this key, however deep."""
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == key and v is not None] + [w for v in value.values() for w in find_all(v, key)]
    return [w for v in value for w in find_all(v, key)] if isinstance(value, list) else []


def look(program, demo, results, out):
    folder = pathlib.Path(out) / "report"
    done = subprocess.run([program, "report", "-m", demo, "--quick", "--budget", "25s", "--ctx", "4096", "--chats", "1,2", "--tasks", "none",
                           "--repeats", "2", "--no-history", "-q", "--fresh", "--out", str(folder)], capture_output=True, text=True, timeout=120, check=False)
    results.check("report: ends", done.returncode == 0, done.stderr.strip()[-200:] or "exit 0", "exit 0")
    if done.returncode != 0:
        return
    report = json.loads((folder / "report.json").read_text())
    gpus = find_all(report, "gpus")
    gpu = gpus[0][0] if gpus and gpus[0] else {}
    names = {key: gpu.get(key) for key in ("name", "driver", "memory_bytes", "sm_clock_max_mhz", "memory_clock_max_mhz", "power_limit_watts")}
    results.check("report: the card", bool(gpu) and all(names[key] for key in ("name", "memory_bytes", "sm_clock_max_mhz", "power_limit_watts")),
                  names, "name, memory, clocks, power limit")
    joules = [stat["median"] if isinstance(stat, dict) else stat for stat in find_all(report, "joules_per_token")]
    results.check("report: energy", bool(joules) and all(0 < j < 100 for j in joules), [round(j, 3) for j in joules][:6], "joules a token")
    memory = find_all(report, "memory")
    on_device = [m for m in memory if isinstance(m, dict) and "NVML" in str(m.get("basis", "")) or isinstance(m, dict) and "device" in str(m.get("basis", ""))]
    results.check("report: memory of the device", bool(on_device), on_device[:1], "by NVML")
