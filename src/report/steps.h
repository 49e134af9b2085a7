// The order in which one configuration is measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "report/records.h"

namespace fl::report {

struct Step {
  std::string depth;
  std::string kind;  ///< of Sample
  int64_t repeat = 0;
  int64_t only = -1;        ///< of a filling: the chat
  bool after_half = false;  ///< of a filling: half of it was read just before
  int64_t part = 1;         ///< of the repeat
  bool closes = false;      ///< the repeat ends with this part, before it has all of them
};

/// (ctx, chats, depth, repeat, part) of the measured batches that are in the journal.
using DoneBatches = std::set<std::tuple<int64_t, int64_t, std::string, int64_t, int64_t>>;

/// What is left to do of a configuration's plan. Empty windows are spread between the filled ones, so that a
/// drift of the machine shows as their spread; a window is filled again only when batches of it are left.
std::vector<Step> steps_of(const ConfigPlan& plan, const DoneBatches& batches);

/// 0 .. n - 1, the first, the last, the one between, those between these, and so on: what is measured early
/// encloses what comes later, so that estimates lie between measurements instead of beyond them.
std::vector<size_t> spanning_order(size_t n);

}  // namespace fl::report
