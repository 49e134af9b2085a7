#include "engine/scheduler.h"

#include <algorithm>

#include "base/result.h"
#include "model/batch.h"

namespace fl::engine {

using model::kBlockTokens;

namespace {

constexpr int32_t kOldestShare = 4;  ///< one part in so many of the budget is the oldest prompt's

int32_t next_grid(int32_t position) {
  return (position / kBlockTokens + 1) * kBlockTokens;
}

/// The tokens of a chunk of at most `room`, from `start`; 0 when not even the next grid point is within
/// reach.
int32_t chunk_size(const PromptWork& work, int32_t start, int32_t room) {
  int32_t end = work.end;
  if (work.cut > start) {
    end = std::min(end, work.cut);
  }
  if (end - start > room) {
    end = std::min(end, (start + room) / kBlockTokens * kBlockTokens);
  }
  return std::max(0, end - start);
}

}  // namespace

void plan_prompts(std::span<const PromptWork> waiting, int32_t n_decode, const StepBudget& budget,
                  std::vector<Chunk>& chunks) {
  chunks.clear();
  if (waiting.empty()) {
    return;
  }
  int32_t room = budget.step_tokens - n_decode;
  if (n_decode > 0) {
    room = std::min(room, budget.chunk_tokens);
  }
  const auto oldest = std::ranges::min_element(waiting, {}, &PromptWork::order);
  // A smaller budget than one block could never move a prompt to the next place where it may be cut.
  room = std::max(room, std::min(oldest->end, next_grid(oldest->position)) - oldest->position);
  room = std::min(room, budget.capacity - n_decode);

  const int32_t reserved =
      chunk_size(*oldest, oldest->position, std::max(room / kOldestShare, std::min(room, kBlockTokens)));
  FL_CHECK(reserved > 0, "no room for a prompt's next block");
  room -= reserved;
  chunks.push_back({oldest->sequence, reserved});

  // Least left first; the oldest may take more than its share when its turn comes. Few prompts: selection in
  // place.
  uint64_t last_order = 0;
  int32_t last_left = -1;
  for (size_t n = 0; n < waiting.size() && room > 0; ++n) {
    const PromptWork* next = nullptr;
    const auto left = [](const PromptWork& w) { return w.end - w.position; };
    const auto after = [](int32_t a_left, uint64_t a_order, int32_t b_left, uint64_t b_order) {
      return a_left > b_left || (a_left == b_left && a_order > b_order);
    };
    for (const PromptWork& w : waiting) {
      if (last_left >= 0 && !after(left(w), w.order, last_left, last_order)) {
        continue;
      }
      if (next == nullptr || after(left(*next), next->order, left(w), w.order)) {
        next = &w;
      }
    }
    if (next == nullptr) {
      return;
    }
    last_left = left(*next);
    last_order = next->order;
    if (next->sequence == oldest->sequence) {
      const int32_t more = chunk_size(*next, next->position + reserved, room);
      const bool at_cut = next->cut == next->position + reserved;
      if (more > 0 && !at_cut) {
        chunks.front().n_tokens += more;
        room -= more;
      }
      continue;
    }
    const int32_t size = chunk_size(*next, next->position, room);
    if (size > 0) {
      chunks.push_back({next->sequence, size});
      room -= size;
    }
  }
}

}  // namespace fl::engine
