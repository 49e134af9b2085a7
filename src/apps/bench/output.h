// The result lines of `freelunch bench` in llama-bench's formats and column names, ours appended.
#pragma once

#include <string>
#include <vector>

#include "apps/bench/measure.h"
#include "apps/bench/plan.h"

namespace fl::apps::bench {

enum class Format { md, csv, json, jsonl };

struct ModelInfo {
  std::string file;
  std::string type;    ///< "qwen35 27B Q4_K - Medium"
  uint64_t bytes = 0;  ///< of the bound tensors
  uint64_t n_params = 0;
};

struct Line {
  ModelInfo model;
  std::string backend;  ///< "CPU", "CUDA"
  std::string device;   ///< Runner::describe()
  std::string cpu_info;
  int32_t n_gpu_layers = 0;
  Test test;
  Measured measured;
  std::string test_time;  ///< UTC, ISO 8601
  model::DeviceLimits limits;
  double step_bytes = 0;  ///< per generated token of every sequence
  double prompt_token_ops = 0;
  uint64_t memory_bytes = 0;  ///< reserved by the runner

  /// Share of the measured limit: of the read bandwidth for a pure generation test, of the int8 peak for a
  /// pure prompt test; 0 when not measured or mixed. Where memory was read between the steps, the median of
  /// the shares of the stretches between two reads.
  double limit_share() const;
};

/// Writes lines as they come; begin and end frame them where the format needs it.
class Writer {
 public:
  explicit Writer(Format format) : format_(format) {}
  std::string begin() const;
  std::string line(const Line& line);
  std::string end() const;

 private:
  Format format_;
  bool first_ = true;
};

}  // namespace fl::apps::bench
