// llama-server's flags that are known and not built: refused by name, or (where leaving them out changes
// nothing here) accepted with a warning. The parser needs their arity, or the next flag would be swallowed.
#include <vector>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

std::vector<Flag> make_flags() {
  std::vector<Flag> flags;
  const auto add = [&](Support support, char priority, Group group, std::string_view names,
                       std::string_view value, std::string_view env, std::string_view why,
                       std::string_view negatives = {}) {
    Flag flag;
    flag.names = names;
    flag.negatives = negatives;
    flag.env = env;
    flag.value = value;
    flag.kind = value.empty() ? Kind::toggle : Kind::text;
    flag.priority = priority;
    flag.group = group;
    flag.support = support;
    flag.repeats = true;
    flag.doc = why;
    flags.push_back(flag);
  };
  constexpr Support kRefused = Support::refused;
  constexpr Support kNoEffect = Support::no_effect;

  // Priority B: what a script for one GPU and this family may well pass.
  constexpr std::string_view kImages = "images are not built yet";
  add(kRefused, 'B', Group::model, "--mmproj-offload", "", "LLAMA_ARG_MMPROJ_OFFLOAD", kImages,
      "--no-mmproj-offload");
  add(kRefused, 'B', Group::model, "--image-min-tokens", "N", "LLAMA_ARG_IMAGE_MIN_TOKENS", kImages);
  add(kRefused, 'B', Group::model, "--image-max-tokens", "N", "LLAMA_ARG_IMAGE_MAX_TOKENS", kImages);
  add(kNoEffect, 'B', Group::context, "--cache-reuse", "N", "LLAMA_ARG_CACHE_REUSE",
      "a recurrent state cannot be shifted, so displaced parts of a prompt cannot be reused in this family");
  add(kNoEffect, 'B', Group::context, "--context-shift", "", "LLAMA_ARG_CONTEXT_SHIFT",
      "a recurrent state cannot be shifted; an answer ends where its context is full", "--no-context-shift");
  add(kNoEffect, 'B', Group::context, "-cms,--checkpoint-min-step", "N",
      "LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT",
      "checkpoints are placed at ends of turns and by the number of spare states (--ctx-checkpoints)");
  add(kRefused, 'B', Group::context, "--cache-idle-slots", "", "LLAMA_ARG_CACHE_IDLE_SLOTS",
      "a host-memory tier of cached prompts is not built yet; idle slots stay in the prefix cache",
      "--no-cache-idle-slots");
  constexpr std::string_view kDrafts = "speculative decoding is not built yet";
  add(kRefused, 'B', Group::speculation, "--spec-draft-n-max", "N", "LLAMA_ARG_SPEC_DRAFT_N_MAX", kDrafts);
  add(kRefused, 'B', Group::speculation, "--spec-draft-n-min", "N", "LLAMA_ARG_SPEC_DRAFT_N_MIN", kDrafts);
  add(kRefused, 'B', Group::speculation, "--draft-p-min,--spec-draft-p-min", "P",
      "LLAMA_ARG_SPEC_DRAFT_P_MIN", kDrafts);
  add(kRefused, 'B', Group::speculation, "-ctkd,--cache-type-k-draft,--spec-draft-type-k", "TYPE",
      "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K", kDrafts);
  add(kRefused, 'B', Group::speculation, "-ctvd,--cache-type-v-draft,--spec-draft-type-v", "TYPE",
      "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V", kDrafts);

  // The rest: known, so that the answer is not "unknown argument".
  add(kRefused, 'C', Group::model, "--mmproj-auto", "", "LLAMA_ARG_MMPROJ_AUTO",
      "there is no download of models; --mmproj names the file", "--no-mmproj,--no-mmproj-auto");
  add(kRefused, 'C', Group::model, "-mmdev,--mmproj-device", "NAME", "MTMD_BACKEND_DEVICE", kImages);
  add(kRefused, 'C', Group::model, "--mtmd-batch-max-tokens", "N", "LLAMA_ARG_MTMD_BATCH_MAX_TOKENS",
      kImages);
  add(kRefused, 'C', Group::model, "-kvo,--kv-offload", "", "LLAMA_ARG_KV_OFFLOAD",
      "the cache is always where the model runs", "-nkvo,--no-kv-offload");
  add(kRefused, 'C', Group::model, "-mg,--main-gpu", "N", "LLAMA_ARG_MAIN_GPU",
      "several GPUs are not built; CUDA_VISIBLE_DEVICES picks one");
  add(kRefused, 'C', Group::model, "-sm,--split-mode", "MODE", "LLAMA_ARG_SPLIT_MODE",
      "several GPUs are not built");
  add(kRefused, 'C', Group::model, "-ts,--tensor-split", "LIST", "LLAMA_ARG_TENSOR_SPLIT",
      "several GPUs are not built");
  add(kRefused, 'C', Group::model, "-ot,--override-tensor", "LIST", "LLAMA_ARG_OVERRIDE_TENSOR",
      "weights in two places are not built");
  add(kRefused, 'C', Group::model, "-cmoe,--cpu-moe", "", "LLAMA_ARG_CPU_MOE",
      "this family's dense models have no experts");
  add(kRefused, 'C', Group::model, "-ncmoe,--n-cpu-moe", "N", "LLAMA_ARG_N_CPU_MOE",
      "this family's dense models have no experts");
  add(kRefused, 'C', Group::model, "-ncffn,--n-cpu-ffn", "N", "LLAMA_ARG_N_CPU_FFN",
      "weights in two places are not built");
  add(kRefused, 'C', Group::model, "--rpc", "SERVERS", "LLAMA_ARG_RPC", "remote devices are not built");
  add(kRefused, 'C', Group::model, "--check-tensors", "", "", "not built yet");
  add(kRefused, 'C', Group::model, "--override-kv", "LIST", "", "not built: metadata is what the file says");
  for (const std::string_view name :
       {"--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx",
        "--yarn-ext-factor", "--yarn-attn-factor", "--yarn-beta-slow", "--yarn-beta-fast"}) {
    add(kRefused, 'C', Group::context, name, "X", "", "not built: rotation is what the file says");
  }
  for (const std::string_view name : {"-hf,-hfr,--hf-repo", "-hff,--hf-file", "-hft,--hf-token",
                                      "-mu,--model-url", "-dr,--docker-repo", "-mmu,--mmproj-url"}) {
    add(kRefused, 'C', Group::model, name, "X", "", "there is no download of models; --model names a file");
  }
  add(kNoEffect, 'C', Group::model, "--offline", "", "LLAMA_OFFLINE", "nothing is ever downloaded");
  add(kRefused, 'C', Group::model, "--lora", "PATHS", "", "adapters are not built");
  add(kRefused, 'C', Group::model, "--lora-scaled", "PATHS", "", "adapters are not built");
  add(kRefused, 'C', Group::model, "--lora-init-without-apply", "", "", "adapters are not built");
  for (const std::string_view name : {"--control-vector", "--control-vector-scaled"}) {
    add(kRefused, 'C', Group::model, name, "PATHS", "", "steering vectors are not built");
  }
  for (const std::string_view name :
       {"-C,--cpu-mask", "-Cr,--cpu-range", "--cpu-strict", "--prio", "--poll", "-Cb,--cpu-mask-batch",
        "-Crb,--cpu-range-batch", "--cpu-strict-batch", "--prio-batch", "--poll-batch"}) {
    add(kNoEffect, 'C', Group::model, name, "X", "", "threads are placed by the operating system");
  }
  add(kNoEffect, 'C', Group::model, "--numa", "TYPE", "LLAMA_ARG_NUMA",
      "memory is placed by the operating system");
  add(kNoEffect, 'C', Group::model, "-lzm,--lazy-mode", "MODE", "LLAMA_ARG_LAZY_MODE",
      "all tensors are read at start");
  add(kNoEffect, 'C', Group::model, "--repack", "", "LLAMA_ARG_REPACK", "weights are always repacked",
      "-nr,--no-repack");
  add(kNoEffect, 'C', Group::model, "--no-host", "", "LLAMA_ARG_NO_HOST", "there is no such buffer");
  add(kNoEffect, 'C', Group::model, "--op-offload", "", "LLAMA_ARG_OP_OFFLOAD",
      "all operations run where the model is", "--no-op-offload");
  add(kNoEffect, 'C', Group::log, "--perf", "", "LLAMA_ARG_PERF", "timings are always measured", "--no-perf");
  add(kNoEffect, 'C', Group::context, "-dt,--defrag-thold", "F", "LLAMA_ARG_DEFRAG_THOLD",
      "blocks of the cache never need to be moved");
  add(kNoEffect, 'C', Group::context, "--swa-full", "", "LLAMA_ARG_SWA_FULL",
      "this family has no sliding windows");
  add(kRefused, 'C', Group::context, "--keep", "N", "", "there is no context shift in this family");
  add(kRefused, 'C', Group::context, "--sleep-idle-seconds", "N", "", "not built yet");
  for (const std::string_view name : {"-lcs,--lookup-cache-static", "-lcd,--lookup-cache-dynamic"}) {
    add(kRefused, 'C', Group::speculation, name, "PATH", "", kDrafts);
  }
  for (const std::string_view name :
       {"-md,--model-draft,--spec-draft-model",
        "-ngld,--gpu-layers-draft,--n-gpu-layers-draft,--spec-draft-ngl",
        "-devd,--device-draft,--spec-draft-device", "-td,--threads-draft", "-tbd,--threads-batch-draft",
        "--draft-p-split,--spec-draft-p-split", "--spec-ngram-mod-n-match", "--spec-ngram-mod-n-min",
        "--spec-ngram-mod-n-max"}) {
    add(kRefused, 'C', Group::speculation, name, "X", "", kDrafts);
  }
  add(kRefused, 'C', Group::speculation, "--spec-default", "", "", kDrafts);
  add(kNoEffect, 'C', Group::speculation, "--spec-draft-backend-sampling", "",
      "LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING", kDrafts, "--no-spec-draft-backend-sampling");
  add(kRefused, 'C', Group::speculation, "--draft,--draft-n,--draft-max", "N", "",
      "removed long ago; it is --spec-draft-n-max, and speculative decoding is not built yet");
  add(kRefused, 'C', Group::speculation, "--draft-n-min,--draft-min", "N", "",
      "removed long ago; it is --spec-draft-n-min, and speculative decoding is not built yet");
  add(kRefused, 'C', Group::http, "--path", "DIR", "LLAMA_ARG_STATIC_PATH", "serving files is not built");
  for (const std::string_view name : {"--webui-config,--ui-config", "--webui-config-file,--ui-config-file"}) {
    add(kRefused, 'C', Group::http, name, "X", "", "settings of the page are not built");
  }
  add(kRefused, 'C', Group::http, "--webui-mcp-proxy,--ui-mcp-proxy", "", "", "the server runs no tools",
      "--no-webui-mcp-proxy,--no-ui-mcp-proxy");
  for (const std::string_view name :
       {"--tools", "--tools-runtime", "--mcp-servers-config", "--mcp-servers-json"}) {
    add(kRefused, 'C', Group::http, name, "X", "", "the server runs no tools");
  }
  add(kRefused, 'C', Group::http, "-ag,--agent", "", "", "the server runs no tools", "-no-ag,--no-agent");
  add(kRefused, 'C', Group::http, "--ssl-key-file", "PATH", "LLAMA_ARG_SSL_KEY_FILE",
      "TLS is not built: put a proxy in front");
  add(kRefused, 'C', Group::http, "--ssl-cert-file", "PATH", "LLAMA_ARG_SSL_CERT_FILE",
      "TLS is not built: put a proxy in front");
  add(kRefused, 'C', Group::http, "--media-path", "DIR", "", kImages);
  for (const std::string_view name : {"--models-dir", "--models-preset", "--models-max"}) {
    add(kRefused, 'C', Group::http, name, "X", "", "several models in one server are not built");
  }
  add(kRefused, 'C', Group::http, "--models-autoload", "", "LLAMA_ARG_MODELS_AUTOLOAD",
      "several models in one server are not built", "--no-models-autoload");
  add(kRefused, 'C', Group::log, "--log-file", "PATH", "LLAMA_ARG_LOG_FILE",
      "not built: the log is standard error, redirect it");
  add(kRefused, 'C', Group::log, "--log-jsonl", "", "LLAMA_ARG_LOG_JSONL", "not built yet", "--no-log-jsonl");
  add(kRefused, 'C', Group::log, "--log-prompts-dir", "DIR", "", "not built");
  add(kNoEffect, 'C', Group::log, "--log-colors", "WHEN", "LLAMA_ARG_LOG_COLORS",
      "colours follow NO_COLOR and the terminal");
  add(kNoEffect, 'C', Group::log, "--log-prefix", "", "LLAMA_ARG_LOG_PREFIX", "lines always have a prefix",
      "--no-log-prefix");
  add(kNoEffect, 'C', Group::log, "--log-timestamps", "", "LLAMA_ARG_LOG_TIMESTAMPS",
      "lines always have a time", "--no-log-timestamps");
  for (const std::string_view name :
       {"--grammar", "--grammar-file", "-j,--json-schema", "-jf,--json-schema-file"}) {
    add(kRefused, 'C', Group::sampling, name, "X", "", "grammars are not built yet");
  }
  for (const std::string_view name : {"--adaptive-target", "--adaptive-decay"}) {
    add(kRefused, 'C', Group::sampling, name, "F", "", "this sampler is not built");
  }
  add(kNoEffect, 'C', Group::sampling, "-bs,--backend-sampling", "", "LLAMA_ARG_BACKEND_SAMPLING",
      "the device samples whenever it can");
  add(kNoEffect, 'C', Group::sampling, "-e,--escape", "", "", "texts are taken as they are", "--no-escape");
  add(kRefused, 'C', Group::http, "--embeddings,--embedding", "", "LLAMA_ARG_EMBEDDINGS",
      "embeddings of a chat model are not built");
  add(kRefused, 'C', Group::http, "--rerank,--reranking", "", "LLAMA_ARG_RERANKING",
      "reranking is not built");
  for (const std::string_view name : {"--pooling", "--embd-normalize"}) {
    add(kRefused, 'C', Group::http, name, "X", "", "embeddings of a chat model are not built");
  }
  add(kRefused, 'C', Group::chat, "--spm-infill", "", "", "infilling is not built");
  return flags;
}

}  // namespace

std::span<const Flag> unbuilt_flags() {
  static const std::vector<Flag> kFlags = make_flags();
  return kFlags;
}

}  // namespace fl::apps
