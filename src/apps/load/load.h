// From options to a model that answers: files, device, context, runner, engine.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "apps/flags/options.h"
#include "apps/load/context.h"
#include "base/result.h"
#include "gguf/gguf.h"
#include "model/runner.h"
#include "model/weights.h"
#include "server/server.h"

namespace fl::apps {

class Progress;

struct Loaded {
  server::LoadedModel model;
  ContextPlan context;
  std::string device;  ///< Runner::describe()
  std::vector<model::MemoryItem> memory;
  std::string reading;  ///< ReadProgress::summary()
};

/// The file that --model names, or the demo model: $FREELUNCH_DATA/models/demo, then models/demo beside the
/// program or above it.
Result<std::string> resolve_model(const Options& options);

/// The file's general.sampling.* become defaults where no flag was given. Reads the header only.
Status take_file_sampling(const std::string& path, Options& options);

/// The file's weights; what is not supported is an unusable model (bad_file). Errors name the file.
Result<model::Weights> bind_model(const gguf::File& file);

/// Whether the model goes to the GPU. Says on the log, once, when layers were asked for and there is no GPU.
Result<bool> choose_cuda(const Options& options);

/// `command` is for the progress line on a terminal, which `quiet` leaves out.
Result<Loaded> load_model(const Options& options, const std::string& path, std::string_view command,
                          bool quiet);

/// The file is a vision tower whose output the model takes: architecture, projector, width, tensors.
Status check_projector(const std::string& path, int64_t n_embd);

/// Reading weights, for people: a progress line with the rate on a terminal, and how long it took. A callback
/// of model::make_*_runner with this object as its context.
class ReadProgress {
 public:
  ReadProgress(std::string_view command, const std::string& path, uint64_t bytes, bool quiet);
  ~ReadProgress();
  static void on_read(void* context, uint64_t done, uint64_t total);
  /// "read model.gguf: 16.5 GB in 2.4 s, 6.9 GB/s".
  std::string summary() const;

 private:
  std::string name_;
  std::unique_ptr<Progress> line_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
  uint64_t bytes_ = 0;
};

/// Memory that a runner may take here: of the GPU when it can be asked, else of this machine. 0: unknown.
uint64_t memory_available(const Options& options, bool cuda);

/// "cpu: AMD EPYC ...", one line a device.
std::string list_devices();

/// The log goes to stderr at the level of --verbosity.
void set_up_log(int64_t verbosity);

}  // namespace fl::apps
