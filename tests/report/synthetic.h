// Records of a run that never took place: a server whose speed follows a formula, for tests of everything
// that is computed from records.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "report/records.h"

namespace fl::report::test {

struct World {
  std::vector<int64_t> ctx{16384, 32768, 65536, 98304, 131072};
  std::vector<int64_t> chats{1, 2, 4};
  std::vector<std::string> depths{"empty", "half", "full"};
  std::string more_args;  // of the server's command
  /// Seconds of one step; noise is a factor near 1.
  std::function<double(int64_t ctx, int64_t chats, int64_t depth_tokens)> step = [](int64_t, int64_t n_chats,
                                                                                    int64_t depth) {
    return 0.020 + 0.001 * static_cast<double>(n_chats) + 2e-8 * static_cast<double>(n_chats * depth);
  };
  double noise = 0.005;
  std::function<bool(int64_t ctx, int64_t chats)> fits = [](int64_t, int64_t) { return true; };
};

inline Manifest manifest_of(const World& world) {
  Manifest out;
  out.program_version = "0.1.0";
  out.options.kind = "model";
  out.options.command_template =
      "/usr/bin/freelunch serve --model {model} --host 127.0.0.1 --port {port} --ctx-size {ctx} --parallel "
      "{chats} -ctk q8_0" +
      world.more_args;
  out.options.ctx = world.ctx;
  out.options.chats = world.chats;
  out.options.depths = world.depths;
  out.options.tasks = "none";
  out.machine.cpu = "Test CPU";
  out.machine.n_cores = 8;
  out.model.name = "test-27B";
  out.model.path = "/models/test 27B.gguf";
  return out;
}

inline Batch batch_of(const World& world, int64_t ctx, int64_t chats, const std::string& depth,
                      int64_t repeat) {
  const int64_t window = ctx / chats;
  const int64_t tokens = depth == "empty" ? 512 : depth == "half" ? window / 2 : window - 256;
  const double step = world.step(ctx, chats, tokens) * (1 + world.noise * static_cast<double>(repeat - 2));
  Batch out;
  out.ctx = ctx;
  out.chats = chats;
  out.depth = depth;
  out.repeat = repeat;
  out.kind = "measure";
  out.at = "2025-01-01T00:00:00Z";
  out.seconds = 1;
  for (int64_t chat = 0; chat < chats; ++chat) {
    Sample sample;
    sample.cell = std::to_string(ctx) + "x" + std::to_string(chats) + " " + depth;
    sample.kind = "measure";
    sample.repeat = repeat;
    sample.chat = chat;
    sample.status = "ok";
    sample.prompt_tokens = tokens;
    sample.cached_tokens = depth == "empty" ? 0 : tokens - 512;
    sample.completion_tokens = 128;
    sample.ttft_seconds = 0.25;
    sample.decode_rate = 1 / step;
    sample.prefill_rate = 2000;
    sample.total_seconds = 0.25 + 127 * step;
    out.samples.push_back(sample);
    for (int i = 0; i < 127; ++i) {
      out.gaps_us.push_back(std::llround(1e6 * step));
    }
  }
  out.decode_total = static_cast<double>(chats) / step;
  out.prefill_total = 2000;
  out.memory_bytes = 1'000'000'000 + 1000 * ctx;
  out.memory_basis = "process tree RSS";
  return out;
}

inline std::vector<Record> records_of(const World& world) {
  std::vector<Record> out;
  RunRecord run;
  run.id = "20250101-000000-test";
  run.started_at = "2025-01-01T00:00:00Z";
  run.command = "freelunch report";
  out.push_back(run);
  Facts facts;
  facts.name = "freelunch";
  facts.token_counts = "usage";
  facts.tokens_per_byte = 0.25;
  out.push_back(facts);
  for (const int64_t ctx : world.ctx) {
    for (const int64_t chats : world.chats) {
      Start start{ctx, chats, ctx / chats, "freelunch serve", world.fits(ctx, chats), "", 1, {}};
      if (!start.started) {
        start.error = "the server ended: does not fit";
        out.push_back(start);
        continue;
      }
      out.push_back(start);
      out.push_back(ConfigPlan{ctx, chats, world.depths, 3, 10, {}});
      for (const std::string& depth : world.depths) {
        for (int64_t repeat = 1; repeat <= 3; ++repeat) {
          out.push_back(batch_of(world, ctx, chats, depth, repeat));
        }
      }
    }
  }
  return out;
}

}  // namespace fl::report::test
