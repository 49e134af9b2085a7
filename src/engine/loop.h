// The step loop: plan, forward, sample, commit. Sole owner of the runner, both memories and the prefix cache;
// runs on the engine thread (Engine) or step by step in a test. Not thread-safe but for `board`.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/state_cache.h"

namespace fl::engine {

/// What other threads may see, refreshed after each step.
struct Board {
  struct Slot {
    SlotInfo info;  ///< without `sampling`
    std::shared_ptr<const SamplingParams> sampling;
  };
  mutable std::mutex mutex;
  std::vector<Slot> slots;
  EngineStats stats;
  Clock::time_point last_step;
};

class Loop {
 public:
  Loop(std::unique_ptr<model::Runner> runner, const EngineOptions& options);
  ~Loop();

  /// Starts a request in a slot. False when its slot, any slot, or its memory is taken: try again later.
  /// Never throws.
  bool start(const Ticket& ticket);
  /// Ends it with Finish::cancelled; nothing more of it is submitted. False when it does not run.
  bool cancel(RequestId id);
  void cancel_all();
  bool busy(int32_t slot) const { return slots_[slot].phase != Sequence::Phase::idle; }
  Result<int32_t> erase_slot(int32_t slot);

  /// One round: submits as many steps as may be in flight and collects the oldest. False when there was
  /// nothing to do (idle, or all sinks busy). Never throws: errors end the requests they concern.
  bool round();

  /// Tokens of one sequence: n_ctx_slot, or what the blocks hold if that is less.
  int32_t n_ctx() const { return options_.n_ctx_slot; }
  bool idle() const { return n_busy_ == 0; }
  bool lost() const { return lost_; }
  int32_t n_busy() const { return n_busy_; }

  void publish(int32_t queued);
  const Board& board() const { return board_; }
  const model::Runner& runner() const { return *runner_; }

  /// For tests of conservation: blocks and rows that are neither free nor held by the prefix cache.
  const KvCache& blocks() const { return blocks_; }
  const StateCache& rows() const { return rows_; }
  PrefixCache& prefix() { return prefix_; }

 private:
  /// A sequence's part in a submitted step.
  struct Entry {
    int32_t slot = 0;
    int32_t n_tokens = 0;
    int32_t row = -1;
  };
  struct Step {
    uint64_t number = 0;
    std::vector<Entry> entries;
  };

  // loop.cpp: steps
  bool submit_step();
  void collect_step();
  int32_t depth() const;
  bool wants_decode(const Sequence& seq) const;
  void add_slice(Sequence& seq, int32_t n_tokens);
  void commit(Sequence& seq, const Entry& entry, const model::RowResult* result);
  void deliver(Sequence& seq, const Entry& entry, const model::RowResult* result);
  void choose_token(Sequence& seq, const model::RowResult& result);
  bool is_ready(Sequence& seq);
  void reset_batch();

  // requests.cpp: beginnings and ends
  int32_t choose_slot(const Ticket& ticket) const;
  void resume(Sequence& seq);
  void place_cuts(Sequence& seq, int32_t n_blocked);
  void publish_blocks(Sequence& seq, int32_t n_tokens);
  void take_checkpoint(Sequence& seq);
  void finish(Sequence& seq, Finish how, std::optional<int32_t> stop_token, const std::string& error);
  void release(Sequence& seq, bool keep);
  void park(Sequence& seq);
  void fail_steps(const std::string& what, bool lost);
  void give_up(const std::string& what);
  // follow.cpp: prompts that share their beginning with one that is being read
  void choose_leader(Sequence& seq);
  bool waits_for_leader(Sequence& seq);
  void jump(Sequence& seq);

  int32_t allocate_block();
  /// A row for a sequence that runs, whatever the cache keeps there but for the row `spared` (or -1).
  int32_t allocate_step_row(int32_t spared);
  /// A row for a checkpoint at `node`, at the cost of the one worth least; -1 when there are no spare rows,
  /// or only such as are worth more than a state that is passed.
  int32_t allocate_spare_row(int32_t node, Worth worth);
  /// Moves a state that the cache keeps in a step row to a spare row; forgets it when all of those hold
  /// states worth more. `spared` (a row, or -1) stays where it is.
  void set_aside(int32_t row, int32_t spared);
  void sink_failed(Sequence& seq, const char* what);
  /// Calls the sink; one that throws has gone away. False when that ended the sequence.
  template <typename F>
  bool tell(Sequence& seq, F&& f) {
    try {
      f(*seq.request().sink);
      return true;
    } catch (const std::exception& e) {
      sink_failed(seq, e.what());
    } catch (...) {
      sink_failed(seq, "not a std::exception");
    }
    return false;
  }

  std::unique_ptr<model::Runner> runner_;
  EngineOptions options_;
  KvCache blocks_;
  StateCache rows_;
  PrefixCache prefix_;
  SamplerScratch scratch_;
  std::vector<Sequence> slots_;
  int32_t n_busy_ = 0;
  int32_t reserved_blocks_ = 0;
  uint64_t clock_ = 0;
  uint64_t n_steps_ = 0;
  bool lost_ = false;

  std::vector<Step> flying_;  ///< submitted, oldest first
  std::vector<Step> spare_steps_;
  Step building_;    ///< being made and submitted
  Step collecting_;  ///< being collected and committed

  // The batch being built
  std::vector<PromptWork> waiting_;
  std::vector<Chunk> chunks_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> feedback_;
  std::vector<model::Position> positions_;
  std::vector<model::Slice> slices_;
  std::vector<model::Row> step_rows_;
  TokenEvent event_;

  Board board_;
  EngineStats stats_;
  uint64_t busy_sum_ = 0;
};

}  // namespace fl::engine
