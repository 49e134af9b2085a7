#include "server/metrics.h"

#include <algorithm>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include "engine/engine.h"

namespace fl::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class Page {
 public:
  void counter(const char* name, const char* help, double value) {
    ClientMetric metric;
    metric.counter.value = value;
    add(name, help, MetricType::Counter, {metric});
  }
  void gauge(const char* name, const char* help, double value) {
    ClientMetric metric;
    metric.gauge.value = value;
    add(name, help, MetricType::Gauge, {metric});
  }
  void add(const char* name, const char* help, MetricType type, std::vector<ClientMetric> metrics) {
    families_.push_back({std::string("llamacpp:") + name, help, type, std::move(metrics)});
  }
  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  std::vector<MetricFamily> families_;
};

double ratio(double a, double b) {
  return b > 0 ? a / b : 0;
}

}  // namespace

void Metrics::Histogram::observe(double value, const Bounds& bounds) {
  const auto bucket = static_cast<size_t>(std::ranges::lower_bound(bounds, value) - bounds.begin());
  counts[bucket].fetch_add(1, std::memory_order_relaxed);
  sum.fetch_add(value, std::memory_order_relaxed);
}

void Metrics::count_status(int status) {
  const auto hundreds = static_cast<size_t>(std::clamp(status / 100, 1, 5));
  statuses_[hundreds - 1].fetch_add(1, std::memory_order_relaxed);
}

std::string Metrics::render(const engine::EngineStats& s) {
  Window now{static_cast<double>(s.prompt_tokens), s.prompt_seconds, static_cast<double>(s.predicted_tokens),
             s.predicted_seconds};
  Window then;
  {
    const std::scoped_lock lock(mutex_);
    then = std::exchange(last_, now);
  }
  Page page;
  page.counter("prompt_tokens_total", "Prompt tokens computed, without those from the cache.",
               now.prompt_tokens);
  page.counter("prompt_tokens_cached_total", "Prompt tokens taken from the cache.",
               static_cast<double>(s.cached_tokens));
  page.counter("prompt_seconds_total", "Time spent on prompts.", s.prompt_seconds);
  page.counter("tokens_predicted_total", "Tokens generated.", now.predicted_tokens);
  page.counter("tokens_predicted_seconds_total", "Time spent generating.", s.predicted_seconds);
  page.counter("n_decode_total", "Steps of the engine.", static_cast<double>(s.steps));
  page.gauge("n_tokens_max", "Longest sequence seen.", s.max_context);
  page.gauge("prompt_tokens_seconds", "Prompt tokens per second since the last scrape.",
             ratio(now.prompt_tokens - then.prompt_tokens, now.prompt_seconds - then.prompt_seconds));
  page.gauge(
      "predicted_tokens_seconds", "Generated tokens per second since the last scrape.",
      ratio(now.predicted_tokens - then.predicted_tokens, now.predicted_seconds - then.predicted_seconds));
  page.gauge("requests_processing", "Busy slots.", s.busy_slots);
  page.gauge("requests_deferred", "Requests that wait for a slot.", s.queued);
  page.gauge("n_busy_slots_per_decode", "Mean number of busy slots in a step.", s.busy_slots_per_step);
  page.gauge("kv_cache_usage_ratio", "Share of the KV blocks in use.",
             ratio(s.total_blocks - s.free_blocks, s.total_blocks));
  page.gauge("state_rows_free", "Spare rows for recurrent states.", s.free_state_rows);
  page.counter("requests_total", "Requests that ended.", static_cast<double>(s.requests_done));
  page.counter("requests_failed_total", "Requests that ended in an error of the engine.",
               static_cast<double>(s.requests_failed));
  page.gauge("connections", "Open connections.", static_cast<double>(connections.load()));
  const auto histogram = [&](const char* name, const char* help, const Histogram& h, const Bounds& bounds) {
    ClientMetric metric;
    uint64_t cumulative = 0;
    for (size_t i = 0; i < kBounds; ++i) {
      cumulative += h.counts[i].load(std::memory_order_relaxed);
      metric.histogram.bucket.push_back({cumulative, bounds[i]});
    }
    cumulative += h.counts[kBounds].load(std::memory_order_relaxed);
    metric.histogram.bucket.push_back({cumulative, std::numeric_limits<double>::infinity()});
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = h.sum.load(std::memory_order_relaxed);
    page.add(name, help, MetricType::Histogram, {metric});
  };
  histogram("time_to_first_token_seconds", "From a request's arrival to its first token.", first_token_,
            kFirstTokenBounds);
  histogram("inter_token_seconds", "Between two tokens of an answer.", inter_token_, kInterTokenBounds);
  std::vector<ClientMetric> statuses;
  for (size_t i = 0; i < statuses_.size(); ++i) {
    ClientMetric metric;
    metric.label = {{"class", std::to_string(i + 1) + "xx"}};
    metric.counter.value = static_cast<double>(statuses_[i].load(std::memory_order_relaxed));
    statuses.push_back(std::move(metric));
  }
  page.add("http_responses_total", "Replies by class of status.", MetricType::Counter, std::move(statuses));
  return page.text();
}

}  // namespace fl::server
