// GET /metrics: llama-server's names, and histograms of what a user waits for.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace fl::engine {
struct EngineStats;
}

namespace fl::server {

class Metrics {
 public:
  void observe_first_token(double seconds) { first_token_.observe(seconds, kFirstTokenBounds); }
  void observe_inter_token(double seconds) { inter_token_.observe(seconds, kInterTokenBounds); }
  void count_status(int status);
  std::atomic<int64_t> connections{0};

  /// Prometheus text. The two rate gauges cover the time since the last call.
  std::string render(const engine::EngineStats& stats);

 private:
  static constexpr size_t kBounds = 14;
  using Bounds = std::array<double, kBounds>;
  static constexpr Bounds kFirstTokenBounds{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                            2.5,  5,     10,   30,  60,   120, 300};
  static constexpr Bounds kInterTokenBounds{0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02,
                                            0.03,  0.05,   0.075, 0.1,    0.25, 0.5,   1};
  struct Histogram {
    std::array<std::atomic<uint64_t>, kBounds + 1> counts{};
    std::atomic<double> sum{0};
    void observe(double value, const Bounds& bounds);
  };
  struct Window {
    double prompt_tokens = 0, prompt_seconds = 0, predicted_tokens = 0, predicted_seconds = 0;
  };

  Histogram first_token_, inter_token_;
  std::array<std::atomic<uint64_t>, 5> statuses_{};  ///< 1xx to 5xx
  std::mutex mutex_;
  Window last_;  ///< at the last scrape
};

}  // namespace fl::server
