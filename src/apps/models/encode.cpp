#include "apps/models/encode.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/quants.h"

namespace fl::apps {
namespace {

constexpr int64_t kPieceElements = int64_t{16} << 20;  // what is held at once: at most 64 MiB encoded
constexpr int64_t kTaskElements = int64_t{64} << 10;   // what a thread takes at once

}  // namespace

unsigned threads_of(int wanted) {
  return wanted > 0 ? static_cast<unsigned>(wanted) : std::max(1U, std::thread::hardware_concurrency());
}

Status write_rows(gguf::Writer& writer, DType type, int64_t rows, int64_t cols, unsigned n_threads,
                  const ReadRows& read, Progress& progress) {
  const uint64_t stride = row_bytes(type, static_cast<uint64_t>(cols));
  const int64_t piece = std::max<int64_t>(1, kPieceElements / cols);
  const int64_t task = std::max<int64_t>(1, kTaskElements / cols);
  std::vector<std::byte> encoded;
  for (int64_t begin = 0; begin < rows; begin += piece) {
    const int64_t end = std::min(begin + piece, rows);
    encoded.resize(stride * static_cast<uint64_t>(end - begin));
    std::atomic<int64_t> next = begin;
    const auto work = [&] {
      std::vector<float> values(static_cast<size_t>(task * cols));
      for (int64_t first = next.fetch_add(task); first < end; first = next.fetch_add(task)) {
        const int64_t n = std::min(task, end - first);
        const auto some = std::span(values).first(static_cast<size_t>(n * cols));
        read(first, some);
        for (int64_t r = 0; r < n; ++r) {
          quantize_row(type, some.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)), {},
                       encoded.data() + stride * static_cast<uint64_t>(first + r - begin));
        }
      }
    };
    const auto n_tasks = static_cast<uint64_t>((end - begin + task - 1) / task);
    std::vector<std::jthread> helpers;
    for (uint64_t t = 1; t < std::min<uint64_t>(n_threads, n_tasks); ++t) {
      helpers.emplace_back(work);
    }
    work();
    helpers.clear();  // joins
    FL_TRY(writer.write(encoded));
    progress.add(static_cast<uint64_t>((end - begin) * cols));
  }
  return {};
}

}  // namespace fl::apps
