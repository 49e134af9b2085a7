// Chooses the kernel, its shared memory and its grid for each product.
#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/result.h"
#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_choice.h"
#include "kernels/cuda/matmul_int8.h"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/matmul_policy.h"
#include "kernels/cuda/matmul_prompt.h"
#include "kernels/cuda/matmul_workspace.h"
#include "kernels/cuda/slices.h"

namespace fl::cuda {
struct Matmul::Impl {
  DeviceInfo device;
  MatmulOptions options;
  int32_t* tickets = nullptr;
  std::byte* workspace = nullptr;  // behind the tickets
  uint64_t workspace_size = 0;
  std::unique_ptr<LibraryMatmul> library;
  bool prompt_kernel = false;
  bool int8_prompts = false;
  std::optional<BatchProducts> batch;

  bool overlap() const { return options.overlap && device.arch >= 90; }

  /// At most kMaxColumns tokens in records.
  void run(cudaStream_t stream, const Activations& x, MatmulParams p) const {
    const KernelChoice choice = choose_kernel(device, options, x.n_tokens, p);
    if (choice.launch == nullptr) {
      run_in_parts(stream, x, p);
      return;
    }
    p.activations = reinterpret_cast<const uint8_t*>(x.data);
    p.n_tokens = x.n_tokens;
    p.partial_slots = choice.partial_slots;
    p.ring_slots = choice.ring_slots;
    p.slot_bytes = slot_bytes_of(p.largest_tile, device.arch);
    p.lends = choice.lends ? 1 : 0;
    p.by_count = has_more_instances(device.arch) ? 1 : 0;
    int grid = 0;
    if (choice.wide) {
      const uint64_t cost = count_groups(p, choice.row_tiles);
      grid = prepare_sharing(p, choice);
      p.cost_per_block = cost_per_block(cost, grid);
    } else {
      grid = grid_of(device, choice, share_tiles(p, device, choice));
    }
    choice.launch(stream, overlap(), grid, choice.shared_bytes, p);
  }

  /// Places for what blocks of the wide kernel share, and the number of blocks: no more than there are
  /// classes of groups, since a class that three blocks shared would make them wait for one another, and no
  /// more than the workspace has places for.
  int prepare_sharing(MatmulParams& p, const KernelChoice& choice) const {
    const uint64_t at = scratch_start(p.n_superblocks * kSuperblock);
    const uint64_t carries = carries_bytes(device.n_sms, p.n_tokens);
    const uint64_t scratch = shared_sums_bytes(device.n_sms, p.n_tokens);
    FL_CHECK(at + carries + scratch <= workspace_size, "the workspace holds the sums that blocks share");
    p.carries = reinterpret_cast<float*>(workspace + at);
    p.handed_on = tickets + kMaxTickets;
    const int blocks = std::min(device.n_sms * choice.blocks_per_sm, kMaxBlocks);
    const int classes = n_classes(p.n_superblocks);
    const auto region = static_cast<uint64_t>(class_sums_bytes(p.n_tokens, choice.row_tiles) * classes);
    const auto regions = static_cast<int>(scratch / region);
    p.scratch = reinterpret_cast<float*>(workspace + at + carries);
    p.tickets = tickets;
    const bool pairs = p.epilogue == Epilogue::swiglu;
    p.region_per_group = pairs || p.n_tiles <= regions ? 1 : 0;
    FL_CHECK(!pairs || at + carries + static_cast<uint64_t>(p.n_tiles) * region <= workspace_size,
             "the workspace holds the sums of gate and up");
    const int most = p.region_per_group != 0 ? blocks : std::min(blocks, (regions - 1) / 2);
    return std::min(most, p.n_tiles * classes);
  }

  /// Behind the slices of activations of any product of this width.
  static uint64_t scratch_start(int32_t cols) { return slices_bytes(kMaxColumns, cols); }

  // A device whose shared memory is too small for this many tokens at once takes them in parts.
  void run_in_parts(cudaStream_t stream, const Activations& x, const MatmulParams& p) const {
    int most = x.n_tokens;
    do {
      FL_CHECK(most > 8, "eight tokens fit every device");
      most = (most / 2 + 7) / 8 * 8;
    } while (choose_kernel(device, options, most, p).launch == nullptr);
    for (int first = 0; first < x.n_tokens; first += most) {
      const Activations part = slice(kMaxColumns, std::min(most, x.n_tokens - first), x.cols);
      copy_records(stream, overlap(), x, first, part);
      run(stream, part, shifted(p, first));
    }
  }

  /// A place for n tokens behind those of `after` tokens.
  Activations slice(int after, int n, int32_t cols) const {
    const uint64_t at = after == 0 ? 0 : aligned(activation_bytes(after, cols));
    FL_CHECK(at + activation_bytes(n, cols) <= workspace_size, "the workspace holds a slice");
    return {workspace + at, n, cols};
  }

  /// The same launch with outputs from token `first` on.
  static MatmulParams shifted(MatmulParams p, int first) {
    for (int i = 0; i < p.n_segments; ++i) {
      p.segments[i].y = p.segments[i].y != nullptr ? p.segments[i].y + first * p.segments[i].stride : nullptr;
    }
    p.out_first_token += first;
    if (p.sum_of_squares != nullptr) {
      p.sum_of_squares += static_cast<int64_t>(first) * rms_partials(p.segments[0].rows);
    }
    if (p.scale.sum_of_squares != nullptr) {
      p.scale.sum_of_squares += static_cast<int64_t>(first) * p.scale.n_partials;
    }
    return p;
  }

  void run_any(cudaStream_t stream, const Activations& x, const MatmulParams& p) const {
    if (x.layout() == ActivationLayout::records) {
      run(stream, x, p);
      return;
    }
    for (int first = 0; first < x.n_tokens; first += kMaxColumns) {
      const Activations part = slice(0, std::min(kMaxColumns, x.n_tokens - first), x.cols);
      rows_to_records(stream, overlap(), x, first, part);
      run(stream, part, shifted(p, first));
    }
  }

  NextLaunch next_of(const Activations& x, const NextProduct& next) const {
    return x.layout() == ActivationLayout::records ? next_launch(device, options, next, x.n_tokens)
                                                   : NextLaunch{};
  }

  static MatmulParams params(const Activations& x, Epilogue epilogue, const RmsScale& scale) {
    MatmulParams p{};
    p.n_superblocks = padded_cols(x.cols) / kSuperblock;
    p.epilogue = epilogue;
    p.scale = scale;
    return p;
  }

  // Two products and their combination, slice by slice: files that mix types within a pair are rare.
  void swiglu_of_two_types(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                           const PackedMatrix& up, const Activations& out, const RmsScale& scale) const {
    for (int first = 0; first < x.n_tokens; first += kMaxColumns) {
      const int n = std::min(kMaxColumns, x.n_tokens - first);
      const uint64_t at =
          scratch_start(x.cols) + shared_sums_bytes(device.n_sms, n) + carries_bytes(device.n_sms, n);
      FL_CHECK(at + gate_and_up_bytes(n, gate.rows) <= workspace_size, "the workspace holds gate and up");
      auto* g = reinterpret_cast<float*>(workspace + at);
      float* u = g + static_cast<int64_t>(n) * gate.rows;
      MatmulParams p = params(x, Epilogue::store, scale);
      add_segment(p, gate, nullptr, g, gate.rows);
      add_segment(p, up, nullptr, u, up.rows);
      Activations part = x;
      if (x.layout() == ActivationLayout::rows) {
        part = slice(0, n, x.cols);
        rows_to_records(stream, overlap(), x, first, part);
      }
      run(stream, part, p);
      swiglu_f32(stream, overlap(), g, u, gate.rows, first, n, out);
    }
  }

  bool use_int8(const Activations& x, const PackedMatrix& w) const {
    return int8_prompts && x.layout() == ActivationLayout::rows && has_int8_product(w.type);
  }

  /// The activations in int8, at the start of the workspace.
  Int8Product quantized(cudaStream_t stream, const Activations& x, const RmsScale& scale) const {
    FL_CHECK(scale.sum_of_squares == nullptr, "long prompts are normalised before the product");
    FL_CHECK(int8_activation_bytes(x.n_tokens, x.cols) <= workspace_size,
             "the workspace holds the quantised activations");
    quantize_activations(stream, overlap(), x, workspace);
    return {workspace, x.n_tokens, x.cols, device.n_sms, overlap()};
  }

  /// The products of `outputs` that int8 takes, type by type; the others come back.
  std::vector<Output> store_int8(cudaStream_t stream, const Activations& x, std::span<const Output> outputs,
                                 const RmsScale& scale) const {
    std::vector<Output> left(outputs.begin(), outputs.end());
    std::optional<Int8Product> quantized_x;
    while (true) {
      const auto next =
          std::find_if(left.begin(), left.end(), [&](const Output& o) { return use_int8(x, *o.w); });
      if (next == left.end()) {
        return left;
      }
      const PackedType type = next->w->type;
      const auto same =
          std::stable_partition(left.begin(), left.end(), [&](const Output& o) { return o.w->type != type; });
      if (!quantized_x) {
        quantized_x = quantized(stream, x, scale);
      }
      int8_store(stream, *quantized_x, {same, left.end()}, false);
      left.erase(same, left.end());
    }
  }

  bool use_batch(const Activations& x) const {
    return batch.has_value() && !x.prompt && x.layout() == ActivationLayout::rows &&
           x.n_tokens <= kMostBatchTokens;
  }
  bool use_prompt_kernel(const Activations& x, const RmsScale& scale) const {
    FL_CHECK(!prompt_kernel || x.layout() == ActivationLayout::records || scale.sum_of_squares == nullptr,
             "long prompts are normalised before the product");
    return prompt_kernel && x.layout() == ActivationLayout::rows;
  }
  void run_prompt(cudaStream_t stream, const Activations& x, PromptLaunch launch) const {
    const uint64_t at = scratch_start(x.cols);
    FL_CHECK(at + prompt_scratch_bytes(device.n_sms) <= workspace_size, "the workspace holds shared sums");
    launch.run(stream, overlap(), device, reinterpret_cast<float*>(workspace + at), tickets);
  }
  void prompt_swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                     const PackedMatrix& up, const Activations& out) const {
    const auto one = [&](PromptEpilogue epilogue, const PackedMatrix& w, const PackedMatrix* with) {
      PromptLaunch launch(x, epilogue);
      launch.add_segment(w, with, nullptr, 0);
      launch.set_out(out);
      run_prompt(stream, x, launch);
    };
    if (gate.type == up.type) {
      one(PromptEpilogue::swiglu, gate, &up);
    } else {  // files that mix types within a pair: the gate waits where the result will be
      one(PromptEpilogue::keep_gate, gate, nullptr);
      one(PromptEpilogue::swiglu_kept, up, nullptr);
    }
  }

  bool use_library(const Activations& x, std::span<const Output> outputs) const {
    for (const Output& o : outputs) {
      if (o.w->rows % kTileRows != 0) {
        return false;
      }
    }
    return library != nullptr && x.layout() == ActivationLayout::rows &&
           x.n_tokens >= options.library_from_tokens;
  }
};

Matmul::Matmul(const DeviceInfo& device, std::byte* workspace, uint64_t bytes, MatmulOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->device = device;
  impl_->options = options;
  impl_->tickets = reinterpret_cast<int32_t*>(workspace);
  impl_->prompt_kernel = options.prompt_kernel && has_prompt_kernel(device.arch);
  std::byte* const parts = workspace + kTicketBytes;
  const uint64_t parts_bytes = parts_of_groups_bytes(device.arch, device.n_sms);
  FL_CHECK(bytes > kTicketBytes + parts_bytes, "the workspace has the size that workspace_bytes names");
  impl_->workspace = parts + parts_bytes;
  impl_->workspace_size = bytes - kTicketBytes - parts_bytes;
  check(cudaMemset(workspace, 0, kTicketBytes), "clear tickets");
  if (parts_bytes > 0) {
    check(cudaMemset(parts, kAbsentByte, parts_bytes), "no part of a sum is there");
  }
  if (impl_->prompt_kernel) {
    impl_->batch.emplace(device, impl_->overlap(), reinterpret_cast<float*>(parts));
  }
  check(cudaStreamSynchronize(nullptr), "a workspace ready for any stream");
  if (options.library && !impl_->prompt_kernel) {
    impl_->library = LibraryMatmul::open(device, impl_->workspace, impl_->workspace_size);
  }
  impl_->int8_prompts = wants_int8(options, device.arch, impl_->library != nullptr);
}

Matmul::~Matmul() = default;

bool Matmul::finishes_norm(int32_t n_tokens) const {
  return n_tokens <= most_records() || (impl_->batch.has_value() && n_tokens <= kMostBatchTokens);
}

int32_t Matmul::most_records() const {
  return records_of(impl_->options, impl_->device.arch);
}

bool Matmul::overlap() const {
  return impl_->overlap();
}

std::string Matmul::describe() const {
  std::string what = "tiles";
  what += impl_->int8_prompts ? " + int8 prompts" : "";
  what += impl_->prompt_kernel ? " + wgmma" : "";
  return impl_->library != nullptr ? what + " + " + impl_->library->describe() : what;
}

void Matmul::store(cudaStream_t stream, const Activations& x, std::span<const Output> outputs,
                   const RmsScale& scale, const NextProduct& next) {
  FL_CHECK(!outputs.empty() && outputs.size() <= static_cast<size_t>(kMaxOutputs), "1 to 6 outputs");
  for (const Output& o : outputs) {
    FL_CHECK(o.w->cols == x.cols, "the matrix takes these activations");
  }
  if (std::any_of(outputs.begin(), outputs.end(),
                  [&](const Output& o) { return impl_->use_int8(x, *o.w); })) {
    // What int8 has no kernel for goes in slices: whatever the prompt's cut, a token's bits stay the same.
    const std::vector<Output> left = impl_->store_int8(stream, x, outputs, scale);
    MatmulParams p = impl_->params(x, Epilogue::store, scale);
    for (const Output& o : left) {
      add_segment(p, *o.w, nullptr, o.y, o.stride);
    }
    if (!left.empty()) {
      impl_->run_any(stream, x, p);
    }
    return;
  }
  if (impl_->use_batch(x)) {
    impl_->batch->store(stream, x, outputs, scale, next);
    return;
  }
  if (impl_->use_prompt_kernel(x, scale)) {
    PromptLaunch launch(x, PromptEpilogue::store);
    for (const Output& o : outputs) {
      launch.add_segment(*o.w, nullptr, o.y, o.stride);
    }
    impl_->run_prompt(stream, x, launch);
    return;
  }
  if (impl_->use_library(x, outputs)) {
    FL_CHECK(scale.sum_of_squares == nullptr, "long prompts are normalised before the product");
    for (const Output& o : outputs) {
      impl_->library->multiply(stream, x, *o.w, o.y, o.stride, false);
    }
    return;
  }
  MatmulParams p = impl_->params(x, Epilogue::store, scale);
  for (const Output& o : outputs) {
    add_segment(p, *o.w, nullptr, o.y, o.stride);
  }
  p.next = impl_->next_of(x, next);
  impl_->run_any(stream, x, p);
}

void Matmul::add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                 int64_t stride) {
  FL_CHECK(w.cols == x.cols, "the matrix takes these activations");
  if (impl_->use_int8(x, w)) {
    const Output output{&w, residual, stride};
    int8_store(stream, impl_->quantized(stream, x, {}), {&output, 1}, true);
    return;
  }
  if (impl_->use_batch(x)) {
    impl_->batch->add(stream, x, w, residual, stride);
    return;
  }
  if (impl_->use_prompt_kernel(x, {})) {
    PromptLaunch launch(x, PromptEpilogue::add);
    launch.add_segment(w, nullptr, residual, stride);
    impl_->run_prompt(stream, x, launch);
    return;
  }
  if (const Output output{&w, residual, stride}; impl_->use_library(x, {&output, 1})) {
    impl_->library->multiply(stream, x, w, residual, stride, true);
    return;
  }
  MatmulParams p = impl_->params(x, Epilogue::add, {});
  add_segment(p, w, nullptr, residual, stride);
  impl_->run_any(stream, x, p);
}

void Matmul::add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                          int64_t stride, const float* norm_weight, const Activations& out,
                          float* sum_of_squares, const NextProduct& next) {
  FL_CHECK(w.cols == x.cols && out.cols == w.rows && out.n_tokens == x.n_tokens, "shapes agree");
  FL_CHECK(w.rows % kSuperblock == 0, "a product that prepares the next writes whole superblocks");
  if (impl_->use_batch(x)) {
    impl_->batch->add_and_norm(stream, x, w, residual, stride, norm_weight, out, sum_of_squares, next);
    return;
  }
  FL_CHECK(x.layout() == ActivationLayout::records, "rows of many tokens are normalised by a kernel");
  MatmulParams p = impl_->params(x, Epilogue::add_and_norm, {});
  add_segment(p, w, nullptr, residual, stride);
  p.out = out.data;
  p.out_tokens = out.n_tokens;
  p.out_padded_cols = padded_cols(out.cols);
  p.out_records = 1;
  p.norm_weight = norm_weight;
  p.sum_of_squares = sum_of_squares;
  p.next = impl_->next_of(x, next);
  impl_->run_any(stream, x, p);
}

void Matmul::swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                    const PackedMatrix& up, const Activations& out, const RmsScale& scale,
                    const NextProduct& next) {
  FL_CHECK(gate.cols == x.cols && up.cols == x.cols && gate.rows == up.rows && out.cols == gate.rows &&
               out.n_tokens == x.n_tokens,
           "shapes agree");
  if (out.cols % kSuperblock != 0) {  // the padding of the records must be zero
    check(cudaMemsetAsync(out.data, 0, activation_bytes(out.n_tokens, out.cols), stream),
          "clear activations");
  }
  if (impl_->use_int8(x, gate) && gate.type == up.type) {
    int8_swiglu(stream, impl_->quantized(stream, x, scale), gate, up, out);
    return;
  }
  if (impl_->use_batch(x)) {
    impl_->batch->swiglu(stream, x, gate, up, out, scale, next);
    return;
  }
  if (impl_->use_prompt_kernel(x, scale)) {
    impl_->prompt_swiglu(stream, x, gate, up, out);
    return;
  }
  if (const Output output{&gate, nullptr, 0}; impl_->use_library(x, {&output, 1})) {
    FL_CHECK(scale.sum_of_squares == nullptr, "long prompts are normalised before the product");
    impl_->library->swiglu(stream, x, gate, up, out);
    return;
  }
  if (gate.type != up.type) {
    impl_->swiglu_of_two_types(stream, x, gate, up, out, scale);
    return;
  }
  MatmulParams p = impl_->params(x, Epilogue::swiglu, scale);
  add_segment(p, gate, &up, nullptr, 0);
  p.out = out.data;
  p.out_tokens = out.n_tokens;
  p.out_padded_cols = padded_cols(out.cols);
  p.out_records = out.layout() == ActivationLayout::records ? 1 : 0;
  p.next = impl_->next_of(x, next);
  impl_->run_any(stream, x, p);
}

}  // namespace fl::cuda
