#include "cuda_graph.h"

#include <dlfcn.h>

#include <cstddef>
#include <stdexcept>
#include <utility>

namespace {

// `at::cuda::CUDAGraph`'s functions by their names in the library.
struct Functions {
  void (*construct)(void *graph, bool keep_graph);
  void (*capture_begin)(void *graph, std::pair<unsigned long long, unsigned long long> pool, int mode);
  void (*capture_end)(void *graph);
  void (*replay)(void *graph);
  void (*destroy)(void *graph);
};

// `cudaStreamCaptureModeThreadLocal`: what other threads allocate meanwhile is their own affair.
constexpr int THREAD_LOCAL = 1;

template <typename F> bool find(F &function, const char *name) {
  function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

const Functions *functions() {
  static Functions found{};
  static const bool all = find(found.construct, "_ZN2at4cuda9CUDAGraphC1Eb") &&
                          find(found.capture_begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode") &&
                          find(found.capture_end, "_ZN2at4cuda9CUDAGraph11capture_endEv") &&
                          find(found.replay, "_ZN2at4cuda9CUDAGraph6replayEv") && find(found.destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
  return all ? &found : nullptr;
}

} // namespace

bool CudaGraph::available() { return functions() != nullptr; }

CudaGraph::CudaGraph() { functions()->construct(storage, false); }

CudaGraph::~CudaGraph() { functions()->destroy(storage); }

std::unique_ptr<CudaGraph> CudaGraph::record(const std::function<void()> &body) {
  if (!available()) {
    throw std::runtime_error("this libtorch has no CUDA graphs");
  }
  std::unique_ptr<CudaGraph> graph(new CudaGraph());
  functions()->capture_begin(graph->storage, {0, 0}, THREAD_LOCAL);
  try {
    body();
  } catch (...) {
    // The stream must leave its recording, whatever became of it.
    try {
      functions()->capture_end(graph->storage);
    } catch (...) {
    }
    throw;
  }
  functions()->capture_end(graph->storage);
  return graph;
}

void CudaGraph::replay() { functions()->replay(storage); }
