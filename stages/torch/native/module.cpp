#include "module.h"
#include "linear.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

struct spawn_module {
  torch::jit::Module module;
  at::Device device;
  size_t linears;
};

struct spawn_outputs {
  std::vector<at::Tensor> tensors;
};

namespace {

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

at::Tensor view(const spawn_input &input, const at::Device &device) {
  // Never written to: a module that changed its inputs in place could not be run twice on the same record.
  auto *data = const_cast<void *>(input.data);
  auto tensor = at::from_blob(data, at::IntArrayRef(input.shape, input.axes), at::TensorOptions(scalar_type(input.dtype)));
  return device.is_cpu() ? tensor : tensor.to(device);
}

void collect(const c10::IValue &value, std::vector<at::Tensor> &into) {
  if (value.isTensor()) {
    into.push_back(value.toTensor().to(at::kCPU, at::kFloat).contiguous());
  } else if (value.isTuple()) {
    for (const auto &element : value.toTupleRef().elements()) {
      collect(element, into);
    }
  } else {
    throw std::invalid_argument("the module's answer holds a " + value.tagKind() + ", not only tensors");
  }
}

} // namespace

spawn_module *spawn_module_load(const char *path, const spawn_options *options, char **message) {
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
    if (options->optimise) {
      module = torch::jit::optimize_for_inference(module);
    }
    size_t linears = 0;
    if (options->int8) {
      if (!device.is_cpu()) {
        throw std::invalid_argument("dtype int8 runs on the CPU; use the f32 model on a GPU");
      }
      linears = linear_by_int8(*module.get_method("forward").graph());
      if (linears == 0) {
        throw std::invalid_argument("dtype int8: the module has no linear layer with constant f32 weights");
      }
    } else if (options->onednn && device.is_cpu()) {
      linears = linear_by_onednn(*module.get_method("forward").graph());
    }
    return new spawn_module{std::move(module), device, linears};
  });
}

size_t spawn_module_linears(const spawn_module *module) { return module->linears; }

void spawn_module_free(spawn_module *module) { delete module; }

spawn_outputs *spawn_module_forward(spawn_module *module, const spawn_input *inputs, size_t count, char **message) {
  return guarded<spawn_outputs *>(message, [&] {
    c10::InferenceMode guard;
    std::vector<c10::IValue> arguments;
    arguments.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      arguments.emplace_back(view(inputs[i], module->device));
    }
    auto outputs = std::make_unique<spawn_outputs>();
    collect(module->module.forward(std::move(arguments)), outputs->tensors);
    return outputs.release();
  });
}

size_t spawn_outputs_count(const spawn_outputs *outputs) { return outputs->tensors.size(); }

bool spawn_outputs_get(const spawn_outputs *outputs, size_t index, spawn_output *output) {
  if (index >= outputs->tensors.size()) {
    return false;
  }
  const auto &tensor = outputs->tensors[index];
  *output = {tensor.const_data_ptr<float>(), tensor.sizes().data(), static_cast<size_t>(tensor.dim())};
  return true;
}

void spawn_outputs_free(spawn_outputs *outputs) { delete outputs; }

void spawn_message_free(char *message) { free(message); }

bool spawn_set_threads(int32_t intra, int32_t inter, char **message) {
  return guarded<bool>(message, [&] {
    at::set_num_threads(intra);
    at::set_num_interop_threads(inter);
    return true;
  });
}

const char *spawn_torch_version() { return TORCH_VERSION; }
