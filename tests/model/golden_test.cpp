// Logits against the official implementation; data and weights by tools/export_golden/export.py.
#include "tests/model/golden.h"

namespace fl {
namespace {

TEST(Golden, LogitsOfTheOfficialImplementation) {
  test::expect_official_logits(
      [](const test::TinyModel& m) { return test::load(test::draft_model(m), test::tiny_options()); });
}

}  // namespace
}  // namespace fl
