// Three questions that the cells answer, and the sentence for each answer. A finding that the cells do not
// support is not printed, and its opposite is stated when that is what they show.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// Differences under this are called none, whatever the spread.
constexpr double kNoDifference = 0.05;
// Two means differ when they are further apart than this many standard errors.
constexpr double kStandardErrors = 2;
// More chats than one pay when they raise the total by more than this.
constexpr double kGain = 0.05;
constexpr double kGiB = 1024.0 * 1024 * 1024;

std::string rate(double value) {
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
}

std::string percent(double share) {
  return fmt::format("{:.0f} %", 100 * std::abs(share));
}

bool measured(const Cell* cell) {
  return cell != nullptr && cell->status == "ok" && cell->decode_per_chat.has_value();
}

// Whether the repeats tell the two apart.
bool apart(const Stat& a, const Stat& b) {
  const double error = std::sqrt(a.sd * a.sd / static_cast<double>(std::max<int64_t>(a.n, 1)) +
                                 b.sd * b.sd / static_cast<double>(std::max<int64_t>(b.n, 1)));
  return std::abs(a.mean - b.mean) > kStandardErrors * error;
}

std::string chats_word(int64_t n) {
  return n == 1 ? "one chat" : fmt::format("{} chats", n);
}

std::string one_writes(int64_t n) {
  return n == 1 ? "one chat writes" : fmt::format("each of {} chats writes", n);
}

std::optional<Finding> of_context_size(const Document& document) {
  // The smallest number of chats with two contexts: nothing but the size of the window differs.
  for (const int64_t chats : document.chats) {
    std::vector<const Cell*> row;
    for (const int64_t ctx : document.ctx) {
      if (const Cell* cell = find_cell(document, ctx, chats, "empty"); measured(cell)) {
        row.push_back(cell);
      }
    }
    if (row.size() < 2) {
      continue;
    }
    const Stat& small = *row.front()->decode_per_chat;
    const Stat& large = *row.back()->decode_per_chat;
    const double change = large.mean / small.mean - 1;
    const auto [low, high] = std::minmax_element(row.begin(), row.end(), [](const Cell* a, const Cell* b) {
      return a->decode_per_chat->mean < b->decode_per_chat->mean;
    });
    const double least = (*low)->decode_per_chat->mean;
    const double most = (*high)->decode_per_chat->mean;
    Finding out;
    out.id = "context_size";
    for (const Cell* cell : row) {
      out.cells.push_back(cell->id);
    }
    const std::string range =
        fmt::format("from {} to {}", short_tokens(row.front()->ctx), short_tokens(row.back()->ctx));
    if (most <= least * (1 + kNoDifference)) {
      out.title = "Asking for a larger context costs no speed";
      out.text = fmt::format("While the window is empty {} {} to {} tok/s {}: a difference of {}.",
                             one_writes(chats), rate(least), rate(most), range, percent(most / least - 1));
    } else if (std::abs(change) > kNoDifference && apart(small, large)) {
      out.title = change < 0 ? "A larger context costs speed even when it is empty"
                             : "A larger context was faster, even empty";
      out.text =
          fmt::format("With an empty window {} {} tok/s at {} and {} at {}: {} {}.", one_writes(chats),
                      rate(small.mean), short_tokens(row.front()->ctx), rate(large.mean),
                      short_tokens(row.back()->ctx), percent(change), change < 0 ? "slower" : "faster");
    } else {
      return std::nullopt;  // the repeats vary too much to say either
    }
    const auto memory_of = [&](const Cell* cell) { return cell->memory.bytes; };
    if (memory_of(row.front()) && memory_of(row.back())) {
      const double begin = static_cast<double>(*memory_of(row.front())) / kGiB;
      const double end = static_cast<double>(*memory_of(row.back())) / kGiB;
      out.text += fmt::format(" Memory goes from {:.2f} to {:.2f} GiB.", begin, end);
    }
    return out;
  }
  return std::nullopt;
}

std::optional<Finding> of_depth(const Document& document) {
  // The largest window that was measured both empty and filled, with the fewest chats.
  for (const int64_t chats : document.chats) {
    for (auto ctx = document.ctx.rbegin(); ctx != document.ctx.rend(); ++ctx) {
      const Cell* empty = find_cell(document, *ctx, chats, "empty");
      for (const char* depth : {"full", "half"}) {
        const Cell* filled = find_cell(document, *ctx, chats, depth);
        if (!measured(empty) || !measured(filled)) {
          continue;
        }
        const Stat& before = *empty->decode_per_chat;
        const Stat& after = *filled->decode_per_chat;
        const double change = after.mean / before.mean - 1;
        Finding out;
        out.id = "depth";
        out.cells = {empty->id, filled->id};
        const std::string numbers = fmt::format(
            "{} {} tok/s in an empty window of {} and {} with {} tokens in it", one_writes(chats),
            rate(before.mean), short_tokens(*ctx / chats), rate(after.mean), filled->depth_tokens);
        if (std::abs(change) > kNoDifference && !apart(before, after)) {
          return std::nullopt;  // the repeats vary too much to say either
        }
        if (std::abs(change) <= kNoDifference) {
          out.title = "A filled window is as fast as an empty one";
          out.text = fmt::format("{}: a difference of {}.", numbers, percent(change));
        } else if (change < 0) {
          out.title = "Filling the window costs speed";
          out.text = fmt::format("{}: {} slower.", numbers, percent(change));
        } else {
          out.title = "A filled window was faster than an empty one";
          out.text = fmt::format("{}: {} faster.", numbers, percent(change));
        }
        out.text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(out.text[0])));
        return out;
      }
    }
  }
  return std::nullopt;
}

std::optional<Finding> of_chats(const Document& document) {
  for (const int64_t ctx : document.ctx) {
    std::vector<const Cell*> row;
    for (const int64_t chats : document.chats) {
      const Cell* cell = find_cell(document, ctx, chats, "empty");
      if (measured(cell) && cell->decode_total) {
        row.push_back(cell);
      }
    }
    if (row.size() < 2) {
      continue;
    }
    const Cell* one = row.front();
    const Cell* best = *std::max_element(row.begin(), row.end(), [](const Cell* a, const Cell* b) {
      return a->decode_total->mean < b->decode_total->mean;
    });
    const double gain = best->decode_total->mean / one->decode_total->mean;
    Finding out;
    out.id = "chats";
    for (const Cell* cell : row) {
      out.cells.push_back(cell->id);
    }
    if (gain > 1 + kGain && !apart(*one->decode_total, *best->decode_total)) {
      return std::nullopt;
    }
    if (best == one || gain <= 1 + kGain) {
      const Cell* most = row.back();
      out.title = "More chats at once add no speed";
      out.text = fmt::format("{} together write {} tok/s, {} alone {}: they share one speed.",
                             chats_word(most->chats), rate(most->decode_total->mean), chats_word(one->chats),
                             rate(one->decode_total->mean));
    } else {
      out.title = fmt::format("{} chats together are {:.1f} times as fast as {}", best->chats, gain,
                              chats_word(one->chats));
      out.text = fmt::format(
          "{} tok/s in total against {}; each of the {} chats then writes {} tok/s, {} of what one "
          "writes alone.",
          rate(best->decode_total->mean), rate(one->decode_total->mean), best->chats,
          rate(best->decode_per_chat->mean),
          percent(best->decode_per_chat->mean / one->decode_per_chat->mean));
    }
    return out;
  }
  return std::nullopt;
}

}  // namespace

std::vector<Finding> find_findings(const Document& document) {
  std::vector<Finding> out;
  for (auto& finding : {of_context_size(document), of_depth(document), of_chats(document)}) {
    if (finding) {
      out.push_back(*finding);
    }
  }
  return out;
}

Headline summarize(const Document& document) {
  // People read about 250 words a minute, and a token is about three quarters of a word.
  constexpr double kReadingSpeed = 6;
  constexpr double kInteractive = 3 * kReadingSpeed;
  Headline out;
  const Cell* one = nullptr;
  const Cell* best = nullptr;
  for (const Cell& cell : document.cells) {
    if (!measured(&cell)) {
      continue;
    }
    const bool fewer = one == nullptr || cell.chats < one->chats;
    const bool emptier =
        one != nullptr && cell.chats == one->chats && one->depth != "empty" && cell.depth == "empty";
    if (fewer || emptier) {
      one = &cell;
    }
    if (cell.decode_total && (best == nullptr || cell.decode_total->mean > best->decode_total->mean)) {
      best = &cell;
    }
  }
  if (one == nullptr) {
    out.verdict =
        "Nothing was measured: " +
        (document.integrity.reason.empty() ? std::string("no cell was reached") : document.integrity.reason) +
        ".";
    return out;
  }
  const double speed = one->decode_per_chat->mean;
  out.decode_one_chat = speed;
  out.decode_one_chat_cell = one->id;
  if (one->ttft) {
    out.ttft_seconds = one->ttft->p50;
  }
  out.memory_bytes = one->memory.bytes;
  out.memory_cell = one->id;
  if (best != nullptr) {
    out.decode_best_total = best->decode_total->mean;
    out.decode_best_total_cell = best->id;
  }
  const std::string device =
      !document.machine.gpus.empty() ? document.machine.gpus.front().name
      : document.machine.cpu.empty()
          ? std::string("This machine")
          : fmt::format("{} ({} cores)", document.machine.cpu, document.machine.n_cores);
  const std::string model = document.model.name.empty() ? "the model" : document.model.name;
  const char* judgement = speed >= kInteractive    ? "faster than anyone reads"
                          : speed >= kReadingSpeed ? "about as fast as people read"
                                                   : "slower than people read";
  out.verdict =
      fmt::format("{} runs {} at {} tok/s for {}, {}", device, model, rate(speed),
                  one->chats == 1 ? "one chat" : fmt::format("each of {} chats", one->chats), judgement);
  if (best != nullptr && best->chats > 1 && *out.decode_best_total > speed * (1 + kGain)) {
    out.verdict += fmt::format(", and at {} tok/s for {} together", rate(*out.decode_best_total),
                               chats_word(best->chats));
  }
  out.verdict +=
      document.integrity.valid ? "." : "; the run is not valid: " + document.integrity.reason + ".";
  if (out.ttft_seconds) {
    out.recap = fmt::format("The first token of a prompt of {} tokens comes after {:.2f} s. ",
                            one->depth_tokens, *out.ttft_seconds);
  }
  for (const Finding& finding : document.findings) {
    out.recap += finding.title + ". ";
  }
  if (document.quality && document.quality->measured) {
    out.recap += fmt::format("{} of {} coding answers were right. ", document.quality->n_solved,
                             document.quality->n_samples);
  }
  if (!out.recap.empty()) {
    out.recap.pop_back();
  }
  return out;
}

}  // namespace fl::report
