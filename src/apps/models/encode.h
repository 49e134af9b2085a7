// Rows of a matrix to a wanted type and into a file, on all cores, in pieces of bounded size.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "apps/progress.h"
#include "base/result.h"
#include "core/dtype.h"
#include "gguf/gguf.h"

namespace fl::apps {

/// Fills rows [first, first + out.size() / cols) of a tensor as float; called from several threads at once.
using ReadRows = std::function<void(int64_t first, std::span<float> out)>;

/// `rows` x `cols` values, encoded as `type` (cols is a multiple of its block), appended to the writer's
/// current tensor. `progress` counts elements.
Status write_rows(gguf::Writer& writer, DType type, int64_t rows, int64_t cols, unsigned n_threads,
                  const ReadRows& read, Progress& progress);

/// 0: one thread per core.
unsigned threads_of(int wanted);

}  // namespace fl::apps
