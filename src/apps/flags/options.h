// What the commands that load a model were told, by flags or environment. The table in flags.h fills it.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "model/runner.h"
#include "server/server.h"

namespace fl::apps {

inline constexpr int64_t kAutoLayers = -1;
inline constexpr int64_t kAllLayers = -2;

struct Options {
  // The model and where it runs
  std::string model;   ///< empty: the demo model
  std::string mmproj;  ///< empty: none
  std::string device = "auto";
  int64_t n_gpu_layers = kAutoLayers;
  uint64_t vram_limit = 0;  ///< bytes of the GPU that may be used; 0: all
  model::PromptProducts prompt_products = model::PromptProducts::automatic;
  int64_t threads = 0;        ///< 0: one per physical core
  int64_t threads_batch = 0;  ///< 0: as `threads`
  std::string load_mode = "auto";
  bool direct_io = false;
  bool list_devices = false;
  bool warmup = true;
  bool measure_limits = false;
  bool fit = true;
  DType cache_type_k = DType::f16;

  // `serve`: the flags of a report's profile come before those of the command line
  std::string profile;
  std::string profile_from = "freelunch-report/report.json";

  // Context and memory
  std::optional<int64_t> ctx_size;     ///< of all slots together, 0: the training length; nothing: what fits
  int64_t parallel = -1;               ///< -1: four slots that share one pool
  int64_t kv_unified = -1;             ///< 1, 0; -1: when `parallel` was not given
  int64_t kv_unified_per_slot = 0;     ///< 0: no limit
  std::optional<int64_t> batch_size;   ///< tokens of a step; nothing: by device
  std::optional<int64_t> ubatch_size;  ///< prompt tokens of a step in which chats decode; nothing: by device
  DType cache_type_v = DType::f16;
  int64_t fit_target_mib = 1024;
  int64_t fit_ctx = 4096;
  std::optional<int64_t> ctx_checkpoints;  ///< spare recurrent states per slot; nothing: kCheckpoints in all

  // Chat
  std::string chat_template;
  std::string chat_template_file;

  server::ServerOptions server;  ///< also `defaults` of requests, which `run` and `chat` use too
  std::string api_key_file;
  int64_t verbosity = 3;

  // `run` and `chat`
  std::string prompt;
  bool prompt_given = false;
  std::string system_prompt;
  bool use_template = false;  ///< `run --chat`
  bool json = false;

  // `plan`
  std::string size;  ///< a published size instead of a file
  std::string type = "Q4_K_M";
  std::string vram;  ///< "24GiB"; empty: this machine's memory

  /// flag_name() of the flags that were given, by the command line or the environment.
  std::set<std::string_view> given;
};

}  // namespace fl::apps
