#include "module.h"
#include "convolution.h"
#include "cuda_graph.h"
#include "linear.h"
#include "static_int8.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

struct spawn_module {
  torch::jit::Module module;
  at::Device device;
  std::optional<at::ScalarType> autocast;
  size_t layers;
  // Names it among the graphs of a thread, where a later module may lie at the same address.
  std::optional<uint64_t> graphs;
};

struct spawn_outputs {
  std::vector<at::Tensor> tensors;
};

namespace {

// `spawn_options::dtype`
constexpr int32_t INT8 = 1;
constexpr int32_t BF16 = 2;

// Runs `body`; an exception becomes its message and the answer `T{}`.
template <typename T, typename F> T guarded(char **message, F body) {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    *message = strdup("out of memory (std::bad_alloc)");
  } catch (const c10::Error &error) {
    *message = strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    *message = strdup(error.what());
  } catch (...) {
    *message = strdup("unknown C++ exception");
  }
  return T{};
}

at::ScalarType scalar_type(int32_t dtype) {
  switch (dtype) {
  case 0:
    return at::kByte;
  case 1:
    return at::kFloat;
  case 2:
    return at::kLong;
  default:
    throw std::invalid_argument("unknown input number type");
  }
}

// While it lives, layers that gain by it are computed in `dtype` on this thread; sums and norms are not.
class Autocast {
public:
  Autocast(const at::Device &device, std::optional<at::ScalarType> dtype) : device(device.type()), active(dtype.has_value()) {
    if (active) {
      at::autocast::set_autocast_dtype(this->device, *dtype);
      at::autocast::set_autocast_enabled(this->device, true);
    }
  }
  Autocast(const Autocast &) = delete;
  Autocast &operator=(const Autocast &) = delete;
  ~Autocast() {
    if (active) {
      at::autocast::clear_cache();
      at::autocast::set_autocast_enabled(device, false);
    }
  }

private:
  at::DeviceType device;
  bool active;
};

at::Tensor view(const spawn_input &input, const at::Device &device) {
  // Never written to: a module that changed its inputs in place could not be run twice on the same record.
  auto *data = const_cast<void *>(input.data);
  auto tensor = at::from_blob(data, at::IntArrayRef(input.shape, input.axes), at::TensorOptions(scalar_type(input.dtype)));
  // Pinned memory is copied while the host goes on; its allocator keeps it until that copy has ended.
  return device.is_cpu() ? tensor : tensor.pin_memory().to(device, tensor.scalar_type(), /*non_blocking=*/true);
}

// Each thread's own on a GPU: one thread's copies run beside another's kernels.
c10::Stream own_stream(const at::Device &device) {
  thread_local std::map<c10::DeviceIndex, c10::Stream> streams;
  auto found = streams.find(device.index());
  if (found == streams.end()) {
    found = streams.emplace(device.index(), c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)).first;
  }
  return found->second;
}

void collect(const c10::IValue &value, std::vector<at::Tensor> &into) {
  if (value.isTensor()) {
    into.push_back(value.toTensor());
  } else if (value.isTuple()) {
    for (const auto &element : value.toTupleRef().elements()) {
      collect(element, into);
    }
  } else {
    throw std::invalid_argument("the module's answer holds a " + value.tagKind() + ", not only tensors");
  }
}

std::vector<at::Tensor> call(spawn_module &module, const std::vector<at::Tensor> &inputs) {
  std::vector<at::Tensor> outputs;
  collect(module.module.forward(std::vector<c10::IValue>(inputs.begin(), inputs.end())), outputs);
  return outputs;
}

// A recorded call: it reads these inputs and writes these outputs.
struct Recorded {
  std::vector<at::Tensor> inputs, outputs;
  std::unique_ptr<CudaGraph> graph;
};

// A graph keeps its memory, so shapes beyond this many are not recorded.
constexpr size_t GRAPHS_MAX = 64;

// As `call`, by a graph from the second call of a shape on: the first one does what cannot be recorded. Graphs belong to a thread, as its
// stream does, so a call's outputs are read before the next one overwrites them.
std::vector<at::Tensor> call_recorded(spawn_module &module, const std::vector<at::Tensor> &inputs) {
  using Key = std::pair<uint64_t, std::vector<std::vector<int64_t>>>;
  thread_local std::map<Key, Recorded> graphs;
  Key key{*module.graphs, {}};
  for (const auto &input : inputs) {
    key.second.push_back(input.sizes().vec());
  }
  auto found = graphs.find(key);
  if (found == graphs.end()) {
    if (graphs.size() < GRAPHS_MAX) {
      graphs.emplace(std::move(key), Recorded());
    }
    return call(module, inputs);
  }
  auto &recorded = found->second;
  if (!recorded.graph) {
    // A recording that failed has left its own.
    recorded.inputs.clear();
    for (const auto &input : inputs) {
      recorded.inputs.push_back(at::empty_like(input));
    }
    recorded.graph = CudaGraph::record([&] { recorded.outputs = call(module, recorded.inputs); });
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    recorded.inputs[i].copy_(inputs[i], /*non_blocking=*/true);
  }
  recorded.graph->replay();
  return recorded.outputs;
}

spawn_module *module_load(const char *path, const spawn_options *options, char **message) {
  return guarded<spawn_module *>(message, [&] {
    // Profiling specialises the graph to the shapes it sees, at a cost for every new one.
    torch::jit::getProfilingMode() = options->profiling;
    auto device = options->cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(options->cuda));
    auto module = torch::jit::load(path, device);
    module.eval();
    // A file that was saved frozen has no attributes left, and freezing it again is an error.
    if (options->freeze && module.hasattr("training")) {
      module = torch::jit::freeze(module);
    }
    if (!device.is_cpu()) {
      // Of f32 all bits, as on a CPU: whoever wants fewer has models in bf16 and f16.
      at::globalContext().setAllowTF32CuDNN(false);
      at::globalContext().setAllowTF32CuBLAS(false);
    }
    if (options->optimise) {
      module = torch::jit::optimize_for_inference(module);
    }
    size_t layers = 0;
    std::optional<at::ScalarType> autocast;
    auto graph = module.get_method("forward").graph();
    if (options->observe) {
      layers = observe_convolutions(graph);
    } else if (options->dtype >= BF16) {
      autocast = options->dtype == BF16 ? at::kBFloat16 : at::kHalf;
      if (device.is_cpu() && !computes_in(*autocast)) {
        throw std::invalid_argument(options->dtype == BF16 ? "dtype bf16: this processor does not compute in it; use f32 or int8, or a GPU"
                                                           : "dtype f16: this processor does not compute in it; use bf16 or int8, or a GPU");
      }
      layers = device.is_cpu() ? linear_by_onednn(*graph, *autocast) + convolution_by_onednn(graph, *autocast) : 0;
      layers += store_weights(*graph, *autocast);
      if (layers == 0) {
        throw std::invalid_argument("dtype bf16 or f16: the module has no linear layer or convolution with constant f32 weights");
      }
    } else if (options->dtype == INT8) {
      if (!device.is_cpu()) {
        throw std::invalid_argument("dtype int8 runs on the CPU; use the f32 model on a GPU");
      }
      layers = linear_by_int8(*graph);
      if (options->observed != nullptr) {
        auto *observed = const_cast<float *>(options->observed);
        layers += convolution_by_int8(graph, at::from_blob(observed, {static_cast<int64_t>(options->observed_count)}, at::kFloat));
        convolution_by_onednn(graph, at::kFloat);
      }
      if (layers == 0) {
        throw std::invalid_argument("dtype int8: the module has no linear layer or convolution with constant f32 weights");
      }
    } else if (options->onednn && device.is_cpu()) {
      layers = linear_by_onednn(*graph, at::kFloat) + convolution_by_onednn(graph, at::kFloat);
    }
    static std::atomic<uint64_t> modules = 0;
    std::optional<uint64_t> graphs;
    if (options->cuda_graphs && !device.is_cpu()) {
      graphs = modules++;
    }
    return new spawn_module{std::move(module), device, autocast, layers, graphs};
  });
}

size_t module_layers(const spawn_module *module) { return module->layers; }

void module_device_bytes(const spawn_module *module, int64_t *now, int64_t *most) {
  char *message = nullptr;
  *now = *most = 0;
  guarded<bool>(&message, [&] {
    if (!module->device.is_cpu()) {
      auto stats = at::getDeviceAllocator(module->device.type())->getDeviceStats(module->device.index());
      const auto &all = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
      *now = all.current;
      *most = all.peak;
    }
    return true;
  });
  free(message);
}

void module_empty_cache(const spawn_module *module) {
  char *message = nullptr;
  guarded<bool>(&message, [&] {
    if (!module->device.is_cpu()) {
      at::getDeviceAllocator(module->device.type())->emptyCache();
    }
    return true;
  });
  free(message);
}

void module_free(spawn_module *module) { delete module; }

spawn_outputs *module_forward(spawn_module *module, const spawn_input *inputs, size_t count, char **message) {
  return guarded<spawn_outputs *>(message, [&] {
    c10::InferenceMode guard;
    c10::OptionalStreamGuard stream;
    if (!module->device.is_cpu()) {
      stream.reset_stream(own_stream(module->device));
    }
    Autocast autocast(module->device, module->autocast);
    std::vector<at::Tensor> arguments;
    arguments.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      arguments.push_back(view(inputs[i], module->device));
    }
    auto outputs = std::make_unique<spawn_outputs>();
    outputs->tensors = module->graphs ? call_recorded(*module, arguments) : call(*module, arguments);
    for (auto &tensor : outputs->tensors) {
      tensor = tensor.to(at::kCPU, at::kFloat).contiguous();
    }
    return outputs.release();
  });
}

size_t outputs_count(const spawn_outputs *outputs) { return outputs->tensors.size(); }

bool outputs_get(const spawn_outputs *outputs, size_t index, spawn_output *output) {
  if (index >= outputs->tensors.size()) {
    return false;
  }
  const auto &tensor = outputs->tensors[index];
  *output = {tensor.const_data_ptr<float>(), tensor.sizes().data(), static_cast<size_t>(tensor.dim())};
  return true;
}

void outputs_free(spawn_outputs *outputs) { delete outputs; }

void message_free(char *message) { free(message); }

const char *version(char **message) {
  return guarded<const char *>(message, [] {
    const uint64_t opened = aoti_torch_abi_version();
    if (opened != TORCH_ABI_VERSION) {
      const auto part = [&](int shift) { return std::to_string(opened >> shift & 0xff); };
      throw std::runtime_error("libtorch " + part(56) + "." + part(48) + "." + part(40) + " was opened, " TORCH_VERSION " was there at build time");
    }
    return TORCH_VERSION;
  });
}

bool has_cuda_graphs() { return CudaGraph::available(); }

int32_t cuda_devices(char **message) {
  return guarded<int32_t>(message, [] { return static_cast<int32_t>(torch::cuda::device_count()); });
}

int32_t set_threads(int32_t intra, int32_t inter, char **message) {
  return guarded<int32_t>(message, [&] {
    at::set_num_threads(intra);
    at::set_num_interop_threads(inter);
    return at::get_num_threads();
  });
}

} // namespace

const spawn_functions spawn_torch = {
    module_load,   module_layers, module_device_bytes, module_empty_cache, module_free,      module_forward, outputs_count,
    outputs_get,   outputs_free,  message_free,        version,            has_cuda_graphs,  cuda_devices,   set_threads,
};
