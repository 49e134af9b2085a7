#include "model/cuda_state.h"

#include <algorithm>

namespace fl::model {

using cuda::check;

namespace {

// One layer of one row: S, then the convolution's ring (kernels/cuda/gated_delta.h), in floats.
int64_t ring_offset(const Config& c) {
  return (c.state_floats() + 3) / 4 * 4;
}
int64_t layer_floats(const Config& c) {
  return (ring_offset(c) + int64_t{c.conv_kernel} * c.conv_channels() + 3) / 4 * 4;
}

}  // namespace

uint64_t cuda_state_row_bytes(const Config& config) {
  return static_cast<uint64_t>(layer_floats(config)) * static_cast<uint64_t>(config.n_delta_layers()) *
         sizeof(float);
}

CudaState::CudaState(const Config& config, int32_t n_step_rows, int32_t n_spare_rows)
    : ring_offset_(ring_offset(config)),
      layer_(layer_floats(config)),
      n_layers_(config.n_delta_layers()),
      device_(cuda_state_row_bytes(config) * static_cast<uint64_t>(n_step_rows)),
      host_(cuda_state_row_bytes(config) * static_cast<uint64_t>(n_spare_rows)),
      rows_(static_cast<size_t>(n_step_rows)) {
  if (n_spare_rows > 0) {
    for (Row& row : rows_) {
      row.copied.resize(static_cast<size_t>(n_layers_));
    }
  }
  waited_.reserve(rows_.size());
}

CudaState::~CudaState() {
  cudaStreamSynchronize(copies_.get());  // copies in flight use the buffers
}

std::byte* CudaState::data(int32_t row) const {
  const auto bytes = static_cast<uint64_t>(layer_ * n_layers_) * sizeof(float);
  const auto n_step_rows = static_cast<int32_t>(rows_.size());
  return is_spare(row) ? host_.data() + static_cast<uint64_t>(row - n_step_rows) * bytes
                       : device_.data() + static_cast<uint64_t>(row) * bytes;
}

cuda::DeltaState CudaState::layer(int64_t index) const {
  return {device_.as<float>() + index * layer_, layer_ * n_layers_, ring_offset_};
}

void CudaState::copy(cuda::Stream& steps, int32_t from_row, int32_t to_row) {
  if (from_row == to_row || n_layers_ == 0) {
    return;
  }
  const auto layer = static_cast<uint64_t>(layer_) * sizeof(float);
  if (!is_spare(from_row) && !is_spare(to_row)) {
    waited_ = {from_row, to_row};
    wait_all(steps);
    end_step();
    check(cudaMemcpyAsync(data(to_row), data(from_row), layer * static_cast<uint64_t>(n_layers_),
                          cudaMemcpyDeviceToDevice, steps),
          "copy of a state row");
    return;
  }
  submitted_.record(steps);
  copies_.wait(submitted_);
  Row* const used = !is_spare(from_row) ? &rows_[static_cast<size_t>(from_row)]
                    : !is_spare(to_row) ? &rows_[static_cast<size_t>(to_row)]
                                        : nullptr;
  for (int64_t i = 0; i < n_layers_; ++i) {
    const uint64_t at = static_cast<uint64_t>(i) * layer;
    check(cudaMemcpyAsync(data(to_row) + at, data(from_row) + at, layer, cudaMemcpyDefault, copies_),
          "copy of a state row");
    if (used != nullptr) {
      used->copied[static_cast<size_t>(i)].record(copies_);
    }
  }
  if (used != nullptr) {
    used->pending = true;
  }
}

void CudaState::begin_step(std::span<const Slice> slices) {
  for (const Slice& slice : slices) {
    if (rows_[static_cast<size_t>(slice.state_row)].pending) {
      waited_.push_back(slice.state_row);
    }
  }
}

bool CudaState::wait_layer(cuda::Stream& steps, int64_t index) {
  for (const int32_t row : waited_) {
    Row& state = rows_[static_cast<size_t>(row)];
    steps.wait(state.copied[static_cast<size_t>(index)]);
    state.pending = state.pending && index + 1 < n_layers_;
  }
  return !waited_.empty();
}

void CudaState::wait_all(cuda::Stream& steps) {
  for (const int32_t row : waited_) {
    Row& state = rows_[static_cast<size_t>(row)];
    if (state.pending) {
      steps.wait(state.copied.back());  // the stream of copies keeps their order
      state.pending = false;
    }
  }
}

}  // namespace fl::model
