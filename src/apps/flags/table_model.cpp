// Flags of the model, where it runs, and its memory.
#include <array>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

constexpr double kMaxThreads = 1024;
constexpr double kMaxContext = 1 << 26;
constexpr double kMaxSlots = 256;
constexpr double kMaxBatch = 1 << 16;
constexpr double kMaxCheckpoints = 4096;
constexpr double kMaxMiB = 1 << 24;
constexpr std::string_view kKvTypes = "f32|f16|bf16|q8_0";

DType kv_type(std::string_view name) {
  return dtype_from_name(name).value_or(DType::f16);  // only names of kKvTypes get here
}

const std::array kModel{
    Flag{.names = "-m,--model",
         .env = "LLAMA_ARG_MODEL",
         .value = "PATH",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::model,
         .commands = kAll,
         .doc =
             "GGUF file; of a split model the first part (-00001-of-000NN.gguf). Without it: the demo model",
         .set = [](Options& o, const FlagValue& v) { o.model = v.text; }},
    Flag{.names = "--profile",
         .value = "NAME",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::model,
         .doc = "start with the flags that `freelunch report` measured and recommends: chat, long-files, "
                "coding or "
                "agents; flags of the command line come after them",
         .set = [](Options& o, const FlagValue& v) { o.profile = v.text; }},
    Flag{.names = "--from",
         .value = "PATH",
         .kind = Kind::text,
         .fallback = "freelunch-report/report.json",
         .priority = 'A',
         .group = Group::model,
         .doc = "the report that --profile is read from",
         .set = [](Options& o, const FlagValue& v) { o.profile_from = v.text; }},
    Flag{.names = "-mm,--mmproj",
         .env = "LLAMA_ARG_MMPROJ",
         .value = "PATH",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::model,
         .doc =
             "vision file of the model. It is opened and checked against the model; a request with an image "
             "is answered 400, because images are not built yet",
         .set = [](Options& o, const FlagValue& v) { o.mmproj = v.text; }},
    Flag{.names = "-dev,--device",
         .env = "LLAMA_ARG_DEVICE",
         .value = "NAME",
         .kind = Kind::choice,
         .words = "auto|none|cpu|cuda|CUDA0",
         .fallback = "auto",
         .group = Group::model,
         .commands = kAll,
         .doc =
             "where the model runs; auto: the GPU if this build and machine have one; none and cpu: the CPU",
         .set = [](Options& o, const FlagValue& v) { o.device = v.text; }},
    Flag{.names = "--list-devices",
         .group = Group::model,
         .commands = kLoad,
         .doc = "print the devices and leave",
         .set = [](Options& o, const FlagValue&) { o.list_devices = true; }},
    Flag{.names = "-ngl,--gpu-layers,--n-gpu-layers",
         .env = "LLAMA_ARG_N_GPU_LAYERS",
         .value = "N",
         .kind = Kind::integer,
         .least = -2,
         .most = 1e9,
         .words = "auto=-1|all=-2",
         .fallback = "auto",
         .priority = 'A',
         .group = Group::model,
         .commands = kAll,
         .doc = "layers on the GPU: 0 is none, the model's number of layers or more is all. A part of the "
                "layers is refused; without a GPU a number above 0 is said once and the CPU does the work",
         .set = [](Options& o, const FlagValue& v) { o.n_gpu_layers = v.integer; }},
    Flag{.names = "--vram-limit",
         .value = "SIZE",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::model,
         .commands = kLoad,
         .doc =
             "memory of the GPU that may be used, such as 24GiB, the driver's part included; what does not "
             "fit is refused at the start. Without it: all that is free",
         .read = [](Options& o, const FlagValue& v) -> Status {
           FL_ASSIGN(o.vram_limit, parse_bytes(v.text));
           return {};
         }},
    Flag{.names = "--prompt-products",
         .value = "TYPE",
         .kind = Kind::choice,
         .words = "auto|f16|int8",
         .fallback = "auto",
         .group = Group::model,
         .commands = kLoad,
         .doc =
             "what the GPU multiplies prompts of more than 64 tokens in; int8 is faster on chips that ration "
             "16-bit products and rounds activations as the CPU does; auto: int8 on those chips, f16 on "
             "others",
         .set =
             [](Options& o, const FlagValue& v) {
               o.prompt_products = v.text == "f16"    ? model::PromptProducts::f16
                                   : v.text == "int8" ? model::PromptProducts::int8
                                                      : model::PromptProducts::automatic;
             }},
    Flag{.names = "-t,--threads",
         .env = "LLAMA_ARG_THREADS",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxThreads,
         .fallback = "-1",
         .group = Group::model,
         .commands = kAll,
         .doc = "threads of the CPU backend; -1 and 0: one per physical core",
         .set = [](Options& o, const FlagValue& v) { o.threads = v.integer < 0 ? 0 : v.integer; }},
    Flag{.names = "-tb,--threads-batch",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxThreads,
         .fallback = "-1",
         .group = Group::model,
         .commands = kLoad,
         .doc = "threads for prompts: prompt and decode share their steps here, so another number than "
                "--threads is refused",
         .set = [](Options& o, const FlagValue& v) { o.threads_batch = v.integer < 0 ? 0 : v.integer; }},
    Flag{.names = "-lm,--load-mode",
         .env = "LLAMA_ARG_LOAD_MODE",
         .value = "MODE",
         .kind = Kind::choice,
         .words = "auto|none|mmap|mlock|mmap+mlock",
         .fallback = "auto",
         .group = Group::model,
         .commands = kLoad,
         .doc =
             "weights are read through a mapping and repacked into memory of their own, whatever the mode; "
             "mlock keeps that memory from being swapped out",
         .set = [](Options& o, const FlagValue& v) { o.load_mode = v.text; }},
    Flag{.names = "--mmap",
         .negatives = "--no-mmap",
         .group = Group::model,
         .commands = kLoad,
         .doc = "the older spelling of --load-mode mmap and none",
         .set = [](Options& o, const FlagValue& v) { o.load_mode = v.integer != 0 ? "mmap" : "none"; }},
    Flag{.names = "--mlock",
         .group = Group::model,
         .commands = kLoad,
         .doc = "the older spelling of --load-mode mmap+mlock",
         .set = [](Options& o, const FlagValue&) { o.load_mode = "mmap+mlock"; }},
    Flag{.names = "-dio,--direct-io",
         .negatives = "-ndio,--no-direct-io",
         .fallback = "off",
         .group = Group::model,
         .commands = kLoad,
         .doc =
             "on a GPU: weights that are not in the page cache are read past it. Off, they are read through "
             "it, about as fast, and the next start finds them there",
         .set = [](Options& o, const FlagValue& v) { o.direct_io = v.integer != 0; }},
    Flag{.names = "--warmup",
         .negatives = "--no-warmup",
         .fallback = "on",
         .group = Group::model,
         .commands = kLoad,
         .doc = "one step with an empty context before the first request",
         .set = [](Options& o, const FlagValue& v) { o.warmup = v.integer != 0; }},
    Flag{.names = "--measure-limits",
         .priority = 'A',
         .group = Group::model,
         .doc = "measure at the start, in about a second, how fast the device reads memory and multiplies; "
                "`limits` of GET /props. `freelunch report` asks for it once a run",
         .set = [](Options& o, const FlagValue&) { o.measure_limits = true; }},
};

const std::array kContext{
    Flag{.names = "-c,--ctx-size",
         .env = "LLAMA_ARG_CTX_SIZE",
         .value = "N",
         .kind = Kind::integer,
         .least = 0,
         .most = kMaxContext,
         .priority = 'A',
         .group = Group::context,
         .commands = kAll,
         .doc =
             "tokens of context of all slots together; each slot gets its share, rounded up to 256. 0: the "
             "training length. Left out: the training length, or with --fit what the memory has room for",
         .set = [](Options& o, const FlagValue& v) { o.ctx_size = v.integer; }},
    Flag{.names = "-np,--parallel",
         .env = "LLAMA_ARG_N_PARALLEL",
         .value = "N",
         .kind = Kind::integer,
         .least = 1,
         .most = kMaxSlots,
         .words = "auto=-1|-1=-1",
         .fallback = "auto",
         .priority = 'A',
         .group = Group::context,
         .commands = kServe | kPlan,
         .doc = "slots: requests that run at once. auto: 4 slots that share one pool (--kv-unified)",
         .set = [](Options& o, const FlagValue& v) { o.parallel = v.integer; }},
    Flag{.names = "-kvu,--kv-unified",
         .negatives = "-no-kvu,--no-kv-unified",
         .env = "LLAMA_ARG_KV_UNIFIED",
         .group = Group::context,
         .commands = kServe | kPlan,
         .doc =
             "one pool of context for all slots: each may grow to the whole, requests that do not fit wait. "
             "On when --parallel is left out",
         .set = [](Options& o, const FlagValue& v) { o.kv_unified = v.integer; }},
    Flag{.names = "--kv-unified-per-slot",
         .env = "LLAMA_ARG_KV_UNIFIED_PER_SLOT",
         .value = "N",
         .kind = Kind::integer,
         .least = 1,
         .most = kMaxContext,
         .group = Group::context,
         .commands = kServe | kPlan,
         .doc = "most tokens of one slot in a shared pool; without --ctx-size the pool is slots times this",
         .set = [](Options& o, const FlagValue& v) { o.kv_unified_per_slot = v.integer; }},
    Flag{.names = "-b,--batch-size",
         .env = "LLAMA_ARG_BATCH",
         .value = "N",
         .kind = Kind::integer,
         .least = 1,
         .most = kMaxBatch,
         .fallback = "1024 on a GPU, 512 on the CPU",
         .group = Group::context,
         .commands = kAll,
         .doc = "most tokens of one step, prompts and running chats together",
         .set = [](Options& o, const FlagValue& v) { o.batch_size = v.integer; }},
    Flag{.names = "-ub,--ubatch-size",
         .env = "LLAMA_ARG_UBATCH",
         .value = "N",
         .kind = Kind::integer,
         .least = 1,
         .most = kMaxBatch,
         .fallback = "512 on a GPU, 128 on the CPU",
         .group = Group::context,
         .commands = kAll,
         .doc = "most prompt tokens of a step in which chats are being answered: how long a prompt may hold "
                "them up",
         .set = [](Options& o, const FlagValue& v) { o.ubatch_size = v.integer; }},
    Flag{.names = "-fa,--flash-attn",
         .env = "LLAMA_ARG_FLASH_ATTN",
         .value = "on|off|auto",
         .kind = Kind::on_auto,
         .fallback = "auto",
         .priority = 'A',
         .group = Group::context,
         .commands = kAll,
         .doc = "attention here is always computed without storing its scores; on and auto say so, off is "
                "refused",
         .read = [](Options&, const FlagValue& v) -> Status {
           if (v.integer == 0) {
             return fail(ErrorCode::unsupported,
                         "off is not built: attention is always computed without storing its scores");
           }
           return {};
         }},
    Flag{.names = "-ctk,--cache-type-k",
         .env = "LLAMA_ARG_CACHE_TYPE_K",
         .value = "TYPE",
         .kind = Kind::choice,
         .words = kKvTypes,
         .fallback = "f16",
         .priority = 'A',
         .group = Group::context,
         .commands = kAll,
         .doc = "type of the keys in the cache of the attention layers. The recurrent state is always f32",
         .set = [](Options& o, const FlagValue& v) { o.cache_type_k = kv_type(v.text); }},
    Flag{.names = "-ctv,--cache-type-v",
         .env = "LLAMA_ARG_CACHE_TYPE_V",
         .value = "TYPE",
         .kind = Kind::choice,
         .words = kKvTypes,
         .fallback = "f16",
         .priority = 'A',
         .group = Group::context,
         .commands = kAll,
         .doc = "type of the values in that cache",
         .set = [](Options& o, const FlagValue& v) { o.cache_type_v = kv_type(v.text); }},
    Flag{.names = "-fit,--fit",
         .env = "LLAMA_ARG_FIT",
         .value = "on|off",
         .kind = Kind::on_off,
         .fallback = "on",
         .group = Group::context,
         .commands = kLoad,
         .doc = "when --ctx-size is left out, take the largest context that the free memory has room for",
         .set = [](Options& o, const FlagValue& v) { o.fit = v.integer != 0; }},
    Flag{.names = "-fitt,--fit-target",
         .env = "LLAMA_ARG_FIT_TARGET",
         .value = "MiB",
         .kind = Kind::integer,
         .least = 0,
         .most = kMaxMiB,
         .fallback = "1024",
         .group = Group::context,
         .commands = kLoad,
         .doc = "memory that --fit leaves free",
         .set = [](Options& o, const FlagValue& v) { o.fit_target_mib = v.integer; }},
    Flag{.names = "-fitc,--fit-ctx",
         .env = "LLAMA_ARG_FIT_CTX",
         .value = "N",
         .kind = Kind::integer,
         .least = 256,
         .most = kMaxContext,
         .fallback = "4096",
         .group = Group::context,
         .commands = kLoad,
         .doc = "smallest context that --fit may choose; less room than that is an error",
         .set = [](Options& o, const FlagValue& v) { o.fit_ctx = v.integer; }},
    Flag{.names = "-ctxcp,--swa-checkpoints,--ctx-checkpoints",
         .env = "LLAMA_ARG_CTX_CHECKPOINTS",
         .value = "N",
         .kind = Kind::integer,
         .least = 0,
         .most = kMaxCheckpoints,
         .fallback = "8 in all",
         .group = Group::context,
         .commands = kServe | kPlan,
         .doc = "spare recurrent states per slot, from which prompts that share a beginning resume; reserved "
                "at start. 0: a conversation resumes only exactly where it stopped",
         .set = [](Options& o, const FlagValue& v) { o.ctx_checkpoints = v.integer; }},
    Flag{.names = "-cb,--cont-batching",
         .negatives = "-nocb,--no-cont-batching",
         .env = "LLAMA_ARG_CONT_BATCHING",
         .fallback = "on",
         .group = Group::context,
         .doc = "prompts and running chats share steps; off is refused",
         .read = [](Options&, const FlagValue& v) -> Status {
           return v.integer != 0 ? Status()
                                 : fail(ErrorCode::unsupported, "steps without shared prompts are not built");
         }},
    Flag{.names = "--cache-prompt",
         .negatives = "--no-cache-prompt",
         .env = "LLAMA_ARG_CACHE_PROMPT",
         .fallback = "on",
         .group = Group::context,
         .doc = "reuse what an earlier request computed for the same beginning; a request's field overrides",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.cache_prompt = v.integer != 0; }},
    Flag{.names = "-cram,--cache-ram",
         .env = "LLAMA_ARG_CACHE_RAM",
         .value = "MiB",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxMiB,
         .fallback = "0",
         .group = Group::context,
         .doc =
             "a second tier of cached prompts in host memory: 0 (none) is what there is, others are refused",
         .read = [](Options&, const FlagValue& v) -> Status {
           return v.integer == 0 ? Status()
                                 : fail(ErrorCode::unsupported,
                                        "a host-memory tier of cached prompts is not built yet; pass 0");
         }},
    Flag{.names = "--slot-save-path",
         .value = "DIR",
         .kind = Kind::text,
         .group = Group::context,
         .support = Support::refused,
         .doc = "saving slots to files is not built yet"},
    Flag{.names = "--spec-type",
         .env = "LLAMA_ARG_SPEC_TYPE",
         .value = "LIST",
         .kind = Kind::text,
         .fallback = "none",
         .group = Group::speculation,
         .doc = "kinds of speculative decoding: none is what there is, others are refused",
         .read = [](Options&, const FlagValue& v) -> Status {
           return v.text == "none"
                      ? Status()
                      : fail(ErrorCode::unsupported, "speculative decoding is not built yet; pass none");
         }},
    Flag{
        .names = "-sps,--slot-prompt-similarity",
        .value = "F",
        .kind = Kind::real,
        .least = 0,
        .most = 1,
        .fallback = "0.1",
        .group = Group::context,
        .doc =
            "least share of a prompt that a slot's last conversation must have for the slot to be preferred; "
            "another value than 0.1 is refused",
        .read = [](Options&, const FlagValue& v) -> Status {
          constexpr double kBuiltIn = 0.1;
          return v.real == kBuiltIn ? Status()
                                    : fail(ErrorCode::unsupported,
                                           "another value than 0.1 is not built: prefixes are found whatever "
                                           "slot they ran in");
        }},
};

}  // namespace

std::span<const Flag> model_flags() {
  return kModel;
}

std::span<const Flag> context_flags() {
  return kContext;
}

}  // namespace fl::apps
