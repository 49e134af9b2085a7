#include "apps/bench/output.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/dtype.h"

namespace fl::apps::bench {
namespace {

using Json = nlohmann::ordered_json;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  }
  return out;
}

std::string size_text(uint64_t bytes) {
  constexpr double kMiB = 1024.0 * 1024.0;
  const double mib = double(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.2f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

std::string params_text(uint64_t n) {
  return n < 1'000'000'000 ? fmt::format("{:.2f} M", double(n) * 1e-6)
                           : fmt::format("{:.2f} B", double(n) * 1e-9);
}

// llama-bench's columns (tools/llama-bench/llama-bench.cpp) that have a meaning here, then our own.
Json columns(const Line& line) {
  const Test& test = line.test;
  const Measured& measured = line.measured;
  Json json;
  json["build_commit"] = FREELUNCH_VERSION;
  json["build_number"] = 0;
  json["cpu_info"] = line.cpu_info;
  json["gpu_info"] = line.backend == "CPU" ? "" : line.device;
  json["backends"] = line.backend;
  json["model_filename"] = line.model.file;
  json["model_type"] = line.model.type;
  json["model_size"] = line.model.bytes;
  json["model_n_params"] = line.model.n_params;
  json["n_batch"] = test.n_batch;
  json["n_ubatch"] = test.n_batch;
  json["n_threads"] = test.n_threads;
  json["type_k"] = lower(dtype_info(test.type_k).name);
  json["type_v"] = lower(dtype_info(test.type_v).name);
  json["n_gpu_layers"] = line.n_gpu_layers;
  json["n_prompt"] = test.n_prompt;
  json["n_gen"] = test.n_gen;
  json["n_depth"] = test.n_depth;
  json["test_time"] = line.test_time;
  json["avg_ns"] = static_cast<int64_t>(measured.mean_seconds() * 1e9);
  json["stddev_ns"] = static_cast<int64_t>(measured.stddev_seconds() * 1e9);
  json["avg_ts"] = measured.mean_rate();
  json["stddev_ts"] = measured.stddev_rate();
  json["n_parallel"] = test.n_parallel;
  json["read_bandwidth"] = measured.reads.empty() ? line.limits.read_bandwidth : measured.read_bandwidth();
  json["int8_ops"] = line.limits.int8_ops;
  json["step_bytes"] = line.step_bytes;
  json["limit_share"] = line.limit_share();
  json["memory_bytes"] = line.memory_bytes;
  json["tokens_hash"] = fmt::format("{:016x}", measured.tokens_hash);
  json["n_differing"] = measured.n_differing;
  return json;
}

Json with_samples(const Line& line) {
  Json json = columns(line);
  Json times = Json::array();
  for (double seconds : line.measured.seconds) {
    times.push_back(static_cast<int64_t>(seconds * 1e9));
  }
  json["samples_ns"] = std::move(times);
  json["samples_ts"] = line.measured.rates;
  return json;
}

std::string csv_quote(const Json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::string out = "\"";
  for (char c : text) {
    out += c;
    if (c == '"') {
      out += '"';
    }
  }
  return out + "\"";
}

std::string csv_row(const Json& json, bool names) {
  std::string row;
  for (const auto& [key, value] : json.items()) {
    row += (row.empty() ? "" : ",") + (names ? key : csv_quote(value));
  }
  return row + "\n";
}

std::string markdown(const Line& line) {
  const double share = line.limit_share();
  const Test& test = line.test;
  const std::string kv = test.type_k == test.type_v ? lower(dtype_info(test.type_k).name)
                                                    : lower(dtype_info(test.type_k).name) + "/" +
                                                          lower(dtype_info(test.type_v).name);
  return fmt::format(
      "| {:<24} | {:>10} | {:>8} | {:<7} | {:>7} | {:>5} | {:>20} | {:>16} | {:>9} | {:>10} | {} |\n",
      line.model.type, size_text(line.model.bytes), params_text(line.model.n_params), line.backend,
      test.n_threads, kv, test.name(),
      fmt::format("{:.2f} ± {:.2f}", line.measured.mean_rate(), line.measured.stddev_rate()),
      share > 0 ? fmt::format("{:.1f} %", 100 * share) : "", size_text(line.memory_bytes),
      fmt::format("{:08x}", line.measured.tokens_hash >> 32));
}

}  // namespace

double Line::limit_share() const {
  const double rate = measured.mean_rate();
  if (!measured.steps_per_byte.empty()) {
    return measured.median_steps_per_byte() * step_bytes;
  }
  if (test.n_gen > 0 && test.n_prompt == 0 && limits.read_bandwidth > 0) {
    return rate / test.n_parallel * step_bytes / limits.read_bandwidth;
  }
  if (test.n_prompt > 0 && test.n_gen == 0 && limits.int8_ops > 0) {
    return rate * prompt_token_ops / limits.int8_ops;
  }
  return 0;
}

std::string Writer::begin() const {
  switch (format_) {
    case Format::md:
      return "| model                    |       size |   params | backend | threads |    kv |               "
             "  test |"
             "              t/s |  of limit |     memory | tokens   |\n"
             "| ------------------------ | ---------: | -------: | ------- | ------: | ----: | "
             "-------------------: |"
             " ---------------: | --------: | ---------: | -------- |\n";
    case Format::json:
      return "[\n";
    case Format::csv:
    case Format::jsonl:
      return "";
  }
  return "";
}

std::string Writer::line(const Line& line) {
  const bool first = first_;
  first_ = false;
  switch (format_) {
    case Format::md:
      return markdown(line);
    case Format::csv: {
      const Json json = columns(line);
      return (first ? csv_row(json, true) : "") + csv_row(json, false);
    }
    case Format::json: {
      std::string text = with_samples(line).dump(2);
      for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 3)) {
        text.replace(at, 1, "\n  ");
      }
      return (first ? "  " : ",\n  ") + text;
    }
    case Format::jsonl:
      return with_samples(line).dump() + "\n";
  }
  return "";
}

std::string Writer::end() const {
  return format_ == Format::json ? "\n]\n" : "";
}

}  // namespace fl::apps::bench
