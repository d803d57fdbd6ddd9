// Memory of a stream: allocation in its order, and copies from and to the host.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/cuda_state.h"
#include "core/error.h"

namespace mt::cuda {
namespace {

constexpr size_t kChunk = size_t(8) << 20;  // of pinned staging memory

/// Returns the pool's cached memory to the device. Memory that the stream may still use is not free.
void trim_pool(int device) {
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
}

}  // namespace

Stream::State::Chunk& Stream::State::chunk() {
  Chunk& c = chunks[next++ % 2];
  if (!c.data) {
    check(cudaMallocHost(reinterpret_cast<void**>(&c.data), kChunk), "cudaMallocHost");
    check(cudaEventCreateWithFlags(&c.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  } else {
    check(cudaEventSynchronize(c.done), "cudaEventSynchronize");
  }
  return c;
}

Block Stream::allocate(size_t bytes) {
  require_alive(device_);
  bytes = std::max<size_t>(bytes, 1);
  void* p = nullptr;
  if (capture_) {
    if (!(p = capture_->allocate(bytes))) {
      // The pool may cache the memory that is missing: eager steps needed the same.
      check(cudaEventSynchronize(state_->before_capture), "cudaEventSynchronize");
      trim_pool(device_);
      p = capture_->allocate(bytes);
    }
    if (!p)
      throw std::runtime_error(text("out of memory on ", device_name(device_), ": ", bytes,
                                    " bytes were asked for while a graph was captured; use a smaller batch or fewer "
                                    "frames, or switch graphs off"));
    return {p, bytes, capture_};
  }
  cudaError_t e = cudaMallocAsync(&p, bytes, state_->stream);
  if (e == cudaErrorMemoryAllocation) {
    // A wait frees memory whose release is still queued; a trim frees what the pool caches in pieces.
    cudaGetLastError();
    check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
    trim_pool(device_);
    e = cudaMallocAsync(&p, bytes, state_->stream);
  }
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    cudaGetLastError();
    throw std::runtime_error(text("out of memory on ", device_name(device_), ": ", bytes,
                                  " bytes were asked for while tensors hold ", memory(device_).bytes, " of its ", total,
                                  " bytes; use a smaller batch or fewer frames"));
  }
  check(e, "cudaMallocAsync");
  count(device_, ptrdiff_t(bytes));
  return {p, bytes, nullptr};
}

void Stream::release(Block block) noexcept {
  if (block.graph) return block.graph->release(block.data);
  count(device_, -ptrdiff_t(block.bytes));
  if (lost(device_)) return;
  std::lock_guard lock(state_->mutex);
  if (capture_) return state_->deferred.push_back(std::move(block));
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device_);
  cudaFreeAsync(block.data, state_->stream);
  cudaSetDevice(before);
  cudaGetLastError();
}

void Stream::upload(void* to, const void* from, size_t bytes) {
  require_running("an upload");
  for (size_t at = 0; at < bytes; at += kChunk) {
    size_t n = std::min(kChunk, bytes - at);
    State::Chunk& c = state_->chunk();
    std::memcpy(c.data, static_cast<const char*>(from) + at, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, c.data, n, cudaMemcpyHostToDevice, state_->stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(c.done, state_->stream), "cudaEventRecord");
  }
}

void Stream::download(void* to, const void* from, size_t bytes) {
  require_running("a download");
  struct Piece {
    State::Chunk* chunk;
    size_t at, bytes;
  };
  auto finish = [&](const Piece& p) {
    check(cudaEventSynchronize(p.chunk->done), "a download");
    std::memcpy(static_cast<char*>(to) + p.at, p.chunk->data, p.bytes);
  };
  Piece before{nullptr, 0, 0};
  for (size_t at = 0; at < bytes; at += kChunk) {
    Piece p{&state_->chunk(), at, std::min(kChunk, bytes - at)};
    check(cudaMemcpyAsync(p.chunk->data, static_cast<const char*>(from) + at, p.bytes, cudaMemcpyDeviceToHost,
                          state_->stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(p.chunk->done, state_->stream), "cudaEventRecord");
    if (before.chunk) finish(before);
    before = p;
  }
  if (before.chunk) finish(before);
}

}  // namespace mt::cuda
