// What a call launches on a GPU, recorded once and launched again as a whole.
#pragma once
#include <torch/version.h>

#include <cstddef>
#include <functional>
#include <memory>

// libtorch's own graph, which keeps the memory of what it recorded. The CUDA library is opened at run time only, so its functions are looked
// up there, by the names of this version.
static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11, "see whether at::cuda::CUDAGraph is still the same");

class CudaGraph {
public:
  // Whether the opened libraries have what is needed.
  static bool available();
  // Records what `body` launches on the current stream, which must not be the default one. `body` must have run before: what it does only
  // the first time (finding algorithms, allocating workspaces) cannot be recorded.
  static std::unique_ptr<CudaGraph> record(const std::function<void()> &body);
  CudaGraph(const CudaGraph &) = delete;
  CudaGraph &operator=(const CudaGraph &) = delete;
  ~CudaGraph();
  // Launches it on the current stream.
  void replay();

private:
  CudaGraph();
  // The class has less than 200 bytes in libtorch 2.11.
  alignas(std::max_align_t) unsigned char storage[1024];
};
