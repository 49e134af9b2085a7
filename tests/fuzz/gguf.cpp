// Any bytes as a GGUF file, and a valid tiny model with any changes: an error, or a model that binds and runs
// one token.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gguf/gguf.h"
#include "model/runners.h"
#include "model/weights.h"
#include "tests/fuzz/patches.h"
#include "tests/support/tiny_model.h"
#include "tokenizer/tokenizer.h"

namespace {

using fl::gguf::File;

fl::test::TinyModel small_model() {
  fl::test::TinyModel m;
  m.hidden = 32;
  m.ff = 32;
  m.layers = 2;
  m.heads = 2;
  m.kv_heads = 1;
  m.value_heads = 4;
  m.vocab = 40;
  m.recurrent = {true, false};
  m.mtp = true;
  return m;
}

std::string valid_file() {
  fl::test::Draft draft = fl::test::draft_model(small_model());
  draft.keys["tokenizer.ggml.model"] = std::string("gpt2");
  draft.keys["tokenizer.ggml.pre"] = std::string("qwen35");
  draft.keys["tokenizer.ggml.tokens"] = std::vector<std::string>{"a", "b", "ab", "<|im_end|>"};
  draft.keys["tokenizer.ggml.token_type"] = std::vector<int32_t>{1, 1, 1, 3};
  draft.keys["tokenizer.ggml.merges"] = std::vector<std::string>{"a b"};
  const std::string path = "/tmp/fuzz_gguf_" + std::to_string(::getpid()) + ".gguf";
  if (!draft.write(path)) {
    std::abort();
  }
  std::ifstream stream(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  ::unlink(path.c_str());
  return bytes;
}

void run_one_token(const fl::model::Weights& weights) {
  fl::model::RunnerOptions options;
  options.n_threads = 1;
  options.n_blocks = 1;
  options.n_state_rows = 1;
  options.max_tokens = 1;
  options.max_slices = 1;
  options.max_rows = 1;
  auto runner = fl::model::make_cpu_runner(weights, options);
  if (!runner) {
    return;
  }
  const std::vector<int32_t> tokens{0};
  const std::vector<fl::model::Position> positions{{0, 0, 0}};
  const std::vector<int32_t> blocks{0};
  std::vector<fl::model::Slice> slices(1);
  slices[0].n_tokens = 1;
  slices[0].blocks = blocks;
  const std::vector<fl::model::Row> rows{{0, true, {}}};
  fl::model::Batch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slices = slices;
  batch.rows = rows;
  (*runner)->submit(batch);
  (void)(*runner)->collect();
}

void exercise(const std::string& bytes) {
  // A file in memory: nothing is written to a disk.
  const int fd = ::memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    std::abort();
  }
  const auto file = File::open("/proc/self/fd/" + std::to_string(fd));
  ::close(fd);
  if (!file) {
    return;
  }
  for (const File::Entry& entry : file->entries()) {
    (void)file->describe(entry.key);
    (void)file->value(entry.key);
  }
  (void)fl::tokenizer::Tokenizer::from_gguf(*file);
  if (const auto weights = fl::model::Weights::bind(*file)) {
    run_one_token(*weights);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string kValid = valid_file();
  if (size > 0) {
    exercise(data[0] % 4 == 0 ? std::string(reinterpret_cast<const char*>(data) + 1, size - 1)
                              : fl::fuzz::patched(kValid, {data + 1, size - 1}));
  }
  return 0;
}
