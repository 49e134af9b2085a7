// A memory plan: the runner's own items and what the process takes beside them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "apps/flags/options.h"
#include "apps/load/context.h"

namespace fl::gguf {
class File;
}

namespace fl::apps {

// What a process takes beside the runner, measured on x86-64 Linux as resident memory of `freelunch serve`
// less the runner's items.
inline constexpr uint64_t kProgramBytes = 17ULL << 20;
inline constexpr uint64_t kBytesPerToken = 18;
inline constexpr uint64_t kBytesPerMerge = 56;
/// The device's own context and kernels; typical, it depends on card and driver.
inline constexpr uint64_t kDriverContextBytes = 300ULL << 20;

struct MemoryPlan {
  ContextPlan context;
  std::vector<model::MemoryItem> items;
  uint64_t total = 0;
  std::optional<Error> error;  ///< the options contradict the model
};

MemoryPlan make_plan(const Options& options, const gguf::File& file, const model::Weights& weights,
                     const ContextPlan& context, bool gpu);

/// Tokenizer tables and the program itself.
uint64_t process_bytes(const gguf::File& file);

/// The most tokens that each of n chats can have in `room` bytes; 0: none.
int64_t largest_context(const Options& options, const gguf::File& file, const model::Weights& weights,
                        int32_t n_chats, bool gpu, uint64_t room);

}  // namespace fl::apps
