// The committed demo model against the official implementation on the same weights. models/demo holds Q8_0;
// the CPU path would quantise activations too, so the file is written again in f32 and compared exactly. Rows
// by tools/demo_model/golden.py.
#include <cmath>
#include <fstream>

#include <nlohmann/json.hpp>

#include "core/quants.h"
#include "tests/model/harness.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using nlohmann::json;

const std::filesystem::path kSource = FL_SOURCE_DIR;
const std::filesystem::path kDemo = kSource / "models" / "demo" / "freelunch-demo-q8_0.gguf";

std::vector<int64_t> shape(const TensorView& view) {
  std::vector<int64_t> ne(view.ne.begin(), view.ne.end());
  while (ne.size() > 1 && ne.back() == 1) {
    ne.pop_back();
  }
  return ne;
}

// The same model with every tensor in f32.
Status write_f32(const std::filesystem::path& from, const std::filesystem::path& to) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(from));
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(to));
  for (const auto& entry : file.entries()) {
    FL_ASSIGN(gguf::Value value, file.value(entry.key));
    writer.set(std::string(entry.key), std::move(value));
  }
  for (const gguf::Tensor& tensor : file.tensors()) {
    writer.declare(tensor.name, DType::f32, shape(tensor.view));
  }
  FL_TRY(writer.begin_data());
  for (const gguf::Tensor& tensor : file.tensors()) {
    std::vector<float> row(static_cast<size_t>(tensor.view.cols()));
    for (int64_t r = 0; r < tensor.view.rows(); ++r) {
      dequantize_row(tensor.view.type, tensor.view.row(r), row);
      FL_TRY(writer.write(std::as_bytes(std::span<const float>(row))));
    }
  }
  return writer.finish();
}

TEST(DemoGolden, LogitsOfTheOfficialImplementation) {
  std::ifstream text(kSource / "tests" / "golden" / "demo.json");
  ASSERT_TRUE(text) << "tests/golden/demo.json is part of the repository";
  const json golden = json::parse(text);
  const std::filesystem::path rows = kSource / "tests" / "golden" / "demo.f32";
  std::vector<float> stored(std::filesystem::file_size(rows) / sizeof(float));
  std::ifstream binary(rows, std::ios::binary);
  binary.read(reinterpret_cast<char*>(stored.data()),
              static_cast<std::streamsize>(stored.size() * sizeof(float)));
  ASSERT_TRUE(binary);

  const test::TempFile f32;
  const Status written = write_f32(kDemo, f32.path());
  ASSERT_TRUE(written) << written.error().message;
  auto runner = test::load(f32.path(), test::tiny_options());
  ASSERT_TRUE(runner) << runner.error().message;
  const auto vocab = golden.at("vocab").get<size_t>();
  ASSERT_GE(golden.at("cases").size(), 4U);
  for (const json& one : golden["cases"]) {
    SCOPED_TRACE(one.at("name").get<std::string>());
    test::Sequence s = test::sequence(0);
    const auto tokens = one.at("tokens").get<std::vector<int32_t>>();
    const test::Logits got = test::step(**runner, {test::Feed{&s, tokens, {}}})[0];
    size_t at = one.at("offset");
    for (const json& row : one.at("rows")) {
      const std::vector<float>& logits = got.at(row.get<size_t>());
      ASSERT_EQ(logits.size(), vocab);
      double largest = 0;
      double difference = 0;
      for (size_t i = 0; i < vocab; ++i) {
        const double want = stored.at(at++);
        largest = std::max(largest, std::abs(want));
        difference = std::max(difference, std::abs(want - static_cast<double>(logits[i])));
      }
      // Negated so that NaN fails.
      EXPECT_TRUE(difference <= test::kOfficialLogits * largest)
          << "row " << row << ": off by " << difference << " of " << largest;
    }
  }
}

}  // namespace
}  // namespace fl
