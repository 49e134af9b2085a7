#include "report/prompts.h"

#include <array>

#include <fmt/format.h>
#include <xxhash.h>

namespace fl::report {
namespace {

constexpr std::array<std::string_view, 40> kNouns{
    "river",   "teacher", "window",  "market",  "engine",   "garden", "letter",    "winter",
    "doctor",  "bridge",  "school",  "machine", "island",   "farmer", "kitchen",   "music",
    "village", "paper",   "captain", "forest",  "sister",   "train",  "story",     "animal",
    "office",  "money",   "picture", "road",    "summer",   "worker", "house",     "question",
    "table",   "nation",  "science", "light",   "mountain", "horse",  "newspaper", "friend"};
constexpr std::array<std::string_view, 24> kVerbs{
    "found",  "watched",  "carried", "described", "followed", "remembered", "sold",    "opened",
    "needed", "crossed",  "painted", "repaired",  "visited",  "measured",   "counted", "left",
    "moved",  "answered", "built",   "forgot",    "helped",   "learned",    "noticed", "wanted"};
constexpr std::array<std::string_view, 24> kAdjectives{
    "old",     "quiet",   "small",  "bright", "heavy",   "early", "green",  "simple",
    "strange", "warm",    "empty",  "young",  "broken",  "large", "dark",   "famous",
    "slow",    "careful", "narrow", "clean",  "distant", "red",   "common", "late"};
constexpr std::array<std::string_view, 10> kLinks{"because", "while", "before", "after",    "and",
                                                  "but",     "so",    "until",  "although", "when"};

// splitmix64 (Steele, Lea, Flood 2014): one multiplication chain a number, every seed gives another sequence.
uint64_t next(uint64_t& state) {
  state += 0x9e3779b97f4a7c15ULL;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

template <size_t N>
std::string_view pick(const std::array<std::string_view, N>& words, uint64_t& state) {
  return words[next(state) % N];
}

}  // namespace

std::string make_text(uint64_t seed, size_t n_bytes) {
  uint64_t state = seed;
  std::string text;
  while (text.size() < n_bytes) {
    if (!text.empty()) {
      text += ' ';
    }
    text +=
        fmt::format("The {} {} {} the {} {} {} the {} {} {}.", pick(kAdjectives, state), pick(kNouns, state),
                    pick(kVerbs, state), pick(kAdjectives, state), pick(kNouns, state), pick(kLinks, state),
                    pick(kNouns, state), pick(kVerbs, state), pick(kNouns, state));
  }
  const size_t end = text.find_last_of(' ', n_bytes);
  if (text.size() > n_bytes && end != std::string::npos) {
    text.resize(end);
  }
  return text;
}

uint64_t seed_of(std::string_view run_id, std::string_view place) {
  return XXH3_64bits_withSeed(place.data(), place.size(), XXH3_64bits(run_id.data(), run_id.size()));
}

}  // namespace fl::report
