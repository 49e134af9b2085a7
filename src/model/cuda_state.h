// The recurrent state of a device's runner. The rows that steps use lie in device memory, the spare ones in
// page-locked host memory, where a copy costs no device memory and 3 ms of PCIe (151 MiB on Qwen3.5-27B).
//
// Copies between the two run on a stream of their own, layer by layer, each with an event. They start after
// all steps submitted before; a later step waits, before its kernel of a layer, for that layer's copy of the
// rows that it uses, and for no others: while a prompt goes on behind its checkpoint, layer i + 1 is copied
// as layer i computes, and chats in other rows do not notice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/gated_delta.h"
#include "model/batch.h"
#include "model/config.h"

namespace fl::model {

/// Bytes of one row: S and the convolution's ring of every DeltaNet layer.
uint64_t cuda_state_row_bytes(const Config& config);

class CudaState {
 public:
  /// Throws cuda::DeviceFailure.
  CudaState(const Config& config, int32_t n_step_rows, int32_t n_spare_rows);
  ~CudaState();
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;

  /// What the kernels of the index-th DeltaNet layer work on.
  cuda::DeltaState layer(int64_t index) const;

  /// As Runner::copy_state; `steps` is the stream of the steps.
  void copy(cuda::Stream& steps, int32_t from_row, int32_t to_row);

  /// Of the step that is enqueued next: the rows whose copies it must wait for. Then either wait_layer before
  /// each layer or wait_all before the first, and end_step.
  void begin_step(std::span<const Slice> slices);
  /// True when `steps` was made to wait: what follows must not be launched ahead of that.
  bool wait_layer(cuda::Stream& steps, int64_t index);
  void wait_all(cuda::Stream& steps);
  void end_step() { waited_.clear(); }

 private:
  struct Row {
    std::vector<cuda::Event> copied;  ///< by layer, on copies_
    bool pending = false;             ///< no step has waited for the latest copy yet
  };
  bool is_spare(int32_t row) const { return row >= static_cast<int32_t>(rows_.size()); }
  std::byte* data(int32_t row) const;

  const int64_t ring_offset_;  ///< floats
  const int64_t layer_;        ///< floats of a layer's part of a row
  const int64_t n_layers_;
  cuda::DeviceBuffer device_;
  cuda::PinnedBuffer host_;
  cuda::Stream copies_;
  cuda::Event submitted_;
  std::vector<Row> rows_;        ///< those of steps
  std::vector<int32_t> waited_;  ///< rows with pending copies in the step being enqueued
};

}  // namespace fl::model
