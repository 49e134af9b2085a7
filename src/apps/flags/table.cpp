#include "apps/flags/flags.h"

namespace fl::apps {

const std::vector<Flag>& all_flags() {
  static const std::vector<Flag> kFlags = [] {
    std::vector<Flag> flags;
    for (const auto part : {model_flags(), context_flags(), http_flags(), chat_flags(), sampling_flags(),
                            command_flags(), unbuilt_flags()}) {
      flags.insert(flags.end(), part.begin(), part.end());
    }
    return flags;
  }();
  return kFlags;
}

}  // namespace fl::apps
