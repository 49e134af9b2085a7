// Runs of the demo's matrix, as recorded.
#pragma once

#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/report/replay.h"

namespace fl::report::test {

inline Options matrix(std::vector<int64_t> ctx, std::vector<int64_t> chats, double budget) {
  Options out;
  out.kind = "model";
  out.command_template = "serve --port {port}";
  out.ctx = std::move(ctx);
  out.chats = std::move(chats);
  out.depths = {"empty", "half", "full"};
  out.budget_seconds = budget;
  out.tasks = "none";
  return out;
}

// A server that reports its usage and has llama-server's tokenizer route; rates of its calibration in tok/s.
inline ReplayedMachine machine(double tokens_per_byte, double prefill, double decode) {
  ReplayedMachine out;
  out.facts.token_counts = "usage";
  out.facts.tokenizer = "llama-server";
  out.facts.tokens_per_byte = tokens_per_byte;
  out.facts.overhead_tokens = 10;
  out.facts.calibration_prefill = prefill;
  out.facts.calibration_decode = decode;
  return out;
}

// `freelunch report` on the demo model, two idle cores of an AMD EPYC: each row is the mean of the batches of
// one repeat. Repeats that were not recorded take as long as those that were, in turn.
inline ReplayedMachine recorded(const std::string& name = "demo_matrix.csv") {
  struct Row {
    double seconds = 0;
    double rate = 0;
    Sample sample;
  };
  using Place = std::tuple<int64_t, int64_t, std::string, std::string>;
  auto rows = std::make_shared<std::map<Place, std::map<int64_t, Row>>>();
  std::ifstream file(std::string(FL_SOURCE_DIR) + "/tests/report/data/" + name);
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::vector<std::string> cells;
    std::istringstream in(line);
    for (std::string cell; std::getline(in, cell, ',');) {
      cells.push_back(cell);
    }
    Row row;
    row.seconds = std::stod(cells.at(5));
    row.rate = std::stod(cells.at(6));
    row.sample.prompt_tokens = std::stoll(cells.at(7));
    row.sample.cached_tokens = std::stoll(cells.at(8));
    row.sample.ttft_seconds = std::stod(cells.at(9));
    (*rows)[{std::stoll(cells.at(0)), std::stoll(cells.at(1)), cells.at(2), cells.at(3)}]
           [std::stoll(cells.at(4))] = row;
  }
  EXPECT_EQ(rows->size(), 45 * 2 + 30 + 15);
  ReplayedMachine out = machine(0.257, 14463, 4008);
  out.facts.name = "freelunch";
  out.start_seconds = [rows](const ConfigSize& size) {
    constexpr double kAsking = 0.13;
    return kAsking + rows->at({size.ctx, size.chats, "", "start"}).at(0).seconds;
  };
  out.batch = [rows](const BatchSpec& spec) {
    const std::string kind = spec.kind == "anchor" ? "measure" : spec.kind;
    const auto& repeats = rows->at({spec.ctx, spec.chats, spec.depth, kind});
    const auto known = repeats.find(spec.repeat);
    const Row& row = known != repeats.end()
                         ? known->second
                         : std::next(repeats.begin(), spec.repeat % std::ssize(repeats))->second;
    Batch batch;
    batch.seconds = row.seconds;
    if (row.rate > 0) {
      batch.decode_total = row.rate;
    }
    batch.samples = {row.sample};
    return batch;
  };
  out.noise = 0.1;
  return out;
}

}  // namespace fl::report::test
