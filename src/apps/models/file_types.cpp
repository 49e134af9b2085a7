#include "apps/models/file_types.h"

#include <map>

namespace fl::apps {

std::string file_type_name(int64_t id) {
  static const std::map<int64_t, const char*> kNames{{0, "all F32"},
                                                     {1, "F16"},
                                                     {2, "Q4_0"},
                                                     {3, "Q4_1"},
                                                     {7, "Q8_0"},
                                                     {8, "Q5_0"},
                                                     {9, "Q5_1"},
                                                     {10, "Q2_K - Medium"},
                                                     {11, "Q3_K - Small"},
                                                     {12, "Q3_K - Medium"},
                                                     {13, "Q3_K - Large"},
                                                     {14, "Q4_K - Small"},
                                                     {15, "Q4_K - Medium"},
                                                     {16, "Q5_K - Small"},
                                                     {17, "Q5_K - Medium"},
                                                     {18, "Q6_K"},
                                                     {25, "IQ4_NL - 4.5 bpw"},
                                                     {30, "IQ4_XS - 4.25 bpw"},
                                                     {32, "BF16"}};
  const auto found = kNames.find(id);
  return found == kNames.end() ? "mixed" : found->second;
}

}  // namespace fl::apps
