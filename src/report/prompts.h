// Prompts of a wanted length that no server has seen before: plain English sentences from a seed, different
// from the first words on. Natural text, because random ids make speculative decoding look bad.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fl::report {

/// The same text for the same seed; a longer one begins with the shorter one, up to its last word. About
/// `n_bytes` long, ends after a word.
std::string make_text(uint64_t seed, size_t n_bytes);

/// A seed for one place in a run: mixes the run's id and the words.
uint64_t seed_of(std::string_view run_id, std::string_view place);

}  // namespace fl::report
